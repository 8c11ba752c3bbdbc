"""Records to canonical values and back, strictly typed: what does not match a record's annotations is refused.

A record is a frozen dataclass whose fields are annotated with: bool, int, str, bytes, a NewType of these, an Enum,
another record, `X | None`, `tuple[X, ...]` or `tuple[X, Y]`. TokenAmount fields travel as decimal text because amounts
exceed 64 bits. Unknown keys of a map are ignored on reading, so that a later version may add fields; but only in what
is short (SLOW_BYTES_MAX). What is longer is exactly what this version writes, or is refused: what nobody knows costs
many times as much to read, and whoever wrote it has not been judged yet.
"""

import dataclasses
import functools
import types
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from node.protocol.canonical import CanonicalError, CanonicalValue, decode, encode
from node.protocol.compiled import AMOUNT_DIGITS_MAX, UnusualError, pack, unpack
from node.protocol.identifiers import TokenAmount

Record = TypeVar("Record")

SLOW_BYTES_MAX = 4 * 1024
"""What is longer is read by the fast path alone, which refuses what it does not know: the slow one takes up to 10 µs a
byte of somebody else's choice, so that 64 KiB would hold up a node for half a second."""
ARRAY_OF_TWO, ARRAY_OF_FOUR = b"\x92", b"\x94"
"""As MessagePack begins them."""


class SchemaError(ValueError):
    """A value does not fit the record it claims to be; the message names the field."""


def to_value(record: object) -> CanonicalValue:
    """Return the canonical value (maps, arrays, scalars) of `record`."""
    return {
        name: _outgoing(annotation, getattr(record, name))
        for name, annotation in _fields(cast(Hashable, type(record))).items()
    }


def from_value(record_type: type[Record], value: CanonicalValue) -> Record:
    """Build a `record_type` from `value`.

    Raises SchemaError if a field is missing or of the wrong type, or if the record's own checks refuse it.
    """
    return _record(record_type, value, record_type.__name__)


def to_bytes(record: object) -> bytes:
    """Return the canonical bytes of `record`."""
    try:
        return pack(record)
    except UnusualError:
        return encode(to_value(record))


def tagged_bytes(tag: str, record: object) -> bytes:
    """Return the canonical bytes of the array of `tag` and `record`: what is hashed where records are signed."""
    return ARRAY_OF_TWO + encode(tag) + to_bytes(record)


def from_bytes(record_type: type[Record], data: bytes) -> Record:
    """Parse canonical bytes into a record; raise SchemaError on anything else, and on more than SLOW_BYTES_MAX bytes
    that this version would not write.
    """
    try:
        return cast(Record, unpack(record_type, data))
    except UnusualError as error:
        if len(data) > SLOW_BYTES_MAX:
            raise SchemaError(too_long_to_explain(record_type.__name__, len(data))) from error
        return _from_bytes_slowly(record_type, data)


def too_long_to_explain(name: str, size: int) -> str:
    """Return what is wrong with something long that the fast path does not read."""
    return f"{name}: {size} bytes that this version does not write; unknown is read up to {SLOW_BYTES_MAX} bytes only"


def typed(annotation: Any, value: CanonicalValue, path: str) -> Any:
    """Return what a canonical value is as a field that is annotated so. Raises SchemaError, which names `path`."""
    return _incoming(annotation, value, path)


def _from_bytes_slowly(record_type: type[Record], data: bytes) -> Record:
    try:
        return from_value(record_type, decode(data))
    except CanonicalError as error:
        raise SchemaError(f"{record_type.__name__}: {error}") from error


@functools.cache
def _fields(record_type: Hashable) -> dict[str, Any]:
    known = cast(type, record_type)  # typed Hashable because that is what the cache keys on
    hints = get_type_hints(known)
    return {field.name: hints[field.name] for field in dataclasses.fields(known)}


def _outgoing(annotation: Any, value: Any) -> CanonicalValue:
    if annotation is TokenAmount:
        return str(value)
    origin = get_origin(annotation)
    if origin is tuple:
        return [_outgoing(inner, item) for inner, item in zip(_item_types(annotation, len(value)), value, strict=True)]
    if origin in (Union, types.UnionType):
        return None if value is None else _outgoing(_without_none(annotation), value)
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return to_value(value)
    return value


def _incoming(annotation: Any, value: CanonicalValue, path: str) -> Any:
    if annotation is TokenAmount:
        return _amount(value, path)
    origin = get_origin(annotation)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SchemaError(f"{path}: expected an array, got {type(value).__name__}")
        inner_types = _item_types(annotation, len(value))
        if len(inner_types) != len(value):
            raise SchemaError(f"{path}: expected {len(inner_types)} items, got {len(value)}")
        pairs = enumerate(zip(inner_types, value, strict=True))
        return tuple(_incoming(inner, item, f"{path}[{index}]") for index, (inner, item) in pairs)
    if origin in (Union, types.UnionType):
        return None if value is None else _incoming(_without_none(annotation), value, path)
    if isinstance(annotation, NewType):
        return _incoming(annotation.__supertype__, value, path)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        try:
            return annotation(value)
        except ValueError as error:
            raise SchemaError(f"{path}: {error}") from error
    if dataclasses.is_dataclass(annotation):
        return _record(cast(type, annotation), value, path)
    if type(value) is not annotation:  # exact: a bool is not an int here
        raise SchemaError(f"{path}: expected {annotation.__name__}, got {type(value).__name__}")
    return value


def _record(record_type: type[Record], value: CanonicalValue, path: str) -> Record:
    if not isinstance(value, Mapping):
        raise SchemaError(f"{path}: expected a map, got {type(value).__name__}")
    arguments = {}
    for name, annotation in _fields(cast(Hashable, record_type)).items():
        if name not in value:
            raise SchemaError(f"{path}.{name}: missing")
        arguments[name] = _incoming(annotation, value[name], f"{path}.{name}")
    try:
        return record_type(**arguments)
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"{path}: {error}") from error


def _amount(value: CanonicalValue, path: str) -> TokenAmount:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > AMOUNT_DIGITS_MAX:
        raise SchemaError(f"{path}: expected a decimal amount")
    if value != "0" and value.startswith("0"):
        raise SchemaError(f"{path}: leading zero in an amount")
    return TokenAmount(int(value))


def _item_types(annotation: Any, length: int) -> list[Any]:
    """Return the types of a tuple's items: `tuple[X, ...]` has any number, `tuple[X, Y]` exactly two."""
    arguments = get_args(annotation)
    return [arguments[0]] * length if arguments[-1] is Ellipsis else list(arguments)


def _without_none(annotation: Any) -> Any:
    (inner,) = (argument for argument in get_args(annotation) if argument is not type(None))
    return inner
