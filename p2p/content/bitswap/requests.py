"""What we want of one peer: who waits for which block, what has still to be told, what came without being wanted."""

from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from p2p.content.bitswap.messages import Block, Presence, Want, cid_of_name
from p2p.content.cid import Cid, Codec
from p2p.content.source import SourceFailedError

SETTLED_MAX = 4096
"""Blocks remembered as once wanted: they may still come, by a cancellation that crossed them or a second request."""
RECENT_SECONDS = 60.0
"""After the last want, for which a peer may still send us large messages."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One call that waits for one block."""

    done: trio.Event = field(default_factory=trio.Event)
    data: bytes | None = None
    error: str | None = None
    """Why the peer will not answer any more."""


class Requests:
    """The blocks we have asked of one peer. Bounded by the windows of those who ask."""

    def __init__(self) -> None:
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._settled: OrderedDict[bytes, None] = OrderedDict()
        self._unsent: dict[bytes, Want] = {}
        self._last_want_at = float("-inf")

    @property
    def expects_blocks(self) -> bool:
        """Whether blocks from this peer may be answers."""
        return bool(self._waiters) or trio.current_time() - self._last_want_at < RECENT_SECONDS

    @property
    def is_waiting(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiters)

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to tell the peer."""
        return bool(self._unsent)

    def add(self, cid: Cid) -> Waiter:
        """Want a block."""
        waiter = Waiter()
        self._waiters.setdefault(cid.digest, []).append(waiter)
        self.want_again(cid)
        return waiter

    def want_again(self, cid: Cid) -> None:
        """Tell the peer (once more)."""
        self._last_want_at = trio.current_time()
        self._unsent[cid.digest] = Want(cid.to_bytes(), send_dont_have=True)

    def remove(self, cid: Cid, waiter: Waiter) -> None:
        """No longer wait; the peer is told if nobody else does and it has not answered."""
        waiters = self._waiters.get(cid.digest, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                self._settle(cid.digest)
                self._unsent[cid.digest] = Want(cid.to_bytes(), cancel=True)

    def take_unsent(self) -> tuple[Want, ...]:
        """Return what the peer has to be told."""
        wants, self._unsent = tuple(self._unsent.values()), {}
        return wants

    def receive_block(self, block: Block) -> bool:
        """Give a block to those who wait for it; return False if it was never wanted. Hashes it."""
        digest = Cid.of(Codec.RAW, block.data).digest
        waiters = self._settle(digest)
        for waiter in waiters:
            waiter.data = block.data
            waiter.done.set()
        return bool(waiters) or digest in self._settled

    def receive_presence(self, presence: Presence) -> None:
        """Note that the peer lacks a block."""
        cid = cid_of_name(presence.name)
        if cid is None or presence.has or cid.digest not in self._waiters:
            return
        for waiter in self._settle(cid.digest):
            waiter.done.set()

    def fail(self, reason: str) -> None:
        """End every wait: the peer is gone, or not to be believed."""
        waiters, self._waiters = self._waiters, {}
        self._unsent.clear()
        for several in waiters.values():
            for waiter in several:
                waiter.error = reason
                waiter.done.set()

    def result(self, waiter: Waiter) -> bytes | None:
        """Return what a finished wait brought. Raises SourceFailedError."""
        if waiter.error is not None:
            raise SourceFailedError(waiter.error)
        return waiter.data

    def _settle(self, digest: bytes) -> list[Waiter]:
        """Return who waited; the digest is remembered if anybody did."""
        waiters = self._waiters.pop(digest, None)
        if waiters is None:
            return []
        self._settled[digest] = None
        if len(self._settled) > SETTLED_MAX:
            self._settled.popitem(last=False)
        return waiters
