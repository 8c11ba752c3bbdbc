"""The codec's fast path: what to do with a record type is worked out once, not for every record.

*Detail.* It handles records that are as they should be and gives up (`UnusualError`) on all else: wrong types, unknown
or missing fields, numbers without a canonical form. The slow path then decides, and words the error. So there is one
meaning, and what is done here may only be faster (tests/unit/protocol/test_compiled.py compares the two).
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Hashable
from enum import Enum
from operator import attrgetter
from typing import Any, NewType, Union, cast, get_args, get_origin, get_type_hints

import msgpack

from node.protocol.identifiers import TokenAmount

SCALARS = frozenset({int, str, bytes, bool, type(None)})
AMOUNT_DIGITS_MAX = 78
"""2**256 has 78 decimal digits."""

Write = Callable[[Any], Any]
Read = Callable[[Any], Any]


class UnusualError(Exception):
    """Left to the slow path."""


def pack(record: object) -> bytes:
    """Return the canonical bytes of a record. Raises UnusualError."""
    try:
        return cast(bytes, msgpack.packb(_writer(cast(Hashable, type(record)))(record), use_bin_type=True))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UnusualError from error


def unpack(record_type: type, data: bytes) -> Any:
    """Return the record whose canonical bytes are `data`. Raises UnusualError.

    Canonical are bytes that packing gives again, with the keys of each map in order; maps keep the order they came in,
    and the readers compare it with that of their fields.
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
        if msgpack.packb(value, use_bin_type=True) != data:
            raise UnusualError
        return _reader(cast(Hashable, record_type))(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise UnusualError from error


def read_value(record_type: type, value: object) -> Any:
    """Return the record of a value that msgpack read and would write again as it was. Raises UnusualError, as well if
    the keys of a map are not in order.
    """
    try:
        return _reader(cast(Hashable, record_type))(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UnusualError from error


@functools.cache
def _writer(annotation: Hashable) -> Write:
    """Return what turns a value into its canonical form, with the keys of maps in order."""
    known: Any = annotation
    origin = get_origin(known)
    if known is TokenAmount:
        return str
    if isinstance(known, NewType):
        return _writer(known.__supertype__)
    if origin is tuple:
        return _items_writer(get_args(known))
    if origin in (Union, types.UnionType):
        inner = _writer(_without_none(known))
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(known):
        return _record_writer(cast(type, known))
    if isinstance(known, type) and issubclass(known, Enum):
        return lambda value: _scalar(value.value)
    return _scalar


def _scalar(value: Any) -> Any:
    if type(value) not in SCALARS:
        raise UnusualError
    return value


def _items_writer(arguments: tuple[Any, ...]) -> Write:
    if arguments[-1] is not Ellipsis:
        writers = [_writer(argument) for argument in arguments]
        return lambda value: [write(item) for write, item in zip(writers, value, strict=True)]
    write_item = _writer(arguments[0])
    if write_item is not _scalar:
        return lambda value: [write_item(item) for item in value]

    def write(value: Any) -> list[Any]:
        if not SCALARS.issuperset(map(type, value)):
            raise UnusualError
        return list(value)

    return write


def _record_writer(record_type: type) -> Write:
    fields = _sorted_fields(record_type)
    names = [name for name, _ in fields]
    get = _getter(names)
    scalar_names = {name for name, annotation in fields if _writer(annotation) is _scalar}
    others = [(name, _writer(annotation)) for name, annotation in fields if name not in scalar_names]
    get_scalars = _getter([name for name in names if name in scalar_names])

    def write(record: Any) -> dict[str, Any]:
        if type(record) is not record_type or not SCALARS.issuperset(map(type, get_scalars(record))):
            raise UnusualError
        value = dict(zip(names, get(record), strict=True))
        for name, write_field in others:
            value[name] = write_field(value[name])
        return value

    return write


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return cast(Callable[[Any], tuple[Any, ...]], attrgetter(*names))
    return lambda record: tuple(getattr(record, name) for name in names)


@functools.cache
def _reader(annotation: Hashable) -> Read:
    """Return what turns a canonical value into a value of `annotation`."""
    known: Any = annotation
    origin = get_origin(known)
    if known is TokenAmount:
        return _read_amount
    if isinstance(known, NewType):
        return _reader(known.__supertype__)
    if origin is tuple:
        return _items_reader(get_args(known))
    if origin in (Union, types.UnionType):
        inner = _reader(_without_none(known))
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(known):
        return _record_reader(cast(type, known))
    if isinstance(known, type) and issubclass(known, Enum):
        return known
    return _exactly(known)


def _exactly(kind: type) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:  # a bool is not an int here
            raise UnusualError
        return value

    return read


def _read_amount(value: Any) -> TokenAmount:
    if type(value) is not str or not value.isascii() or not value.isdigit() or len(value) > AMOUNT_DIGITS_MAX:
        raise UnusualError
    if value != "0" and value.startswith("0"):
        raise UnusualError
    return TokenAmount(int(value))


def _items_reader(arguments: tuple[Any, ...]) -> Read:
    many = arguments[-1] is Ellipsis
    item_type = arguments[0].__supertype__ if isinstance(arguments[0], NewType) else arguments[0]
    readers = [_reader(argument) for argument in (arguments[:1] if many else arguments)]

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise UnusualError
        if not many:
            return tuple(read_item(item) for read_item, item in zip(readers, value, strict=True))
        if item_type in SCALARS:
            if value and {*map(type, value)} != {item_type}:
                raise UnusualError
            return tuple(value)
        return tuple(map(readers[0], value))

    return read


def _record_reader(record_type: type) -> Read:
    fields = _sorted_fields(record_type)
    names = [name for name, _ in fields]
    readers = [(name, _reader(annotation)) for name, annotation in fields]

    def read(value: Any) -> Any:
        if type(value) is not dict or list(value) != names:
            raise UnusualError
        return record_type(**{name: read_field(value[name]) for name, read_field in readers})

    return read


def _sorted_fields(record_type: type) -> list[tuple[str, Any]]:
    """Return names and annotations in the order of canonical maps."""
    hints = get_type_hints(record_type)
    names = [field.name for field in dataclasses.fields(record_type)]
    return [(name, hints[name]) for name in sorted(names, key=lambda name: name.encode())]


def _without_none(annotation: Any) -> Any:
    (inner,) = (argument for argument in get_args(annotation) if argument is not type(None))
    return inner
