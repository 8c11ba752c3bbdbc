"""Canonical bytes: one value, one byte string; anything else is refused."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.canonical import NESTING_MAX, CanonicalError, decode, encode

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@given(VALUES)
def test_what_is_encoded_is_decoded_to_the_same_value(value: object) -> None:
    assert decode(encode(value)) == value


@given(st.dictionaries(st.text(), SCALARS, min_size=2, max_size=6))
def test_the_order_in_which_a_map_was_built_does_not_matter(value: dict[str, object]) -> None:
    assert encode(dict(reversed(value.items()))) == encode(value)


@given(st.binary(max_size=64))
def test_bytes_that_decode_are_the_canonical_form_of_what_they_decode_to(data: bytes) -> None:
    try:
        value = decode(data)
    except CanonicalError:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xcd\x00\x01",  # 1 in three bytes
        b"\x82\xa1b\x01\xa1a\x02",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\x01\x01",  # trailing bytes
        b"\xca\x00\x00\x00\x00",  # a float
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.ExtType(5, b"a")),
        msgpack.packb([msgpack.ExtType(5, b"a")]),
        msgpack.packb(msgpack.Timestamp(1, 2)),
    ],
)
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(CanonicalError):
        decode(data)


def test_deep_nesting_is_refused_before_it_can_exhaust_the_stack() -> None:
    with pytest.raises(CanonicalError):
        decode(b"\x91" * 100_000 + b"\xc0")
    value: object = None
    for _ in range(NESTING_MAX + 1):
        value = [value]
    with pytest.raises(CanonicalError):
        encode(value)


def test_integers_beyond_64_bits_have_no_canonical_form() -> None:
    with pytest.raises(CanonicalError):
        encode(2**64)
