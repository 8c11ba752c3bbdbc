"""Leaf after leaf for a client that asks ahead: what is asked and sent as long as each request is like the one before.

Purpose: the least that can be done for a leaf of which is known where it is. Everything else, from another form of
request to a file that must be read from the disk, is left in the buffer for the connection's own task. No coroutines:
it runs in whichever thread takes the turn, and knows no clock.
"""

from dataclasses import dataclass
from typing import Protocol

from p2p.content.gateway.admission import GatewayLimits
from p2p.content.gateway.heads import whole_block_head
from p2p.content.gateway.metrics import GatewayMetrics
from p2p.content.gateway.places import OpenBlock
from p2p.content.gateway.request import BLOCK_REQUEST_BEGIN, CID_END, HEAD_END
from p2p.content.gateway.turns import FOR_BYTES, FOR_NOTHING, FOR_ROOM
from p2p.content.plain_socket import PIECE_BYTES, FileShrunkError, PlainSocket, is_cached

READ_BYTES = 16 * 1024
ANSWERS_PER_TURN_MAX = 2
"""About what a socket's buffer holds; at more, a fast reader would keep others waiting."""
QUIET_SECONDS_MAX = 1.0
"""Without a request for so long, the connection's own task waits for the next one. Its file is open until then."""

_CID_BEGIN = len(BLOCK_REQUEST_BEGIN)


class OpensLeaves(Protocol):
    """What of a gateway this needs."""

    def reopen_leaf(self, text: bytes, before: OpenBlock | None) -> OpenBlock | None:
        """Open a leaf of which is known where it is; None if it is not, or no leaf. For any thread.

        `before` is taken over if something is returned.
        """


@dataclass(frozen=True, slots=True)
class RunRules:
    """What holds for all runs of a gateway."""

    leaves: OpensLeaves
    limits: GatewayLimits
    metrics: GatewayMetrics


class LeafRun:
    """Of one connection; see `p2p.content.gateway.turns.Conversation`.

    `buffer` holds requests that have come; answered ones are cut off. `alike_end` is what follows the CID in each.
    """

    def __init__(
        self, rules: RunRules, socket: PlainSocket, buffer: bytearray, alike_end: bytes, last: OpenBlock | None
    ) -> None:
        """`last` is taken over: it may be of the same file."""
        self._leaves = rules.leaves
        self._limits = rules.limits
        self._metrics = rules.metrics
        self._socket = socket
        self._buffer = buffer
        self._request_end = alike_end + HEAD_END
        self._request_bytes = CID_END + len(self._request_end)
        self.last = last
        """The block that is sent, or was sent last; to be closed by whoever made this."""
        self._head = b""
        self._offset = self._end = 0
        """What is left to send of it."""
        self.steps = 0
        self.step_seconds = QUIET_SECONDS_MAX

    @property
    def descriptor(self) -> int:
        """The socket's."""
        return self._socket.descriptor

    @property
    def is_sending(self) -> bool:
        """Whether an answer is begun and not yet sent."""
        return self._offset < self._end

    def go_on(self) -> int:
        """Answer what has come, until the socket is full, there is nothing more, or it is others' turn.

        Raises FileShrunkError, trio.BrokenResourceError, and OSError if a file cannot be read.
        """
        for _ in range(ANSWERS_PER_TURN_MAX):
            if self._offset == self._end:
                waits_for = self._next()
                if waits_for is not None:
                    return waits_for
            if not self._send():
                return FOR_ROOM
        return FOR_ROOM

    def _next(self) -> int | None:
        """Begin the next answer; or return what is to be waited for instead."""
        buffer = self._buffer
        while len(buffer) < self._request_bytes:
            data = self._socket.receive_now(READ_BYTES)
            if not data:
                if buffer or data is not None:
                    return FOR_NOTHING  # half of a request has less time; or the client has ended
                self._allow(QUIET_SECONDS_MAX)
                return FOR_BYTES
            buffer += data
        if buffer[CID_END : self._request_bytes] != self._request_end or not buffer.startswith(BLOCK_REQUEST_BEGIN):
            return FOR_NOTHING
        text = bytes(buffer[_CID_BEGIN:CID_END])
        block = self._leaves.reopen_leaf(text, self.last)
        if block is None:
            return FOR_NOTHING
        self.last = block
        if block.size > PIECE_BYTES or not is_cached(block.descriptor, block.offset, block.size):
            return FOR_NOTHING
        del buffer[: self._request_bytes]
        self._metrics.count_answer(200)
        self._head = whole_block_head(text, block.size)
        self._offset, self._end = block.offset, block.offset + block.size
        self._allow(self._limits.answer_seconds(block.size))
        return None

    def _allow(self, seconds: float) -> None:
        self.step_seconds = seconds
        self.steps += 1

    def _send(self) -> bool:
        """Send of the answer what there is room for; return whether that was all."""
        if self.last is None:
            raise RuntimeError("a leaf is sent from no file")
        if self._head:
            self._head = self._head[self._socket.send_now(self._head, more=True) :]
            if self._head:
                return False
        sent = self._socket.send_file_now(self.last.descriptor, self._offset, self._end - self._offset)
        if sent is None:
            return False
        if sent == 0:
            raise FileShrunkError("a file became shorter while it was sent")
        self._offset += sent
        if self._offset < self._end:  # the buffer is full: trying at once would be in vain
            return False
        self._metrics.count_served(self.last.size)
        return True
