"""Frames survive the wire; nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.frames import (
    BODY_BYTES_MAX,
    DEADLINE_MILLISECONDS_MAX,
    HEAD,
    HEADER_BYTES,
    LENGTH_BYTES,
    Frame,
    FrameError,
    Kind,
    Opening,
    credit_body,
    cut_frames,
    encode_data,
    encode_frame,
    open_body,
    read_credit_body,
    read_fail_body,
    read_open_body,
)

FRAMES = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=2000))


@given(st.lists(FRAMES, max_size=6), st.integers(1, 4000))
def test_what_is_encoded_is_decoded_however_it_is_cut_on_its_way(frames: list[Frame], size: int) -> None:
    data = b"".join(encode_frame(frame) for frame in frames)
    buffer, decoded = bytearray(), []
    for start in range(0, len(data), size):
        buffer += data[start : start + size]
        decoded += list(cut_frames(buffer))
    assert decoded == frames
    assert not buffer


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_the_beginning_of_one_or_a_frame_error(data: bytes) -> None:
    buffer, decoded = bytearray(data), bytearray()
    try:
        for frame in cut_frames(buffer):
            decoded += encode_frame(frame)
    except FrameError:
        assert data.startswith(decoded)
    assert bytes(decoded + buffer) == data


def test_frames_before_one_that_is_none_are_read() -> None:
    good = Frame(Kind.DATA, 7, b"good")
    buffer = bytearray(encode_frame(good) + (HEADER_BYTES - 1).to_bytes(LENGTH_BYTES))
    frames = cut_frames(buffer)
    assert next(frames) == good
    with pytest.raises(FrameError):
        next(frames)


def test_an_unknown_kind_is_no_frame() -> None:
    with pytest.raises(FrameError):
        list(cut_frames(bytearray(HEAD.pack(HEADER_BYTES, len(Kind), 1))))


@given(st.binary(max_size=300))
def test_any_open_body_is_read_or_refused(body: bytes) -> None:
    try:
        opening = read_open_body(body)
    except FrameError:
        return
    assert open_body(opening) == body


@given(st.text(min_size=1, max_size=16), st.binary(max_size=300), st.integers(0, DEADLINE_MILLISECONDS_MAX))
def test_what_is_opened_is_read(method: str, payload: bytes, milliseconds: int) -> None:
    opening = Opening(method, payload, milliseconds)
    assert read_open_body(open_body(opening)) == opening


@given(st.binary(max_size=10))
def test_any_credit_body_is_read_or_refused(body: bytes) -> None:
    try:
        granted = read_credit_body(body)
    except FrameError:
        return
    assert credit_body(granted) == body


@pytest.mark.parametrize(
    "opening", [Opening("", b""), Opening("x" * 65, b""), Opening("m", b"", -1), Opening("m", b"", 2**32)]
)
def test_an_opening_out_of_bounds_is_not_sent(opening: Opening) -> None:
    with pytest.raises(FrameError):
        open_body(opening)


@given(st.binary(max_size=300))
def test_any_failure_can_be_read(body: bytes) -> None:
    code, message = read_fail_body(body)
    assert code
    assert isinstance(message, str)


def test_lengths_out_of_bounds_are_refused_before_anything_is_read() -> None:
    for length in (0, 4, BODY_BYTES_MAX + 6, 2**32 - 1):
        with pytest.raises(FrameError):
            list(cut_frames(bytearray(length.to_bytes(LENGTH_BYTES))))
    with pytest.raises(FrameError):
        encode_frame(Frame(Kind.DATA, 1, bytes(BODY_BYTES_MAX + 1)))
    with pytest.raises(FrameError):
        encode_data(1, bytes(BODY_BYTES_MAX + 1))
    assert len(encode_data(1, bytes(BODY_BYTES_MAX))) == HEAD.size + BODY_BYTES_MAX


@given(st.integers(0, 2**32 - 1), st.binary(max_size=2000))
def test_a_chunk_has_the_same_bytes_by_the_short_way(call: int, chunk: bytes) -> None:
    assert encode_data(call, chunk) == encode_frame(Frame(Kind.DATA, call, chunk))
