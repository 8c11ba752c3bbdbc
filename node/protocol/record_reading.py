"""Reading a record of somebody else's with long lists in it, field by field and a slice at a time.

*Detail.* Whoever reads says which fields are long, and by what each is read (`Part`); all others are read by their
type, each in one piece. What comes out is what the codec makes of the same bytes, but for one thing: entries of lists
have no fields that nobody knows, so that none but the codec's fast path reads thousands of them.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import SchemaError
from node.protocol.slices import Slices

Record = TypeVar("Record")
Part = Callable[[CanonicalReader], Slices[Any]]
"""Reads the value of one field. Raises SchemaError."""
ITEMS_MAX = 2**32 - 1
"""No list has more."""
NO_PARTS: Mapping[str, Part] = {}


def read_record(
    reader: CanonicalReader, record_type: type[Record], parts: Mapping[str, Part] = NO_PARTS
) -> Slices[Record]:
    """Return the next value as a record, its long fields read by `parts`, which may read what is no field of it, too.
    Raises SchemaError.
    """
    known, found = _field_types(cast(Hashable, record_type)), dict[str, Any]()
    for name in reader.fields():
        if name in parts:
            found[name] = yield from parts[name](reader)
        elif name in known:
            found[name] = reader.record(known[name], f"{record_type.__name__}.{name}")
        else:
            reader.value()
    for name in known:
        if name not in found:
            raise SchemaError(f"{record_type.__name__}.{name}: missing")
    try:
        return record_type(**{name: found[name] for name in known})
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(f"{record_type.__name__}: {error}") from error


def read_entries(
    reader: CanonicalReader, entry_type: type[Record], count_max: int, name: str
) -> Slices[tuple[Record, ...]]:
    """Return a list of at most `count_max` entries, called `name` in errors. Raises SchemaError."""
    left = reader.items()
    if left > count_max:
        raise SchemaError(f"{left} {name}, at most {count_max}")
    found: list[Record] = []
    while left:
        some = reader.records(entry_type, left)
        found += some
        left -= len(some)
        yield
    return tuple(found)


def entries(entry_type: type, count_max: int, name: str) -> Part:
    """Return what reads a list as `read_entries` does."""
    return lambda reader: read_entries(reader, entry_type, count_max, name)


def whole(record_type: type, parts: Mapping[str, Part]) -> Part:
    """Return what reads a record as `read_record` does."""
    return lambda reader: read_record(reader, record_type, parts)


def at_once(read: Callable[[CanonicalReader], Any]) -> Part:
    """Return what reads something that is cheap however long it is."""

    def part(reader: CanonicalReader) -> Slices[Any]:
        yield from ()
        return read(reader)

    return part


def or_none(part: Part) -> Part:
    """Return what reads None, or something by `part`."""

    def read(reader: CanonicalReader) -> Slices[Any]:
        if reader.is_none():
            return None
        return (yield from part(reader))

    return read


def every_list(record_type: type) -> dict[str, Part]:
    """Return what reads each list of a record, and of the records in it, however many entries it has: of what somebody
    wants to see and nobody has bounded.
    """
    parts: dict[str, Part] = {}
    for name, annotation in _field_types(cast(Hashable, record_type)).items():
        if dataclasses.is_dataclass(annotation):
            parts[name] = whole(cast(type, annotation), every_list(cast(type, annotation)))
        elif get_origin(annotation) is tuple and get_args(annotation)[-1] is Ellipsis:
            parts[name] = entries(get_args(annotation)[0], ITEMS_MAX, name)
    return parts


@functools.cache
def _field_types(record_type: Hashable) -> Mapping[str, Any]:
    return get_type_hints(cast(type, record_type))
