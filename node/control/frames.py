"""Frames of the control socket: one JSON text per line, bounded, so that `nc -U` is a usable client."""

import trio

FRAME_BYTES_MAX = 1024 * 1024
"""Of one line in either direction. Too small and a long prompt is refused; too large and a client may fill memory."""
RECEIVE_BYTES = 64 * 1024


class FrameTooLargeError(Exception):
    """A line grew beyond FRAME_BYTES_MAX; what follows can't be read as frames any more."""

    def __init__(self) -> None:
        super().__init__(f"a frame is larger than {FRAME_BYTES_MAX} bytes")


class FrameReader:
    """Cuts a byte stream into lines. One task reads at a time."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._searched = 0

    async def next(self) -> bytes | None:
        """Return the next line without its end, or None at the end of the stream (an unfinished line is dropped).

        Raises FrameTooLargeError, and trio.BrokenResourceError if the connection breaks.
        """
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end > FRAME_BYTES_MAX or (end < 0 and len(self._buffer) > FRAME_BYTES_MAX):
                raise FrameTooLargeError
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return line
            self._searched = len(self._buffer)
            received = await self._stream.receive_some(RECEIVE_BYTES)
            if not received:
                return None
            self._buffer += received
