"""Reading long canonical bytes of others a piece at a time, so that no node stalls over them.

*Purpose.* `codec.from_bytes` makes a record of bytes in one go: right for what is short. Lists of thousands of entries
that anybody may have written are read here, by whoever knows what may be in them, and between two pieces it looks at
the rest of the node (`slices.py`).

*Detail.* A value that is longer than a piece, or not all there, is refused before anything of it is made, so that what
a header claims takes no memory. What comes out is what the codec makes of the same bytes; nesting is counted from the
value that is read. As in the codec, what nobody knows is read while it is short: all of it together has
SLOW_BYTES_MAX bytes at most, with the names of fields.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from types import GenericAlias
from typing import Any, TypeVar, cast

import msgpack

from node.protocol.canonical import CanonicalError, CanonicalValue, encode
from node.protocol.codec import SLOW_BYTES_MAX, SchemaError, too_long_to_explain, typed
from node.protocol.compiled import UnusualError, read_value

Record = TypeVar("Record")
Scalar = TypeVar("Scalar", str, bytes)

FIELDS_MAX = 64
"""Of one map. No record has as many; each that nobody knows costs time and is kept for nothing."""
MALFORMED = (ValueError, RecursionError, msgpack.exceptions.UnpackException)
"""What msgpack raises of bytes."""
NONE = b"\xc0"
SHORT_TEXT = 0xA0
"""And its length, below 32, are the first byte of a short text."""
LENGTH_BYTES: dict[type, dict[bytes, int]] = {
    str: {b"\xd9": 1, b"\xda": 2, b"\xdb": 4},
    bytes: {b"\xc4": 1, b"\xc5": 2, b"\xc6": 4},
}
"""By the first byte of other texts, and of bytes: how many say their length."""
NOT_CANONICAL = "valid msgpack, but not in canonical form"


class CanonicalReader:
    """Reads canonical bytes from their beginning to their end, piece by piece.

    Each method reads what comes next, and raises SchemaError, which names the place, if that is anything else. After an
    error nothing more can be read.
    """

    def __init__(self, data: bytes, name: str, piece_bytes_max: int) -> None:
        """Errors call `data` by `name`. No value and no entry of a list that is read as such may be longer than
        `piece_bytes_max`.
        """
        self._data = data
        self._name = name
        self._piece_bytes_max = piece_bytes_max
        self._place = 0
        self._slow_left = SLOW_BYTES_MAX
        """Of what only the slow path reads."""

    @property
    def place(self) -> int:
        """How many bytes were read."""
        return self._place

    def fields(self) -> Iterator[str]:
        """Yield the name of each field of a map; whoever is given it reads the value before asking for the next."""
        begin, last = self._place, b""
        count = self._count("map", msgpack.Unpacker.read_map_header, msgpack.Packer.pack_map_header)
        if count > FIELDS_MAX:
            raise self._refused(f"{count} fields, at most {FIELDS_MAX}", begin)
        for number in range(count):
            place, name = self._place, self.value()
            if type(name) is not str or (number and name.encode() <= last):
                raise self._refused("names of fields are texts, each once and in order", place)
            last = name.encode()
            yield name

    def items(self) -> int:
        """Return how many items of a list follow."""
        return self._count("list", msgpack.Unpacker.read_array_header, msgpack.Packer.pack_array_header)

    def value(self) -> CanonicalValue:
        """Return the next value, whatever it is: a name, or what nobody knows. All of these together are short."""
        read = self._ahead(self._ends(1)[-1])
        self._spend(read)
        value = self._canonical(self._unpacked(read), read, self._place)
        self._place += len(read)
        return value

    def record(self, record_type: type[Record], name: str = "") -> Record:
        """Return the next value as a record, or as what else may be a field's type; fields of it that nobody knows are
        ignored while it is short. Errors call it by its type, or by `name`.
        """
        read = self._ahead(self._ends(1)[-1])
        value = self._unpacked(read)
        try:
            record = cast(Record, _at_once(record_type, value, read))
        except UnusualError:
            record = self._record(record_type, value, read, self._place, name)
        self._place += len(read)
        return record

    def scalar(self, kind: type[Scalar]) -> Scalar:
        """Return the next value, a text or bytes; of any length, for they cost no more than a copy or two."""
        first = self._ahead(1)
        if kind is str and first and SHORT_TEXT <= first[0] < SHORT_TEXT + 32:
            size = 1 + first[0] - SHORT_TEXT
        elif width := LENGTH_BYTES[kind].get(first, 0):
            size = 1 + width + int.from_bytes(self._ahead(1 + width)[1:])
        else:
            raise self._refused(f"no {kind.__name__} of MessagePack", self._place)
        read = self._ahead(size)
        if len(read) < size:
            raise self._refused("it ends too soon", self._place)
        value = self._canonical(self._unpacked(read), read, self._place)
        self._place += size
        return cast(Scalar, value)

    def is_none(self) -> bool:
        """Whether the next value is None, which is passed over if it is."""
        is_none = self._ahead(1) == NONE
        self._place += is_none
        return is_none

    def records(self, record_type: type[Record], count_max: int) -> Sequence[Record]:
        """Return the next items of a list as records: as many as a piece has, one at least and `count_max` at most.

        Records with fields that nobody knows are refused, so that only the fast path of the codec reads thousands.
        """
        ends = self._ends(count_max)
        read = self._ahead(ends[-1])
        as_list = msgpack.Packer().pack_array_header(len(ends)) + read
        values = self._unpacked(as_list)
        try:
            records = _at_once(cast(type, GenericAlias(tuple, (record_type, ...))), values, as_list)
        except UnusualError:
            for value, (begin, end) in zip(values, pairwise((0, *ends)), strict=True):
                if not _is_usual(record_type, value, read[begin:end]):
                    self._record(record_type, value, read[begin:end], self._place + begin)  # says what is wrong
                    break
            raise self._refused(f"a {_name(record_type)} with fields that nobody knows", self._place) from None
        self._place += len(read)
        return cast(Sequence[Record], records)

    def require_end(self) -> None:
        """Raise SchemaError if anything follows."""
        if self._place != len(self._data):
            raise self._refused("something follows the end", self._place)

    def _ahead(self, size: int) -> bytes:
        return self._data[self._place : self._place + size]

    def _unpacker(self) -> msgpack.Unpacker:
        """Return what has the next piece before it."""
        unpacker = msgpack.Unpacker(max_buffer_size=self._piece_bytes_max)
        unpacker.feed(self._ahead(self._piece_bytes_max))
        return unpacker

    def _count(
        self, kind: str, read: Callable[[msgpack.Unpacker], int], write: Callable[[msgpack.Packer, int], bytes]
    ) -> int:
        """Return how many fields or items the next header tells of."""
        unpacker = self._unpacker()
        try:
            count = read(unpacker)
        except MALFORMED as error:
            raise self._malformed(error, kind) from error
        if write(msgpack.Packer(), count) != self._ahead(unpacker.tell()):
            raise self._refused(NOT_CANONICAL, self._place)
        self._place += unpacker.tell()
        return count

    def _ends(self, count_max: int) -> list[int]:
        """Return where the next values end, counted from here: as many as a piece has, one at least."""
        unpacker = self._unpacker()
        ends: list[int] = []
        try:
            while len(ends) < count_max:
                unpacker.skip()
                ends.append(unpacker.tell())
        except MALFORMED as error:
            if not ends or not isinstance(error, msgpack.exceptions.OutOfData):
                raise self._malformed(error, "value") from error
        return ends

    def _unpacked(self, read: bytes) -> Any:
        """Return what msgpack makes of the bytes of a value that is all there."""
        try:
            return msgpack.unpackb(read, raw=False, strict_map_key=True, use_list=True, max_map_len=FIELDS_MAX)
        except MALFORMED as error:
            raise self._refused(f"not canonical: {error}", self._place) from error

    def _canonical(self, value: Any, read: bytes, place: int) -> CanonicalValue:
        """Return a value whose canonical bytes were `read`, from `place` on."""
        try:
            written = encode(value)
        except CanonicalError as error:
            raise self._refused(str(error), place) from error
        if written != read:
            raise self._refused(NOT_CANONICAL, place)
        return cast(CanonicalValue, value)

    def _record(self, record_type: type[Record], value: Any, read: bytes, place: int, name: str = "") -> Record:
        """Return the record of a value by the codec's slow path, which says what is wrong."""
        if len(read) > SLOW_BYTES_MAX:
            raise self._refused(too_long_to_explain(name or _name(record_type), len(read)), place)
        self._spend(read)
        canonical = self._canonical(value, read, place)
        try:
            return cast(Record, typed(record_type, canonical, name or _name(record_type)))
        except SchemaError as error:
            raise self._refused(str(error), place) from error

    def _spend(self, read: bytes) -> None:
        """Count what only the slow path reads."""
        if len(read) > self._slow_left:
            raise self._refused(f"more than {SLOW_BYTES_MAX} bytes of names, and of what nobody knows", self._place)
        self._slow_left -= len(read)

    def _malformed(self, error: Exception, expected: str) -> SchemaError:
        """Return what to raise where msgpack finds no `expected` in the next piece."""
        if not isinstance(error, msgpack.exceptions.OutOfData):
            return self._refused(f"no {expected} of MessagePack", self._place)
        if len(self._data) - self._place <= self._piece_bytes_max:
            return self._refused("it ends too soon", self._place)
        return self._refused(f"a {expected} of more than {self._piece_bytes_max} bytes", self._place)

    def _refused(self, why: str, place: int) -> SchemaError:
        return SchemaError(f"{self._name}, byte {place}: {why}")


def _at_once(record_type: type, value: Any, read: bytes) -> Any:
    """Return the record by the codec's fast path. Raises UnusualError."""
    with suppress(ValueError, OverflowError):  # nested too deep, say: left to the slow path, as in the codec
        if msgpack.packb(value, use_bin_type=True) == read:
            return read_value(record_type, value)
    raise UnusualError


def _is_usual(record_type: type, value: Any, read: bytes) -> bool:
    try:
        _at_once(record_type, value, read)
    except UnusualError:
        return False
    return True


def _name(record_type: Any) -> str:
    return str(getattr(record_type, "__name__", record_type))
