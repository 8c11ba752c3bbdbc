"""Bytes of a connection go to its own client, whatever has become of the number of its socket."""

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from node.api.bounded_stream import BoundedStream, Flusher


@contextmanager
def connected() -> Iterator[tuple[BoundedStream, socket.socket]]:
    """A connection and its client's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield BoundedStream(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), Flusher()), theirs


async def close(stream: BoundedStream) -> None:
    await stream.aclose()


async def cut(stream: BoundedStream) -> None:
    stream.cut()


async def leave(stream: BoundedStream) -> None:
    stream.leave()  # whoever accepted the connection closes it then
    stream.socket.close()


@pytest.mark.parametrize("end", [close, cut, leave])
async def test_what_was_written_to_a_connection_that_has_ended_goes_to_nobody_else(
    end: Callable[[BoundedStream], Awaitable[None]],
) -> None:
    with connected() as (stream, _), connected() as (next_stream, next_client):
        number = stream.socket.fileno()
        stream.write(b"for the first client")
        await end(stream)
        os.dup2(next_stream.socket.fileno(), number)  # as the system gives it to the next connection
        try:
            stream.flush()
            with pytest.raises(trio.BrokenResourceError):
                stream.send_now(b"more")
            with pytest.raises(BlockingIOError):
                next_client.recv(100)
        finally:
            os.close(number)


async def test_what_was_written_leaves_in_one_piece_and_in_order() -> None:
    with connected() as (stream, client):
        stream.write(b"one ")
        stream.write(b"two ")
        assert stream.send_now(b"three") == b""
        assert client.recv(100) == b"one two three"
        stream.flush()
        with pytest.raises(BlockingIOError):
            client.recv(100)


async def test_what_the_kernel_does_not_take_is_kept_and_goes_first() -> None:
    with connected() as (stream, client):
        stream.write(b"a" * 4_000_000)
        stream.flush()
        assert stream.is_full
        got = 0
        while stream.is_full:
            got += len(client.recv(1_000_000))
            rest = stream.send_now(b"")
            stream.write(rest)
            stream.flush()
        while got < 4_000_000:
            got += len(client.recv(1_000_000))
        assert got == 4_000_000
