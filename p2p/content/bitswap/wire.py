"""Bitswap messages over libp2p streams: read within limits, and sent on a stream that is opened when needed."""

from collections.abc import Callable
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID

from p2p.content.bitswap.messages import (
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    PROTOCOL_WITHOUT_PRESENCES,
    Message,
    MessageError,
    encode_message,
)

log = structlog.get_logger(__name__)

READ_BYTES = 256 * 1024
"""The library sends a window update per read: small reads halve its speed."""
LENGTH_BYTES_MAX = 4
"""Of the length before a message: 4 MiB needs four."""
OPEN_SECONDS_MAX = 10.0
SEND_SECONDS_MAX = 15.0
"""One message of a block or two; whoever reads slower than 140 kB/s holds up others."""
IDLE_SECONDS_MAX = 3.0
"""A stream without messages for so long is closed: Helia resets one after ten, and what is sent then is lost."""


class StreamEndedError(Exception):
    """The stream, or the connection below it, is gone."""


class StalledError(StreamEndedError):
    """The peer does not read what it is sent."""


class MessageReader:
    """Takes messages off a stream, one after the other."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next_length(self) -> int | None:
        """Return the length of the next message; None at the end of the stream. Raises MessageError."""
        while True:
            for index, byte in enumerate(self._buffer[:LENGTH_BYTES_MAX]):
                if byte < 0x80:
                    length = sum((self._buffer[i] & 0x7F) << 7 * i for i in range(index + 1))
                    if length > MESSAGE_BYTES_MAX:
                        raise MessageError(f"a message of {length} bytes; at most {MESSAGE_BYTES_MAX}")
                    del self._buffer[: index + 1]
                    return length
            if len(self._buffer) >= LENGTH_BYTES_MAX:
                raise MessageError("a length of more than 4 bytes")
            if not await self._read_more():
                return None

    async def body(self, length: int) -> bytes:
        """Return the message. Raises StreamEndedError if the stream ends within it."""
        while len(self._buffer) < length:
            if not await self._read_more():
                raise StreamEndedError("the stream ended within a message")
        data = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return data

    async def _read_more(self) -> bool:
        try:
            chunk = await self._stream.read(READ_BYTES)
        except Exception as error:  # reset, closed, connection lost: the library has many
            log.debug("a bitswap stream ended", reason=repr(error))
            return False
        self._buffer += chunk
        return bool(chunk)


class Outbox:
    """The stream on which we send to one peer; opened on demand, closed when idle."""

    def __init__(self, host: Any, peer_id: str, opened: Callable[[Any], None]) -> None:
        """`opened` is told of each new stream: some peers answer on it."""
        self._host = host
        self._peer_id = peer_id
        self._opened = opened
        self._stream: Any = None
        self._speaks_presences = False
        self._lock = trio.Lock()
        self._used_at = 0.0

    async def send(self, message: Message) -> None:
        """Send a message. Raises StreamEndedError; cancelling resets the stream, for half a message voids the rest."""
        async with self._lock:
            try:
                with trio.fail_after(SEND_SECONDS_MAX):
                    await self._send(message)
            except BaseException as error:
                await self._drop()
                if isinstance(error, trio.TooSlowError):
                    raise StalledError(f"it took less than a message in {SEND_SECONDS_MAX:.0f} s") from error
                raise
            self._used_at = trio.current_time()

    async def close_if_idle(self) -> None:
        """Close the stream if nothing was sent lately."""
        idle = trio.current_time() - self._used_at > IDLE_SECONDS_MAX
        if self._stream is not None and idle and not self._lock.locked():
            await self.aclose()

    async def aclose(self) -> None:
        """End the stream in order."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with trio.move_on_after(1):  # the connection may be stuck
                try:
                    await stream.close()
                except Exception as error:
                    log.debug("a bitswap stream could not be closed", peer=self._peer_id, reason=repr(error))

    async def _send(self, message: Message) -> None:
        if self._stream is not None:
            try:
                await self._write(message)
            except StreamEndedError:
                await self._drop()  # the peer closed it since: once more, on a new one
            else:
                return
        await self._open()
        await self._write(message)

    async def _open(self) -> None:
        try:
            with trio.fail_after(OPEN_SECONDS_MAX):
                stream = await self._host.new_stream(
                    ID.from_base58(self._peer_id), [PROTOCOL, PROTOCOL_WITHOUT_PRESENCES]
                )
        except Exception as error:
            raise StreamEndedError(f"no bitswap stream to {self._peer_id}: {error!r}") from error
        self._stream = stream
        self._speaks_presences = str(stream.get_protocol()) == PROTOCOL
        self._opened(stream)

    async def _write(self, message: Message) -> None:
        if not self._speaks_presences:
            message = Message(message.wants, message.full, message.blocks)
        try:
            await self._stream.write(encode_message(message))
        except Exception as error:
            raise StreamEndedError(f"cannot write to {self._peer_id}: {error!r}") from error

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                try:
                    await stream.reset()
                except Exception as error:
                    log.debug("a bitswap stream could not be reset", peer=self._peer_id, reason=repr(error))
