"""Sends raw blocks to a client that asks for one after another faster than they can be sent, in a thread.

Purpose: a model is thousands of requests that differ in nothing but the CID. A thread that sends whole blocks by calls
that block is woken by the kernel within them; the event loop had two or three turns for each block, which took as much
as the kernel took for sending it, and other tasks of the daemon waited for it meanwhile.

Detail: the event loop lends the connection, with what was received of it, and gets it back as soon as anything is out
of the ordinary: another kind of request, a block that is not known to be there, a client that does not read or ask
quickly. So everything that is slow, odd or refused is the event loop's, and nobody holds a thread by being slow.
"""

import os
import socket
import time
from dataclasses import dataclass

import trio

from p2p.content.cid import Cid, CidError
from p2p.content.gateway.heads import whole_block_head
from p2p.content.gateway.metrics import GatewayMetrics
from p2p.content.gateway.places import BlockPlaces, OpenBlock
from p2p.content.gateway.request import BLOCK_REQUEST_BEGIN, CID_END, HEAD_END, Request
from p2p.content.plain_socket import FileShrunkError

THREADS_MAX = max(4, os.cpu_count() or 1)
"""Connections served so at once; all others are the event loop's, which serves them as well, at more cost."""
CALL_SECONDS_MAX = 0.1
"""A client that takes longer to ask, or to read 64 KiB, gets its thread taken away; the kernel keeps this time."""
BLOCK_SECONDS_MAX = 0.2
"""The same for a block."""
PAUSE_SECONDS = 5.0
"""For so long after that: the event loop serves a slow reader for next to nothing."""
SMALLEST_BYTES = 64 * 1024
"""Smaller blocks are verified before they are sent, which is the event loop's to have done."""
RECEIVE_BYTES = 16 * 1024

_UNLIKE_OTHERS = frozenset(("range", "if-range", "if-none-match"))
"""Headers whose meaning depends on the CID, or that want less than a whole block."""


@dataclass(slots=True)
class Unsent:
    """What is left of an answer that was begun."""

    head: bytes
    block: OpenBlock
    offset: int
    """In the file."""
    size: int


def common_end(request: Request, head: bytes) -> bytes | None:
    """Return what follows the CID in `head`, which was answered by a whole raw block, if others like it may follow.

    A request with the same end means the same for another CID: same token, same form, same connection.
    """
    if (
        request.method != "GET"
        or not request.keep_alive
        or not request.reads_chunks
        or not head.startswith(BLOCK_REQUEST_BEGIN)
        or not _UNLIKE_OTHERS.isdisjoint(request.headers)
    ):
        return None
    end = head[CID_END:]
    return end if end.startswith((b"?", b" ")) else None


class Bulk:
    """One loan of a connection. `send` runs in a thread; the fields are the event loop's again when it has returned."""

    def __init__(self, connected: socket.socket, buffer: bytearray, end: bytes, last: OpenBlock | None) -> None:
        """`connected` blocks, with CALL_SECONDS_MAX; `buffer` is what was received and not yet answered, `end` what
        every request has after its CID, `last` an open block whose file may be used again."""
        self._connected = connected
        self._buffer = buffer
        self._end = end
        self.last = last
        """The block sent last, open."""
        self.unsent: Unsent | None = None
        self.is_slow = False
        """Whether the client was too slow for a thread."""

    def send(self, places: BlockPlaces, metrics: GatewayMetrics) -> None:
        """Answer requests until one is not of the kind, or the client is slow. Blocking.

        Raises OSError when the connection is gone, FileShrunkError, trio.Cancelled (of the task that lent it).
        """
        while self.unsent is None and not self.is_slow:
            trio.from_thread.check_cancelled()
            text = self._next()
            if text is None:
                return
            try:
                cid = Cid.parse(text.decode("ascii"))
            except (CidError, UnicodeDecodeError):
                return
            block = places.reopen(cid, self.last)
            if block is None:
                return
            self.last = block
            if block.size <= SMALLEST_BYTES:
                return
            del self._buffer[: CID_END + len(self._end) + len(HEAD_END)]
            begun = time.monotonic()
            metrics.count_answer(200)
            self._send_block(whole_block_head(text, block.size), block)
            if self.unsent is None:
                metrics.count_bytes(block.size)
                self.is_slow = time.monotonic() - begun > BLOCK_SECONDS_MAX

    def _next(self) -> bytes | None:
        """Return the CID that is asked for next, leaving its request where it is; None if it is another request."""
        length = CID_END + len(self._end) + len(HEAD_END)
        while len(self._buffer) < length:
            if HEAD_END in self._buffer:
                return None
            try:
                data = self._connected.recv(RECEIVE_BYTES)
            except BlockingIOError:
                self.is_slow = True
                return None
            if not data:  # the event loop will see the end too
                return None
            self._buffer += data
        head = bytes(self._buffer[:length])
        if not head.startswith(BLOCK_REQUEST_BEGIN) or head[CID_END:] != self._end + HEAD_END:
            return None
        return head[len(BLOCK_REQUEST_BEGIN) : CID_END]

    def _send_block(self, head: bytes, block: OpenBlock) -> None:
        """Send an answer, or note in `unsent` what is left of it."""
        offset, end = block.offset, block.offset + block.size
        out = self._connected.fileno()
        try:
            while head:
                head = head[self._connected.send(head, socket.MSG_MORE) :]
            while offset < end:
                sent = os.sendfile(out, block.descriptor, offset, end - offset)
                if sent == 0:
                    raise FileShrunkError("a file became shorter while it was sent")
                offset += sent
        except BlockingIOError:
            self.is_slow = True
            self.unsent = Unsent(head, block, offset, end - offset)
