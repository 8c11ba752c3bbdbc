"""A connected TCP socket for bulk data: as few steps of the event loop as the bytes need, and files by sendfile.

trio's own streams yield after every call, which is right for messages; a block takes a dozen calls, and most of what
serving it cost was the loop turning. Here a call that need not wait returns at once, but never more than a few in
a row. Bytes of files that are not in the page cache are brought there by a worker thread first: sendfile would wait for
the disk, and with it every other task of the daemon.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from p2p.content.rate import ByteRate

CALLS_WITHOUT_YIELD_MAX = 8
"""About two blocks; at more, a fast reader would keep other tasks waiting."""
SEND_BUFFER_BYTES = 512 * 1024
"""The kernel doubles it. What is on its way between two processes then stays in the processor's cache: with buffers of
2 MiB every byte was written to memory and read back, which cost a third of the throughput on loopback."""
ENOUGH_BYTES = 256 * 1024
"""Whoever waits for more than this is woken when this much is there: a quarter of a block, for one turn of the event
loop; half of what the sender's buffer holds, so that both ends work at once."""
PIECE_BYTES = 2 * 1024 * 1024
"""Most of a file that one call sends, and that a thread reads ahead: a block."""
LIMITED_PIECE_BYTES = 64 * 1024
"""The same where the rate is limited."""
_NOWAIT_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_T = TypeVar("_T")


class FileShrunkError(Exception):
    """A file ended before the bytes that were promised of it; the connection cannot go on."""


class PlainSocket:
    """Not for several tasks at once, except that one may send while another receives.

    All calls raise trio.BrokenResourceError when the connection is gone, trio.ClosedResourceError after `close`.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        """Take over the socket of `stream`, which is closed."""
        self._socket = socket.socket(fileno=os.dup(stream.socket.fileno()))
        self._socket.setblocking(False)
        stream.socket.close()
        self._enough_bytes = 1
        self._calls = 0
        with suppress(OSError):  # gone already: the first call says so
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def close(self) -> None:
        """Close at once; whoever waits is told."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket.fileno())
            self._socket.close()

    def end(self) -> None:
        """Tell the other side that nothing more comes."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    @property
    def descriptor(self) -> int:
        """The socket's, -1 when it is closed."""
        return self._socket.fileno()

    def receive_now(self, count_max: int) -> bytes | None:
        """Return what has come, nothing at the end; None if nothing has."""
        try:
            return self._socket.recv(count_max)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(error) from error

    def send_now(self, data: bytes, *, more: bool = False) -> int:
        """Send what there is room for and return how much that was; `more` as in `send_all`."""
        try:
            return self._socket.send(data, socket.MSG_MORE if more else 0)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone(error) from error

    def send_file_now(self, descriptor: int, offset: int, count: int) -> int | None:
        """Send what there is room for of `count` bytes of a file and return how much that was.

        None if there is no room; 0 says that the file is shorter. Waits for the disk unless the bytes are cached.
        """
        try:
            return os.sendfile(self._socket.fileno(), descriptor, offset, count)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._gone(error) from error

    async def receive_into(self, view: memoryview) -> int:
        """Receive some bytes, 0 at the end. Waits for many if there is room for them."""
        return await self._call(
            lambda: self._socket.recv_into(view), lambda descriptor: self._wait_for_bytes(descriptor, len(view))
        )

    async def receive(self, count_max: int) -> bytes:
        """Receive some bytes, none at the end."""
        return await self._call(
            lambda: self._socket.recv(count_max), lambda descriptor: self._wait_for_bytes(descriptor, 1)
        )

    async def send_all(self, data: bytes, rate: ByteRate | None = None, *, more: bool = False) -> None:
        """Send all of `data`; `more` says that a file follows at once (one packet, not two)."""
        flags = socket.MSG_MORE if more else 0
        view = memoryview(data)
        while view:
            if rate is not None and rate.is_limited:
                await rate.spend(len(view))
            sent = await self._call(partial(self._socket.send, view, flags), trio.lowlevel.wait_writable)
            view = view[sent:]

    async def send_file(self, descriptor: int, offset: int, size: int, rate: ByteRate | None = None) -> None:
        """Send `size` bytes of a file. Raises FileShrunkError."""
        is_limited = rate is not None and rate.is_limited
        piece_max = LIMITED_PIECE_BYTES if is_limited else PIECE_BYTES
        out = self._socket.fileno()
        end = offset + size
        while offset < end:
            piece_end = min(offset + piece_max, end)
            if not is_cached(descriptor, offset, piece_end - offset):
                await trio.to_thread.run_sync(os.pread, descriptor, piece_end - offset, offset)
            if rate is not None and is_limited:
                await rate.spend(piece_end - offset)
            while offset < piece_end:
                sendfile = partial(os.sendfile, out, descriptor, offset, piece_end - offset)
                sent = await self._call(sendfile, trio.lowlevel.wait_writable)
                if sent == 0:
                    raise FileShrunkError("a file became shorter while it was sent")
                offset += sent
                if offset < piece_end:  # the buffer is full: trying at once would be in vain
                    self._calls = 0
                    await trio.lowlevel.wait_writable(out)

    async def _wait_for_bytes(self, descriptor: int, wanted: int) -> None:
        """Wait until there is something to read: `wanted` bytes or enough of them, or the end."""
        enough = min(wanted, ENOUGH_BYTES)
        if enough != self._enough_bytes:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, enough)
            self._enough_bytes = enough
        await trio.lowlevel.wait_readable(descriptor)

    async def _call(self, function: Callable[[], _T], wait: Callable[[int], Awaitable[None]]) -> _T:
        self._calls += 1
        if self._calls > CALLS_WITHOUT_YIELD_MAX:
            self._calls = 0
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return function()
            except BlockingIOError:
                self._calls = 0
                await wait(self._socket.fileno())
            except OSError as error:
                raise self._gone(error) from error

    def _gone(self, error: OSError) -> Exception:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this socket was closed")
        return trio.BrokenResourceError(f"the connection is gone: {error}")


def is_cached(descriptor: int, offset: int, size: int) -> bool:
    """Whether these bytes of a file can be had without the disk.

    A guess from the last byte; a wrong one costs one wait for the disk.
    """
    try:
        return os.preadv(descriptor, [bytearray(1)], offset + size - 1, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NOWAIT_UNSUPPORTED:  # a file system in memory, or one that cannot tell
            return True
        raise
