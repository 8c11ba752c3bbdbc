"""What is read quickly of an executor's frames is what the schema reads of them, and never more."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from node.protocol.codec import SchemaError, from_bytes
from node.services.frames import ExecutorFrame, Tokens, tokens_bytes
from node.services.token_frames import read_plain_tokens

TEXTS = st.text(max_size=12) | st.text(max_size=80)
IDS = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300_000), min_size=1, max_size=20).map(tuple)
USUAL = tokens_bytes(Tokens((7, 130, 70_000), " né", ""))


def read_by_schema(data: bytes) -> Tokens | None:
    try:
        return from_bytes(ExecutorFrame, data).tokens
    except SchemaError:
        return None


@given(IDS, TEXTS)
def test_what_is_read_quickly_is_what_the_schema_reads(ids: tuple[int, ...], text: str) -> None:
    data = tokens_bytes(Tokens(ids, text, ""))
    quick = read_plain_tokens(data)
    assert quick in (None, read_by_schema(data))
    assert (quick is not None) == (len(text.encode()) < 32)


@given(st.integers(0, len(USUAL) - 1), st.binary(min_size=1, max_size=4), st.integers(0, 4))
@example(len(USUAL) - 1, b"\xc3", 1)  # true, which Python calls an int
@example(len(USUAL) - 1, b"\xff", 1)  # a negative number, which the checks refuse and not the schema
def test_no_damaged_frame_is_read_otherwise_than_by_the_schema(at: int, put: bytes, cut: int) -> None:
    data = USUAL[:at] + put + USUAL[at + cut :]
    quick = read_plain_tokens(data)
    assert quick is None or quick == read_by_schema(data)


@pytest.mark.parametrize(
    "ids",
    [
        b"\x91\xcc\x05",  # a number in more bytes than it needs
        b"\xdc\x00\x01\x05",  # so is the length
        b"\xdd\xff\xff\xff\xff\x05",  # far more numbers than there are bytes
        b"\x91\xc3",  # true
        b"\x91\xcb" + bytes(8),  # 0.0
        b"\x91\x05\x05",  # something after the end
        b"\x91" * 2000 + b"\x05",  # arrays in arrays
        b"\x90",  # no token
        b"\x05",
        b"",
    ],
)
def test_ids_that_are_not_in_canonical_form_are_left_to_the_schema(ids: bytes) -> None:
    head, key, _ = USUAL.partition(b"\xa9token_ids")
    assert read_plain_tokens(head + key + ids) is None


def test_what_ends_an_answer_or_has_likelihoods_is_left_to_the_schema() -> None:
    assert read_plain_tokens(USUAL) is not None
    assert read_plain_tokens(tokens_bytes(Tokens((7,), " né", "stop"))) is None
    frame = msgpack.unpackb(USUAL)
    frame["tokens"]["logprobs"] = [1]
    assert read_plain_tokens(msgpack.packb(frame)) is None
