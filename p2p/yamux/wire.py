"""Yamux on the wire: twelve bytes of header, and after those of data the data."""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

PROTOCOL = "/yamux/1.0.0"
HEADER = struct.Struct("!BBHII")
"""Version, type, flags, stream, length."""
HEADER_BYTES = HEADER.size
VERSION = 0
FLAGS_KNOWN = 0xF
WINDOW_BYTES_INITIAL = 256 * 1024
"""Given by the protocol to each side of a new stream."""


class WireError(ValueError):
    """Bytes that no Yamux implementation sends."""


class Type(IntEnum):
    """What a frame carries; of all but DATA the length is a number."""

    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """What a frame says of its stream, or of a ping: SYN asks, ACK answers."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class Reason(IntEnum):
    """Why a session ends, in GO_AWAY."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


TYPES = tuple(Type)
"""By their number."""
PING = int(Type.PING)
"""Of frames of this type and those above none is for a stream."""


class Header(NamedTuple):
    """A decoded header."""

    type: Type
    flags: int
    stream: int
    length: int


def encode_header(kind: Type, flags: int, stream: int, length: int) -> bytes:
    """Return the twelve bytes."""
    return HEADER.pack(VERSION, kind, flags, stream, length)


def decode_header(data: bytes | bytearray) -> Header:
    """Read the twelve bytes. Raises WireError."""
    version, kind, flags, stream, length = HEADER.unpack_from(data)
    if version != VERSION or kind >= len(TYPES) or flags > FLAGS_KNOWN:
        raise WireError(f"no Yamux header: version {version}, type {kind}, flags {flags:#x}")
    if (stream == 0) != (kind >= PING):
        raise WireError(f"a frame of type {kind} for stream {stream}")
    return Header(TYPES[kind], flags, stream, length)
