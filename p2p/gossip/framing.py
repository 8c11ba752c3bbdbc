"""RPC frames on a gossip stream: a varint length and that many bytes.

The library reads the length byte by byte, each byte through every layer of the stream. Here as much is read as there
is, and cut.
"""

from typing import Any

from p2p.gossip.verdict import MalformedError

READ_BYTES = 64 * 1024
LENGTH_BYTES_MAX = 5
"""Enough for any length allowed here."""


def encode_frame(rpc: bytes) -> bytes:
    """Return `rpc` with its length before it."""
    length = len(rpc)
    prefix = bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + rpc


class FrameReader:
    """Cuts what a stream brings into frames of at most `frame_bytes_max`."""

    def __init__(self, stream: Any, frame_bytes_max: int) -> None:
        self._stream = stream
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """Return the next frame, or None where the stream ends between two. Raises MalformedError.

        What the stream raises passes through. Holds at most one frame and one read.
        """
        while True:
            frame = self._cut()
            if frame is not None:
                return frame
            data = await self._stream.read(READ_BYTES)
            if not data:
                if self._buffer:
                    raise MalformedError("a gossip stream that ends within a frame")
                return None
            self._buffer += data

    def _cut(self) -> bytes | None:
        length = 0
        for at, byte in enumerate(self._buffer[:LENGTH_BYTES_MAX]):
            length |= (byte & 0x7F) << (7 * at)
            if byte < 0x80:
                if length > self._frame_bytes_max:
                    raise MalformedError(f"a gossip frame of {length} bytes")
                end = at + 1 + length
                if len(self._buffer) < end:
                    return None
                frame = bytes(self._buffer[at + 1 : end])
                del self._buffer[:end]
                return frame
        if len(self._buffer) >= LENGTH_BYTES_MAX:
            raise MalformedError("a gossip frame without a length")
        return None
