"""Transactions as they travel: type 2 (EIP-1559), encoded by RLP and signed.

The library that could do this loads half a second of cryptography that nothing here needs, at every start.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from coincurve import PrivateKey
from eth_hash.auto import keccak

from node.protocol.identifiers import Hash32

TYPE = 2
ADDRESS_BYTES = 20
SHORT_BYTES_MAX = 55
"""Longer items have the length of their length before them."""

Item = bytes | Sequence["Item"]
"""What RLP encodes: bytes, and lists of items."""


def sign_transaction(key: PrivateKey, fields: Mapping[str, Any]) -> tuple[Hash32, bytes]:
    """Return hash and raw bytes of a signed transaction.

    `fields` has the names of JSON-RPC: chainId, nonce, maxPriorityFeePerGas, maxFeePerGas, gas, value, data, and `to`
    unless it creates a contract. Raises ValueError or KeyError for fields that make no transaction of type 2.
    """
    if fields.get("type") != TYPE:
        raise ValueError(f"transactions of type {fields.get('type')!r} are not signed here")
    body: list[Item] = [
        _number(fields["chainId"]),
        _number(fields["nonce"]),
        _number(fields["maxPriorityFeePerGas"]),
        _number(fields["maxFeePerGas"]),
        _number(fields["gas"]),
        _recipient(fields.get("to")),
        _number(fields["value"]),
        bytes(fields["data"]),
        [],  # no access list
    ]
    marker = bytes([TYPE])
    signature = key.sign_recoverable(keccak(marker + encode(body)), hasher=None)
    halves = (signature[:32], signature[32:64])
    proof: list[Item] = [_number(signature[64]), *(_number(int.from_bytes(half)) for half in halves)]
    raw = marker + encode([*body, *proof])
    return Hash32(keccak(raw)), raw


def encode(item: Item) -> bytes:
    """Return the RLP of an item."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _head(0x80, len(item)) + item
    inner = b"".join(encode(part) for part in item)
    return _head(0xC0, len(inner)) + inner


def _head(offset: int, size: int) -> bytes:
    if size <= SHORT_BYTES_MAX:
        return bytes([offset + size])
    length = _number(size)
    return bytes([offset + SHORT_BYTES_MAX + len(length)]) + length


def _number(value: int) -> bytes:
    """Big-endian without leading zeros; nothing for 0."""
    if value < 0:
        raise ValueError(f"{value} is below 0")
    return value.to_bytes((value.bit_length() + 7) // 8)


def _recipient(address: str | None) -> bytes:
    if address is None:
        return b""
    raw = bytes.fromhex(address.removeprefix("0x"))
    if len(raw) != ADDRESS_BYTES:
        raise ValueError(f"{address} is no address")
    return raw
