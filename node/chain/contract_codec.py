"""ABI encoding of calls, decoding of logs and of custom errors. web3 is used as a codec only; it never connects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak
from web3 import Web3
from web3.contract import Contract

import contracts

ERROR_SELECTOR = keccak(b"Error(string)")[:4]
PANIC_SELECTOR = keccak(b"Panic(uint256)")[:4]


@dataclass(frozen=True, slots=True)
class DecodedLog:
    """A log as its event's name and arguments."""

    name: str
    arguments: Mapping[str, Any]


@cache
def _contract(name: str) -> Contract:
    factory: Any = Web3().eth.contract(abi=contracts.load(name).abi)
    return factory  # type: ignore[no-any-return]


def encode_call(contract: str, function: str, arguments: Sequence[object]) -> bytes:
    """Return the calldata of `function` (a name, or a full signature where it is overloaded)."""
    encoded: str = _contract(contract).encode_abi(function, args=list(arguments))
    return bytes.fromhex(encoded.removeprefix("0x"))


def decode_result(contract: str, function: str, data: bytes) -> tuple[Any, ...]:
    """Decode what a call of `function` returned."""
    entry = _entry(contract, "function", function)
    return abi_decode([_type(output) for output in entry["outputs"]], data)


def creation_code(contract: str, arguments: Sequence[object]) -> bytes:
    """Return the code that deploys `contract` with these constructor arguments."""
    artifact = contracts.load(contract)
    inputs: list[dict[str, Any]] = next(
        (entry["inputs"] for entry in artifact.abi if entry["type"] == "constructor"), []
    )
    return artifact.bytecode + abi_encode([_type(entry) for entry in inputs], list(arguments))


def event_topics(contract: str) -> dict[bytes, str]:
    """Return the events of `contract`: first topic to name."""
    return {
        keccak(_signature(entry).encode()): entry["name"]
        for entry in contracts.load(contract).abi
        if entry["type"] == "event"
    }


def decode_log(contract: str, topics: Sequence[bytes], data: bytes) -> DecodedLog:
    """Decode a log of `contract`; raise ValueError if it is none of its events or is malformed.

    Indexed dynamic arguments are only their hash and are left out.
    """
    name = event_topics(contract).get(topics[0]) if topics else None
    if name is None:
        raise ValueError(f"not an event of {contract}")
    inputs = _entry(contract, "event", name)["inputs"]
    indexed = [entry for entry in inputs if entry["indexed"]]
    plain = [entry for entry in inputs if not entry["indexed"]]
    if len(topics) != 1 + len(indexed):
        raise ValueError(f"{name}: expected {len(indexed)} indexed arguments, got {len(topics) - 1}")
    try:
        values = dict(zip((entry["name"] for entry in plain), abi_decode([_type(e) for e in plain], data), strict=True))
        for entry, topic in zip(indexed, topics[1:], strict=True):
            if entry["type"] not in ("string", "bytes"):
                (values[entry["name"]],) = abi_decode([entry["type"]], topic)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {error}") from error
    return DecodedLog(name, values)


def describe_revert(data: bytes, message: str) -> str:
    """Return why a call was reverted, in the contract's own words: the custom error's name and values."""
    if len(data) < len(ERROR_SELECTOR):
        return message
    selector, arguments = data[:4], data[4:]
    try:
        if selector == ERROR_SELECTOR:
            return str(abi_decode(["string"], arguments)[0])
        if selector == PANIC_SELECTOR:
            return f"Panic(0x{abi_decode(['uint256'], arguments)[0]:02x})"
        entry = _custom_errors().get(selector)
        if entry is None:
            return f"{message} (unknown error 0x{selector.hex()})"
        values = abi_decode([_type(argument) for argument in entry["inputs"]], arguments)
    except (DecodingError, OverflowError, UnicodeDecodeError):
        return message
    named = zip((argument["name"] for argument in entry["inputs"]), values, strict=True)
    return f"{entry['name']}({', '.join(f'{name}={_readable(value)}' for name, value in named)})"


@cache
def _custom_errors() -> dict[bytes, dict[str, Any]]:
    return {
        keccak(_signature(entry).encode())[:4]: entry
        for name in contracts.names()
        for entry in contracts.load(name).abi
        if entry["type"] == "error"
    }


def _entry(contract: str, kind: str, name: str) -> dict[str, Any]:
    for entry in contracts.load(contract).abi:
        if entry["type"] == kind and name in (entry["name"], _signature(entry)):
            return entry
    raise KeyError(f"{contract} has no {kind} {name}")


def _signature(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']}({','.join(_type(argument) for argument in entry['inputs'])})"


def _type(entry: Mapping[str, Any]) -> str:
    """Return an argument's type with tuples written out, as signatures and eth_abi have it."""
    if not entry["type"].startswith("tuple"):
        return str(entry["type"])
    inner = ",".join(_type(component) for component in entry["components"])
    return f"({inner}){entry['type'].removeprefix('tuple')}"


def _readable(value: object) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_readable(item) for item in value) + "]"
    return str(value)
