"""Small control messages on libp2p streams: protobuf with a length in front, bounded in size and time.

The message classes are the library's; reading and writing are ours, because the library reads without deadlines.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

log = structlog.get_logger(__name__)

STREAM_CLOSE_SECONDS_MAX = 2.0


class ControlError(Exception):
    """The other end did not keep to the protocol, or is gone; the message says how."""


class MalformedError(ControlError):
    """The other end sent what no honest implementation sends."""


class EndOfMessagesError(ControlError):
    """The other end has nothing more to say."""


async def send_message(stream: Any, message: Any, *, deadline_seconds: float) -> None:
    """Write one message. Raises ControlError."""
    try:
        with trio.fail_after(deadline_seconds):
            await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except trio.TooSlowError as error:
        raise ControlError(f"it took nothing for {deadline_seconds:.0f} s") from error
    except Exception as error:
        raise ControlError(f"the stream broke: {error!r}") from error


async def receive_message(stream: Any, kind: Callable[[], Any], *, bytes_max: int, deadline_seconds: float) -> Any:
    """Read one message of protobuf class `kind`. Raises EndOfMessagesError, MalformedError or ControlError."""
    try:
        with trio.fail_after(deadline_seconds):
            data = await read_varint_prefixed_bytes_limited(stream, bytes_max)
    except trio.TooSlowError as error:
        raise ControlError(f"it sent nothing for {deadline_seconds:.0f} s") from error
    except Exception as error:
        if type(error).__name__ in ("MessageTooLarge", "ParseError"):
            raise MalformedError(f"its message has a bad length: {error}") from error
        raise EndOfMessagesError(f"the stream ended: {error!r}") from error
    message = kind()
    try:
        message.ParseFromString(data)
    except Exception as error:
        raise MalformedError(f"its message is not a {type(message).__name__}") from error
    return message


@asynccontextmanager
async def open_stream(host: Any, peer_id: str, protocol: str, *, deadline_seconds: float) -> AsyncIterator[Any]:
    """Open a stream to a connected peer; it is closed, or reset after an error. Raises ControlError."""
    try:
        with trio.fail_after(deadline_seconds):
            stream = await host.new_stream(ID.from_base58(peer_id), [protocol])
    except Exception as error:
        raise ControlError(f"{peer_id} opens no stream for {protocol}: {error!r}") from error
    try:
        yield stream
    except BaseException:
        await reset_stream(stream)
        raise
    else:
        await close_stream(stream)


async def close_stream(stream: Any) -> None:
    """Close a stream in order, whatever its state."""
    with trio.move_on_after(STREAM_CLOSE_SECONDS_MAX):
        try:
            await stream.close()
        except Exception as error:  # it is gone already
            log.debug("a stream could not be closed", reason=repr(error))


async def reset_stream(stream: Any) -> None:
    """Break a stream off, whatever its state."""
    with trio.CancelScope(deadline=trio.current_time() + STREAM_CLOSE_SECONDS_MAX, shield=True):
        try:
            await stream.reset()
        except Exception as error:
            log.debug("a stream could not be reset", reason=repr(error))
