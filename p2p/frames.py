"""Frames of the request stream: what one end says to the other about one of the calls that share it.

A frame is: 4 bytes length of the rest, 1 byte kind, 4 bytes call number, body (all integers big-endian). What a kind
means is fixed for a version of the protocol: a new kind is a new version, so an unknown one is a broken rule.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

BODY_BYTES_MAX = 256 * 1024
"""Larger payloads belong into content. Bounds what a peer can make us buffer per frame."""
LENGTH_BYTES = 4
HEADER_BYTES = 5
FRAME_LENGTH_MAX = HEADER_BYTES + BODY_BYTES_MAX
HEAD = struct.Struct("!IBI")
"""Length, kind, call."""
OPEN_BYTES_MIN = 5
"""Of OPEN's body before the method."""
METHOD_BYTES_MAX = 64
PING_BYTES_MAX = 64
DEADLINE_MILLISECONDS_MAX = 2**32 - 1


class FrameError(ValueError):
    """Bytes that are no frame: the stream is reset, for nothing after them can be trusted."""


class Kind(IntEnum):
    """What a frame says."""

    OPEN = 0
    """Caller: begin call; body = milliseconds left (4 bytes; 0: no deadline), length of method (1), method, payload."""
    DATA = 1
    """Either: a chunk. Costs the sender credit: its length and CHUNK_COST_BYTES (p2p/credit.py)."""
    CREDIT = 2
    """Either: the other end may spend so many bytes more (4 bytes)."""
    END = 3
    """Handler: done. Nothing follows."""
    FAIL = 4
    """Handler: failed; body = code, NUL, message."""
    CANCEL = 5
    """Caller: no longer interested."""
    PING = 6
    """Either, call 0: body, of up to 64 bytes, is to be sent back."""
    PONG = 7


DATA = int(Kind.DATA)
KINDS = tuple(Kind)
"""By their number."""


class Frame(NamedTuple):
    """One frame. A tuple, because there is one for nearly every token."""

    kind: Kind
    call: int
    body: bytes = b""


def encode_frame(frame: Frame) -> bytes:
    """Return the wire bytes. Raises FrameError if the body is too large."""
    if len(frame.body) > BODY_BYTES_MAX:
        raise FrameError(f"a body of {len(frame.body)} bytes is over {BODY_BYTES_MAX}")
    return HEAD.pack(HEADER_BYTES + len(frame.body), frame.kind, frame.call) + frame.body


def encode_data(call: int, chunk: bytes) -> bytes:
    """Return the wire bytes of a chunk, as `encode_frame` would. Raises FrameError if it is too large."""
    length = HEADER_BYTES + len(chunk)
    if length > FRAME_LENGTH_MAX:
        raise FrameError(f"a chunk of {len(chunk)} bytes is over {BODY_BYTES_MAX}")
    return HEAD.pack(length, DATA, call) + chunk


def cut_frames(buffer: bytearray) -> Iterator[Frame]:
    """Yield the complete frames at the beginning of `buffer` and take them off it. Raises FrameError after the good."""
    start, size = 0, len(buffer)
    try:
        while size - start >= HEAD.size:
            length, kind, call = HEAD.unpack_from(buffer, start)
            if length < HEADER_BYTES or length > FRAME_LENGTH_MAX:
                raise FrameError(f"a frame of {length} bytes")
            end = start + LENGTH_BYTES + length
            if end > size:
                return
            if kind >= len(KINDS):
                raise FrameError(f"unknown kind {kind}")
            body = bytes(buffer[start + HEAD.size : end])
            start = end
            yield Frame(KINDS[kind], call, body)
        if size - start >= LENGTH_BYTES:  # of a frame that has hardly begun its length is known already
            length = int.from_bytes(buffer[start : start + LENGTH_BYTES])
            if length < HEADER_BYTES or length > FRAME_LENGTH_MAX:
                raise FrameError(f"a frame of {length} bytes")
    finally:
        del buffer[:start]


@dataclass(frozen=True, slots=True)
class Opening:
    """The body of OPEN."""

    method: str
    payload: bytes
    deadline_milliseconds: int = 0
    """Left when it was sent; 0 if the caller waits for ever."""


def open_body(opening: Opening) -> bytes:
    """Return the wire bytes. Raises FrameError if the name of the method is too long or the deadline too late."""
    name = opening.method.encode()
    if not 0 < len(name) <= METHOD_BYTES_MAX:
        raise FrameError(f"method names have 1 to {METHOD_BYTES_MAX} bytes")
    if not 0 <= opening.deadline_milliseconds <= DEADLINE_MILLISECONDS_MAX:
        raise FrameError(f"a deadline of {opening.deadline_milliseconds} ms")
    return opening.deadline_milliseconds.to_bytes(4) + bytes([len(name)]) + name + opening.payload


def read_open_body(body: bytes) -> Opening:
    """Read the wire bytes. Raises FrameError."""
    if len(body) < OPEN_BYTES_MIN:
        raise FrameError("malformed OPEN")
    length = body[OPEN_BYTES_MIN - 1]
    end = OPEN_BYTES_MIN + length
    if not 0 < length <= METHOD_BYTES_MAX or len(body) < end:
        raise FrameError("malformed OPEN")
    try:
        method = body[OPEN_BYTES_MIN:end].decode()
    except UnicodeDecodeError as error:
        raise FrameError("the method's name is not UTF-8") from error
    return Opening(method, body[end:], int.from_bytes(body[:4]))


def credit_body(granted: int) -> bytes:
    """Return the body of CREDIT."""
    return granted.to_bytes(4)


def read_credit_body(body: bytes) -> int:
    """Return how many bytes are granted. Raises FrameError."""
    if len(body) != 4:
        raise FrameError("malformed CREDIT")
    return int.from_bytes(body)


def fail_body(code: str, message: str) -> bytes:
    """Return the body of FAIL; long messages are cut."""
    return f"{code}\0{message[:1024]}".encode()


def read_fail_body(body: bytes) -> tuple[str, str]:
    """Return (code, message), whatever the peer sent: these are for reading only."""
    code, _, message = body.decode("utf-8", errors="replace").partition("\0")
    return code[:64] or "internal", message[:1024]
