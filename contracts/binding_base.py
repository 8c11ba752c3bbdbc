"""What generated bindings are made of: calls, views, events and errors of a contract.

Pure: a binding makes bytes and reads bytes. Where a contract stands and who sends to it is its user's business.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, Self, TypeVar

from contracts import abi

Result = TypeVar("Result")
EventT = TypeVar("EventT", bound="ContractEvent")
ErrorT = TypeVar("ErrorT", bound="RevertReason")


@dataclass(frozen=True, slots=True)
class Call:
    """One transaction to a contract."""

    contract: str
    function: str
    """The function's Solidity signature."""
    calldata: bytes
    value: int = 0
    """Wei that travel along; only payable functions take any."""


@dataclass(frozen=True, slots=True)
class ViewCall(Generic[Result]):
    """A question to a contract, and how to read its answer."""

    contract: str
    function: str
    """The function's Solidity signature."""
    calldata: bytes
    decode: Callable[[bytes], Result]
    """Reads what the call returned; raises ValueError if it is malformed."""


class ContractEvent(ABC):
    """A log of a contract."""

    __slots__ = ()
    SIGNATURE: ClassVar[str]
    TOPIC: ClassVar[bytes]
    """First topic of its logs."""

    @classmethod
    @abstractmethod
    def decode(cls, topics: Sequence[bytes], data: bytes) -> Self:
        """Decode a log; raise ValueError if it is of another event or malformed."""


class RevertReason(ABC):
    """Why a contract refused a call. `str` of it is for people."""

    __slots__ = ()
    SIGNATURE: ClassVar[str]
    SELECTOR: ClassVar[bytes]
    """First bytes of its revert data."""

    @classmethod
    @abstractmethod
    def decode(cls, data: bytes) -> Self:
        """Decode revert data; raise ValueError if it is of another error or malformed."""

    def __str__(self) -> str:
        """`InsufficientCollateral: wanted 5, available 3`."""
        name = self.SIGNATURE.partition("(")[0]
        words = in_words(self)
        return f"{name}: {words}" if words else name


def make_call(contract: str, function: str, arguments: Sequence[object], value: int = 0) -> Call:
    """Return a transaction; raise ValueError if an argument does not fit its type."""
    return Call(contract, function, abi.encode_call(function, arguments), value)


def make_view(
    contract: str, function: str, arguments: Sequence[object], decode: Callable[[bytes], Result]
) -> ViewCall[Result]:
    """Return a question; raise ValueError if an argument does not fit its type."""
    return ViewCall(contract, function, abi.encode_call(function, arguments), decode)


def log_values(
    event: type[ContractEvent],
    indexed_types: Sequence[str],
    plain_types: Sequence[str],
    topics: Sequence[bytes],
    data: bytes,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return a log's indexed and plain values; raise ValueError if it is of another event or malformed."""
    if not topics or topics[0] != event.TOPIC:
        raise ValueError(f"not a log of {event.SIGNATURE}")
    if len(topics) != 1 + len(indexed_types):
        raise ValueError(f"{event.SIGNATURE}: expected {len(indexed_types)} indexed arguments, got {len(topics) - 1}")
    if any(len(topic) != abi.WORD_BYTES for topic in topics):
        raise ValueError(f"{event.SIGNATURE}: a topic is not {abi.WORD_BYTES} bytes long")
    return abi.decode(indexed_types, b"".join(topics[1:])), abi.decode(plain_types, data)


def error_values(error: type[RevertReason], data: bytes) -> tuple[Any, ...]:
    """Return an error's arguments; raise ValueError if the data is of another error or malformed."""
    if data[: abi.SELECTOR_BYTES] != error.SELECTOR:
        raise ValueError(f"not revert data of {error.SIGNATURE}")
    return abi.decode(abi.argument_types(error.SIGNATURE), data[abi.SELECTOR_BYTES :])


def decode_event(contract: str, events: Mapping[bytes, type[EventT]], topics: Sequence[bytes], data: bytes) -> EventT:
    """Decode a log with the event that its first topic names; raise ValueError if there is none or it is malformed."""
    event = events.get(topics[0]) if topics else None
    if event is None:
        raise ValueError(f"not an event of {contract}")
    return event.decode(topics, data)


def decode_error(errors: Mapping[bytes, type[ErrorT]], data: bytes) -> ErrorT | None:
    """Decode revert data, or return None for an error that is not in the table; raise ValueError if malformed."""
    error = errors.get(data[: abi.SELECTOR_BYTES])
    return None if error is None else error.decode(data)


def in_words(record: Any) -> str:
    """Return a dataclass's fields and values as a person would say them: `wanted 5, available 3`."""
    return ", ".join(
        f"{field.name.strip('_').replace('_', ' ')} {_value_in_words(getattr(record, field.name))}"
        for field in fields(record)
    )


def _value_in_words(value: object) -> str:
    match value:
        case bytes():
            return "0x" + value.hex()
        case Enum():
            return value.name
        case tuple():
            return "[" + ", ".join(_value_in_words(item) for item in value) + "]"
        case _ if is_dataclass(value) and not isinstance(value, type):
            return f"({in_words(value)})"
        case _:
            return str(value)
