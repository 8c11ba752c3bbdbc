"""Frames of the request stream: what one end says to the other about one of the calls that share it.

A frame is: 4 bytes length of the rest, 1 byte kind, 4 bytes call number, body (all integers big-endian). What a kind
means is fixed for a version of the protocol: a new kind is a new version, so an unknown one is a broken rule.
"""

from dataclasses import dataclass
from enum import IntEnum

BODY_BYTES_MAX = 256 * 1024
"""Larger payloads belong into content. Bounds what a peer can make us buffer per frame."""
LENGTH_BYTES = 4
HEADER_BYTES = 5
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


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: Kind
    call: int
    body: bytes = b""


def encode_frame(frame: Frame) -> bytes:
    """Return the wire bytes. Raises FrameError if the body is too large."""
    if len(frame.body) > BODY_BYTES_MAX:
        raise FrameError(f"a body of {len(frame.body)} bytes is over {BODY_BYTES_MAX}")
    length = HEADER_BYTES + len(frame.body)
    return length.to_bytes(LENGTH_BYTES) + bytes([frame.kind]) + frame.call.to_bytes(4) + frame.body


def frame_length(prefix: bytes) -> int:
    """Return how many bytes follow the length prefix. Raises FrameError if that is out of bounds."""
    length = int.from_bytes(prefix)
    if not HEADER_BYTES <= length <= HEADER_BYTES + BODY_BYTES_MAX:
        raise FrameError(f"a frame of {length} bytes")
    return length


def decode_frame(data: bytes) -> Frame:
    """Read what follows the length prefix. Raises FrameError."""
    if len(data) < HEADER_BYTES:
        raise FrameError(f"a frame of {len(data)} bytes")
    try:
        kind = Kind(data[0])
    except ValueError as error:
        raise FrameError(f"unknown kind {data[0]}") from error
    return Frame(kind, int.from_bytes(data[1:HEADER_BYTES]), data[HEADER_BYTES:])


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
