"""Canonical bytes read piece by piece: the values they are of come out, and errors say what is wrong, and where."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import canonical_reading
from node.protocol.canonical import NESTING_MAX, CanonicalError, decode, encode
from node.protocol.canonical_reading import FIELDS_MAX, CanonicalReader
from node.protocol.codec import SLOW_BYTES_MAX, SchemaError, to_value
from node.protocol.findings import Sighting
from node.protocol.identifiers import Address
from tests.unit.protocol.test_canonical import VALUES

PIECE = 64
NULL = b"\xc0"
SEEN = to_value(Sighting(Address("x"), 7))
SIGHTINGS = st.builds(Sighting, st.text(max_size=6).map(Address), st.integers(0, 2**32))


def reader_of(data: bytes, piece_bytes_max: int = PIECE) -> CanonicalReader:
    return CanonicalReader(data, "a letter", piece_bytes_max)


def whole(data: bytes) -> Any:
    """Read one value, and nothing after it."""
    reader = reader_of(data, max(1, len(data)))
    value = reader.value()
    reader.require_end()
    return value


def fields(data: bytes) -> dict[str, Any]:
    reader = reader_of(data, max(1, len(data)))
    found = {name: reader.value() for name in reader.fields()}
    reader.require_end()
    return found


def items(data: bytes) -> list[Any]:
    reader = reader_of(data, max(1, len(data)))
    found = [reader.value() for _ in range(reader.items())]
    reader.require_end()
    return found


def sightings(data: bytes, piece_bytes_max: int = PIECE) -> list[list[Sighting]]:
    """Read a list of them; return those of each piece."""
    reader = reader_of(data, piece_bytes_max)
    left = reader.items()
    pieces = []
    while left:
        pieces.append(list(reader.records(Sighting, left)))
        left -= len(pieces[-1])
    reader.require_end()
    return pieces


def refused(read: Callable[..., object], *arguments: object) -> str:
    """Return why reading is refused."""
    with pytest.raises(SchemaError) as caught:
        read(*arguments)
    return str(caught.value)


# --- What is canonical ------------------------------------------------------------------------------------------------


@given(VALUES)
def test_any_canonical_value_reads_back(value: object) -> None:
    assert whole(encode(value)) == value


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=6), st.lists(VALUES, max_size=6))
def test_fields_and_items_read_back_one_after_the_other(by_name: dict[str, object], in_order: list[object]) -> None:
    assert fields(encode(by_name)) == by_name
    assert items(encode(in_order)) == in_order


@given(st.lists(SIGHTINGS, max_size=40), st.integers(PIECE, 4 * PIECE))
def test_records_read_back_whatever_the_pieces_and_none_is_of_more_bytes(told: list[Sighting], piece: int) -> None:
    pieces = sightings(encode([to_value(one) for one in told]), piece)
    assert [one for some in pieces for one in some] == told
    assert all(sum(len(encode(to_value(one))) for one in some) <= piece for some in pieces)


def test_no_more_records_are_read_than_asked_for() -> None:
    reader = reader_of(encode(SEEN) * 3)
    assert len(reader.records(Sighting, 2)) == 2
    assert reader.record(Sighting) == Sighting(Address("x"), 7)
    reader.require_end()


def test_one_record_may_have_fields_of_a_later_version_and_many_may_not() -> None:
    later = encode({**SEEN, "zeal": 1})
    assert reader_of(later).record(Sighting) == Sighting(Address("x"), 7)
    assert refused(lambda: reader_of(later).records(Sighting, 1)) == (
        "a letter, byte 0: a Sighting with fields that nobody knows"
    )


@given(st.binary(max_size=64))
def test_of_any_bytes_it_reads_what_the_codec_reads(data: bytes) -> None:
    def or_none(read: Callable[[bytes], object]) -> tuple[object] | None:
        try:
            return (read(data),)
        except (SchemaError, CanonicalError):
            return None

    in_one = or_none(decode)
    assert or_none(whole) == in_one
    for read, kind in ((fields, dict), (items, list)):
        assert or_none(read) == (in_one if in_one and type(in_one[0]) is kind else None)


@given(st.text() | st.binary(), st.sampled_from([1, 31, 32, 255, 256, 65_535, 65_536]))
def test_texts_and_bytes_of_any_length_are_read_as_such(some: str | bytes, times: int) -> None:
    for value in (some, some[:1] * times):
        data, kind, other = encode(value), type(value), str if isinstance(value, bytes) else bytes
        reader = reader_of(data + NULL)
        assert reader.scalar(kind) == value
        assert reader.is_none()
        reader.require_end()
        assert refused(reader_of(data).scalar, other) == f"a letter, byte 0: no {other.__name__} of MessagePack"
        assert refused(reader_of(data[:-1]).scalar, kind).startswith("a letter, byte 0: ")


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x90", b"\x80", NULL, b"\xd9\x01a", b"\xda\x00\x01a", b"\xa1\xff"])
def test_what_is_no_text_or_not_canonical_is_not_read_as_one(data: bytes) -> None:
    assert refused(reader_of(data).scalar, str).startswith("a letter, byte 0: ")


def test_names_and_what_nobody_knows_are_short_together() -> None:
    reader = reader_of(encode(["x" * 1000] * 5), 2000)
    reader.items()
    for _ in range(4):
        reader.value()
    why = f"more than {SLOW_BYTES_MAX} bytes of names, and of what nobody knows"
    assert refused(reader.value).endswith(why)
    assert refused(fields, encode({"x" * SLOW_BYTES_MAX: None})).endswith(why)


def test_what_is_long_and_no_record_is_refused_unexplained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical_reading, "typed", lambda *_: pytest.fail("read slowly"))
    data = encode({**SEEN, "zeal": [{}] * SLOW_BYTES_MAX})
    reads: tuple[Callable[[CanonicalReader], object], ...] = (
        lambda reader: reader.record(Sighting),
        lambda reader: reader.records(Sighting, 1),
    )
    for read in reads:
        assert "bytes that this version does not write" in refused(read, reader_of(data, 99_999))


# --- What ends too soon, or is too long -------------------------------------------------------------------------------


@given(VALUES, st.data())
def test_bytes_that_end_too_soon_are_refused(value: object, draw: st.DataObject) -> None:
    data = encode(value)
    cut = data[: draw.draw(st.integers(0, len(data) - 1))]
    for read in (whole, fields, items):
        refused(read, cut)
    assert refused(whole, cut) == "a letter, byte 0: it ends too soon"


@pytest.mark.parametrize("read", [whole, fields, items, sightings])
def test_nothing_is_too_little(read: Callable[[bytes], object]) -> None:
    assert refused(read, b"") == "a letter, byte 0: it ends too soon"


def test_where_it_ends_is_told() -> None:
    assert refused(fields, encode({"aa": 1, "bb": [1, 2]})[:-1]) == "a letter, byte 8: it ends too soon"
    assert refused(items, encode([5, 6])[:-1]) == "a letter, byte 2: it ends too soon"
    assert refused(sightings, encode([SEEN, SEEN])[:-1]).endswith("it ends too soon")


def test_a_value_longer_than_a_piece_is_refused_and_one_as_long_is_not() -> None:
    fits, too_long = encode(b"x" * (PIECE - 2)), encode(b"x" * (PIECE - 1))
    assert reader_of(fits + NULL).value() == b"x" * (PIECE - 2)
    reads: tuple[Callable[[CanonicalReader], object], ...] = (
        CanonicalReader.value,
        lambda reader: reader.record(Sighting),
        lambda reader: reader.records(Sighting, 9),
    )
    for read in reads:
        assert refused(read, reader_of(too_long + NULL)) == f"a letter, byte 0: a value of more than {PIECE} bytes"


def test_a_record_longer_than_a_piece_is_refused_where_it_begins() -> None:
    long = {**SEEN, "participant": "x" * PIECE}
    assert refused(sightings, encode([SEEN, long, SEEN])) == (
        f"a letter, byte {1 + len(encode(SEEN))}: a value of more than {PIECE} bytes"
    )


@pytest.mark.parametrize(
    "claimed",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdc\x40\x00",
    ],
    ids=["list", "map", "text", "bytes", "lists in lists"],
)
def test_what_a_header_claims_takes_no_memory(claimed: bytes) -> None:
    data = claimed * 1000
    tracemalloc.start()
    try:
        for read in (reader_of(data, len(data)).value, lambda: reader_of(data, len(data)).records(Sighting, 2**32)):
            assert refused(read) == "a letter, byte 0: it ends too soon"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("count", [FIELDS_MAX, FIELDS_MAX + 1])
def test_a_map_has_so_many_fields_at_most_wherever_it_stands(count: int) -> None:
    value = {f"{number:02}": None for number in range(count)}
    data = encode(value)
    if count == FIELDS_MAX:
        assert whole(data) == fields(data) == items(encode([value]))[0] == value
        return
    assert refused(fields, data) == f"a letter, byte 0: {count} fields, at most {FIELDS_MAX}"
    assert refused(items, encode([7, value])).startswith("a letter, byte 2: not canonical: ")
    assert refused(sightings, encode([value]), 999).startswith("a letter, byte 1: not canonical: ")


def test_what_is_nested_too_deep_is_refused() -> None:
    value: object = None
    for _ in range(NESTING_MAX):
        value = [value]
    assert whole(encode(value)) == value
    assert refused(whole, b"\x91" + encode(value)) == f"a letter, byte 0: nested deeper than {NESTING_MAX}"
    assert refused(whole, b"\x91" * 100_000 + NULL) == "a letter, byte 0: no value of MessagePack"
    deep = b"\x82\xabparticipant" + b"\x91" * 600 + NULL + b"\xa9per_mille\x07"
    assert refused(sightings, b"\x91" + deep, 9999) == f"a letter, byte 1: nested deeper than {NESTING_MAX}"


# --- What is not canonical --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"\xcd\x00\x01",  # 1 in three bytes
        b"\xd9\x01a",  # a text with a long header
        b"\xdc\x00\x01\xc0",  # a list with one
        b"\xde\x00\x01\xa1a\xc0",  # a map with one
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\xca\x00\x00\x00\x00",  # a float
        b"\x81\x01\x02",  # a key that is no text
        b"\xa1\xff",  # no UTF-8
        b"\xd6\xff\x00\x00\x00\x00",  # a point in time
        b"\xd4\x05\x00",  # a type that is not MessagePack's own
        b"\xc1",  # no type
    ],
)
def test_what_is_not_canonical_is_refused_wherever_it_stands(data: bytes) -> None:
    for before, read in ((b"", whole), (b"\x81\xa1k", fields), (b"\x92\x07", items)):
        assert refused(read, before + data).startswith(f"a letter, byte {len(before)}: ")
    inside = b"\x91\x82\xabparticipant\xa1x\xa9per_mille" + data
    assert refused(sightings, inside).startswith("a letter, byte 1: ")
    assert refused(lambda: reader_of(inside[1:]).record(Sighting)).startswith("a letter, byte 0: ")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"\x82\xa1b\xc0\xa1a\xc0", 4),  # out of order
        (b"\x82\xa1a\xc0\xa1a\xc0", 4),  # twice
        (b"\x82\xa0\xc0\xa0\xc0", 3),  # twice, without a letter
        (b"\x81\x07\xc0", 1),
        (b"\x81\xc4\x01a\xc0", 1),
    ],
)
def test_names_of_fields_are_texts_in_order(data: bytes, place: int) -> None:
    assert refused(fields, data) == (f"a letter, byte {place}: names of fields are texts, each once and in order")


@pytest.mark.parametrize("header", [b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"])
def test_the_header_of_a_map_is_as_short_as_can_be(header: bytes) -> None:
    assert refused(fields, header + b"\xa1a\xc0") == ("a letter, byte 0: valid msgpack, but not in canonical form")


@pytest.mark.parametrize("header", [b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
def test_the_header_of_a_list_is_as_short_as_can_be(header: bytes) -> None:
    assert refused(items, header + NULL) == "a letter, byte 0: valid msgpack, but not in canonical form"


# --- What is something else -------------------------------------------------------------------------------------------


@given(VALUES)
def test_what_is_no_map_or_no_list_is_refused_as_one(value: object) -> None:
    data = encode(value)
    if not isinstance(value, dict):
        assert refused(fields, data) == "a letter, byte 0: no map of MessagePack"
    if not isinstance(value, list):
        assert refused(items, data) == "a letter, byte 0: no list of MessagePack"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (7, "Sighting: expected a map, got int"),
        ({}, "Sighting.participant: missing"),
        ({**SEEN, "per_mille": True}, "Sighting.per_mille: expected int, got bool"),
        ({**SEEN, "per_mille": "x", "zeal": 1}, "Sighting.per_mille: expected int, got str"),
    ],
)
def test_what_is_no_record_is_refused_for_what_is_wrong_with_it(value: object, why: str) -> None:
    assert refused(lambda: reader_of(encode(value)).record(Sighting)) == f"a letter, byte 0: {why}"
    place = 1 + len(encode(SEEN))
    assert refused(sightings, encode([SEEN, value, SEEN]), 999) == f"a letter, byte {place}: {why}"


def test_what_follows_the_end_is_refused() -> None:
    assert refused(whole, NULL * 2) == "a letter, byte 1: something follows the end"


def test_errors_of_the_records_own_checks_are_told_too() -> None:
    packed = msgpack.packb({**SEEN, "per_mille": 1.5})
    assert refused(lambda: reader_of(packed).record(Sighting)) == "a letter, byte 0: float has no canonical form"
