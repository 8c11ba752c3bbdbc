"""ABI encoding and decoding of values: eth_abi, but exact in the length of bytes and with checksummed addresses."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from eth_abi.codec import ABICodec
from eth_abi.decoding import AddressDecoder
from eth_abi.encoding import AddressEncoder, BytesEncoder
from eth_abi.exceptions import DecodingError, EncodingError
from eth_abi.grammar import TupleType, parse
from eth_abi.registry import ABIRegistry, BaseEquals
from eth_abi.registry import registry as default_registry
from eth_hash.auto import keccak
from eth_utils.address import is_checksum_address, to_checksum_address

SELECTOR_BYTES = 4
WORD_BYTES = 32

SIGNATURES_CACHED_MAX = 1024
"""Signatures whose selector and types are remembered: several times those of all our contracts."""


ADDRESSES_CACHED_MAX = 4096
"""Addresses whose checksum is remembered: the same ones come in log after log, and each costs a hash."""


@lru_cache(maxsize=ADDRESSES_CACHED_MAX)
def _checksummed(address: bytes) -> Any:  # eth_utils' own type of address
    return to_checksum_address(address)


class _ExactBytesEncoder(BytesEncoder):
    """Refuses a short `bytes32`: eth_abi would fill it up with zeros, and a truncated root would be paid on."""

    def validate_value(self, value: object) -> None:
        super().validate_value(value)  # type: ignore[no-untyped-call] # eth_abi has no types here
        expected_bits: int | None = self.value_bit_size
        if isinstance(value, bytes | bytearray) and expected_bits is not None and len(value) * 8 != expected_bits:
            self.invalidate_value(value, msg=f"it has {len(value)} bytes, not {expected_bits // 8}")


class _ChecksumAddressEncoder(AddressEncoder):
    """Refuses an address whose checksum is wrong or missing: a mistyped one would be paid."""

    @classmethod
    def validate_value(cls, value: object) -> None:
        if not is_checksum_address(value):
            cls.invalidate_value(value, msg="it is not a checksummed address")


class _ChecksumAddressDecoder(AddressDecoder):
    """Gives addresses in the one form in which the daemon compares them."""

    decoder_fn: Any = staticmethod(_checksummed)


def _strict_codec() -> ABICodec:
    equals: Any = BaseEquals
    registry: ABIRegistry = default_registry.copy()  # type: ignore[no-untyped-call] # nor here
    registry.unregister_encoder("bytes<M>")
    registry.register_encoder(equals("bytes", with_sub=True), _ExactBytesEncoder, label="bytes<M>")
    registry.unregister("address")
    registry.register(equals("address"), _ChecksumAddressEncoder, _ChecksumAddressDecoder, label="address")
    return ABICodec(registry)


_CODEC = _strict_codec()


def canonical_type(argument: Mapping[str, Any]) -> str:
    """Return the type of an ABI's argument with tuples written out, as signatures and eth_abi have it."""
    if not argument["type"].startswith("tuple"):
        return str(argument["type"])
    inner = ",".join(canonical_type(component) for component in argument["components"])
    return f"({inner}){argument['type'].removeprefix('tuple')}"


def signature(entry: Mapping[str, Any]) -> str:
    """Return the signature of a function, event or error of an ABI: its name and the types it takes."""
    return f"{entry['name']}({','.join(canonical_type(argument) for argument in entry['inputs'])})"


def is_hashed_when_indexed(canonical: str) -> bool:
    """Tell whether an indexed argument of this type is in the log as its hash only."""
    return canonical in ("string", "bytes") or canonical.endswith((")", "]"))


def topic(signature: str) -> bytes:
    """Return the first topic of an event's logs."""
    return keccak(signature.encode())


@lru_cache(maxsize=SIGNATURES_CACHED_MAX)
def selector(signature: str) -> bytes:
    """Return the four bytes that name a function or an error, such as `deposit(address,uint256)`."""
    return keccak(signature.encode())[:SELECTOR_BYTES]


@lru_cache(maxsize=SIGNATURES_CACHED_MAX)
def argument_types(signature: str) -> tuple[str, ...]:
    """Return the types between the outer parentheses of a signature."""
    inner = signature[signature.index("(") :]
    if inner == "()":
        return ()
    parsed = parse(inner)
    if not isinstance(parsed, TupleType):
        raise ValueError(f"{signature} is not a signature")
    return tuple(component.to_type_str() for component in parsed.components)


def encode(types: Sequence[str], values: Sequence[object]) -> bytes:
    """Encode values; raise ValueError if one does not fit its type, or if there are too many or too few."""
    if len(types) != len(values):
        raise ValueError(f"({','.join(types)}) takes {len(types)} values, got {len(values)}")
    try:
        return _CODEC.encode(types, values)
    except (EncodingError, OverflowError) as error:
        raise ValueError(f"({','.join(types)}): {error}") from error


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Decode values that anybody may have sent; raise ValueError if the data is malformed."""
    try:
        return _CODEC.decode(types, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"({','.join(types)}): {error}") from error


def encode_call(signature: str, values: Sequence[object]) -> bytes:
    """Return the calldata of a function; raise ValueError if a value does not fit."""
    try:
        return selector(signature) + encode(argument_types(signature), values)
    except ValueError as error:
        raise ValueError(f"{signature.partition('(')[0]}{error}") from error
