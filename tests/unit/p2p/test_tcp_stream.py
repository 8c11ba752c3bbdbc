"""A TCP stream that writes at once loses nothing, keeps nobody waiting, and says how a connection ended."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from libp2p.io.exceptions import ConnectionClosedError

from p2p.repairs.tcp import AT_ONCE_BYTES_MAX, READ_BYTES, WRITE_COST_BYTES, BufferedTcpStream

LARGE = bytes(range(256)) * 32_768
"""More than the kernel keeps for a connection."""


@asynccontextmanager
async def both() -> AsyncIterator[tuple[BufferedTcpStream, BufferedTcpStream]]:
    """Two ends of a connection over loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        far = await listener.accept()
        async with near, far:
            with trio.fail_after(30):
                yield BufferedTcpStream(near), BufferedTcpStream(far)


async def read_all(stream: BufferedTcpStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await stream.read(READ_BYTES)
    return bytes(data)


async def test_small_and_large_writes_arrive_in_order_and_whole() -> None:
    async with both() as (near, far):
        parts = [b"small", LARGE, b"", b"again", LARGE[:AT_ONCE_BYTES_MAX], b"end"]
        received = b""

        async def read() -> None:
            nonlocal received
            received = await read_all(far, sum(map(len, parts)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for part in parts:
                await near.write(part)
        assert received == b"".join(parts)


async def test_a_write_waits_while_the_other_end_reads_nothing() -> None:
    async with both() as (near, far):
        near.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        sent = 0

        async def write() -> None:
            nonlocal sent
            for start in range(0, len(LARGE), 1000):
                await near.write(LARGE[start : start + 1000])
                sent += 1000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert sent < len(LARGE)
            assert await read_all(far, len(LARGE)) == LARGE


async def test_many_small_writes_let_other_tasks_run() -> None:
    async with both() as (near, _far):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await trio.lowlevel.checkpoint()
            before = turns
            for _ in range(4 * AT_ONCE_BYTES_MAX // WRITE_COST_BYTES):
                await near.write(b"x")
            assert turns > before
            nursery.cancel_scope.cancel()


async def test_a_connection_that_the_peer_reset_says_so() -> None:
    async with both() as (near, far):
        far.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await far.close()
        with pytest.raises(ConnectionClosedError):
            await near.read(1)
        with pytest.raises(ConnectionClosedError):
            await near.write(b"x")


async def test_a_reader_learns_that_its_own_end_was_closed() -> None:
    async with both() as (near, _far):
        read: list[bytes] = []

        async def reader() -> None:
            read.append(await near.read(1))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            await near.close()
        assert read == [b""]
        assert await near.read(1) == b""


async def test_a_write_to_what_was_closed_here_is_an_error() -> None:
    async with both() as (near, _far):
        await near.close()
        with pytest.raises(ConnectionClosedError):
            await near.write(b"lost")
