"""Sends bytes and parts of files to a client: from the page cache by sendfile, without a copy and without a thread.

Bytes that are not in the page cache are brought there by a worker thread first: sendfile would wait for the disk, and
with it every other task of the daemon.
"""

import errno
import os
import socket

import trio

from p2p.content.rate import ByteRate

PIECE_BYTES = 512 * 1024
"""One sendfile: what fits a socket's buffer at best, and what a rate limit lets through at once."""
LIMITED_PIECE_BYTES = 64 * 1024
"""The same where the rate is limited."""
_NOWAIT_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FileShrunkError(Exception):
    """A file ended before the bytes that were promised of it; the connection cannot go on."""


class Sender:
    """The sending half of one connection."""

    def __init__(self, stream: trio.SocketStream, rate: ByteRate) -> None:
        """`rate` is shared by all connections."""
        self._stream = stream
        self._socket = stream.socket
        self._rate = rate
        self.sent_bytes = 0

    async def send(self, data: bytes, *, more: bool = False) -> None:
        """Send all of `data`; `more` says that a file follows at once (one packet, not two)."""
        flags = socket.MSG_MORE if more else 0
        view = memoryview(data)
        while view:
            if self._rate.is_limited:
                await self._rate.spend(len(view))
            sent = await self._socket.send(view, flags)
            self.sent_bytes += sent
            view = view[sent:]

    async def send_file(self, descriptor: int, offset: int, size: int) -> None:
        """Send `size` bytes of a file. Always a checkpoint. Raises FileShrunkError, trio.BrokenResourceError."""
        piece_max = LIMITED_PIECE_BYTES if self._rate.is_limited else PIECE_BYTES
        end = offset + size
        while offset < end:
            piece = min(piece_max, end - offset)
            if not _is_cached(descriptor, offset, piece):
                await trio.to_thread.run_sync(_read_ahead, descriptor, offset, piece)
            if self._rate.is_limited:
                await self._rate.spend(piece)
            piece_end = offset + piece
            while offset < piece_end:
                try:
                    sent = os.sendfile(self._socket.fileno(), descriptor, offset, piece_end - offset)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket.fileno())
                    continue
                except OSError as error:
                    raise trio.BrokenResourceError(f"the reader is gone: {error}") from error
                if sent == 0:
                    raise FileShrunkError("a file became shorter while it was sent")
                offset += sent
                self.sent_bytes += sent
        await trio.lowlevel.checkpoint()


def _is_cached(descriptor: int, offset: int, size: int) -> bool:
    """Guess from the first and last byte; a wrong guess costs one wait for the disk."""
    probe = bytearray(1)
    try:
        return all(os.preadv(descriptor, [probe], at, os.RWF_NOWAIT) for at in (offset, offset + size - 1))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NOWAIT_UNSUPPORTED:  # a file system in memory, or one that cannot tell
            return True
        raise


def _read_ahead(descriptor: int, offset: int, size: int) -> None:
    os.pread(descriptor, size, offset)
