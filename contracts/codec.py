"""Calls, logs and custom errors by the names in a contract's ABI. Where names are known, use `contracts.bindings`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import contracts
from contracts import abi
from contracts.bindings import decode_error

ERROR_SELECTOR = abi.selector("Error(string)")
PANIC_SELECTOR = abi.selector("Panic(uint256)")

PANIC_REASONS = {
    0x01: "an assertion failed",
    0x11: "arithmetic overflow or underflow",
    0x12: "division by zero",
    0x21: "a number that is no member of its enum",
    0x22: "damaged storage",
    0x31: "taking from an empty array",
    0x32: "an index beyond the end",
    0x41: "too much memory",
    0x51: "a call of nothing",
}
"""The compiler's own panics; 0x00 and unknown codes are given as they are."""


@dataclass(frozen=True, slots=True)
class DecodedLog:
    """A log as its event's name and arguments."""

    name: str
    arguments: Mapping[str, Any]


def encode_call(contract: str, function: str, arguments: Sequence[object]) -> bytes:
    """Return the calldata of `function` (a name, or a full signature where it is overloaded).

    Raises KeyError if there is no such function, ValueError if the name means several or an argument does not fit.
    """
    return abi.encode_call(abi.signature(_entry(contract, "function", function)), arguments)


def decode_result(contract: str, function: str, data: bytes) -> tuple[Any, ...]:
    """Decode what a call of `function` returned; raise ValueError if it is malformed."""
    entry = _entry(contract, "function", function)
    return abi.decode([abi.canonical_type(output) for output in entry["outputs"]], data)


def creation_code(contract: str, arguments: Sequence[object]) -> bytes:
    """Return the code that deploys `contract` with these constructor arguments."""
    artifact = contracts.load(contract)
    inputs: list[dict[str, Any]] = next(
        (entry["inputs"] for entry in artifact.abi if entry["type"] == "constructor"), []
    )
    return artifact.bytecode + abi.encode([abi.canonical_type(entry) for entry in inputs], arguments)


@cache
def event_topics(contract: str) -> Mapping[bytes, str]:
    """Return the events of `contract`: first topic to signature. The cache holds one entry per contract of ours."""
    return {
        abi.topic(abi.signature(entry)): abi.signature(entry)
        for entry in contracts.load(contract).abi
        if entry["type"] == "event"
    }


def decode_log(contract: str, topics: Sequence[bytes], data: bytes) -> DecodedLog:
    """Decode a log of `contract`; raise ValueError if it is none of its events or is malformed.

    Indexed dynamic arguments are only their hash and are left out.
    """
    found = event_topics(contract).get(topics[0]) if topics else None
    if found is None:
        raise ValueError(f"not an event of {contract}")
    entry = _entry(contract, "event", found)
    name = entry["name"]
    indexed = [argument for argument in entry["inputs"] if argument["indexed"]]
    plain = [argument for argument in entry["inputs"] if not argument["indexed"]]
    if len(topics) != 1 + len(indexed):
        raise ValueError(f"{name}: expected {len(indexed)} indexed arguments, got {len(topics) - 1}")
    values = dict(
        zip(
            (argument["name"] for argument in plain),
            abi.decode([abi.canonical_type(argument) for argument in plain], data),
            strict=True,
        )
    )
    for argument, topic in zip(indexed, topics[1:], strict=True):
        if not abi.is_hashed_when_indexed(abi.canonical_type(argument)):
            (values[argument["name"]],) = abi.decode([argument["type"]], topic)
    return DecodedLog(name, values)


def describe_revert(data: bytes, message: str) -> str:
    """Return why a call was reverted, in the contract's own words: the custom error's name and values.

    `message` is what the endpoint said; it is the answer where the data says nothing.
    """
    if len(data) < abi.SELECTOR_BYTES:
        return message
    selector, arguments = data[: abi.SELECTOR_BYTES], data[abi.SELECTOR_BYTES :]
    try:
        if selector == ERROR_SELECTOR:
            return str(abi.decode(["string"], arguments)[0])
        if selector == PANIC_SELECTOR:
            code = abi.decode(["uint256"], arguments)[0]
            reason = PANIC_REASONS.get(code)
            return f"Panic 0x{code:02x}" + (f": {reason}" if reason else "")
        error = decode_error(data)
    except ValueError:
        return message
    return f"{message} (unknown error 0x{selector.hex()})" if error is None else str(error)


def _entry(contract: str, kind: str, name: str) -> dict[str, Any]:
    found = [
        entry
        for entry in contracts.load(contract).abi
        if entry["type"] == kind and name in (entry["name"], abi.signature(entry))
    ]
    if not found:
        raise KeyError(f"{contract} has no {kind} {name}")
    if len(found) > 1:
        raise ValueError(f"{contract} has several {kind}s {name}: {', '.join(abi.signature(entry) for entry in found)}")
    return found[0]
