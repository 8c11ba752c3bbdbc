"""Where blocks come from: what a fetch session asks of a source, whatever it speaks (TCP gateway, Bitswap, HTTP, Kubo).

A source gives bytes; the session verifies them. So a source need not be trusted, and may be asked for anything.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol, runtime_checkable

from p2p.content.cid import Cid


class SourceFailedError(Exception):
    """The source cannot be used any further in this session (gone, banned, breaks its protocol); says why."""


class Rank(IntEnum):
    """Who is asked first: a source of a higher number only for what those below it lack or cannot give."""

    GATEWAY = 0
    """A daemon's trustless gateway over plain TCP: by far the fastest."""
    BITSWAP = 1
    """An IPFS peer over libp2p."""
    KUBO = 2
    """The operator's own Kubo: it may have to search the network itself."""
    WEB = 3
    """A public HTTP(S) gateway: last resort, shared with everyone."""


class BlockSource(Protocol):
    """A source of single blocks. `get` may run in several tasks at once, up to `window`."""

    @property
    def name(self) -> str:
        """For logs, counters and blame: `host:port`, a peer id, or a URL. Two sources of one name are one."""

    @property
    def rank(self) -> Rank:
        """When it is asked."""

    @property
    def window(self) -> int:
        """Requests it should have in flight: hides its latency, bounds what it can make us hold."""

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | bytearray | None:
        """Return the bytes the source calls `cid`, unverified, at most `bytes_max`; None if it lacks the block.

        Raises SourceFailedError. Cancelling is safe at any time; deadlines are the session's.
        """

    async def aclose(self) -> None:
        """Give back connections."""


@runtime_checkable
class HandlingSource(BlockSource, Protocol):
    """A source whose own threads receive blocks and do at once what is to be done with them.

    That saves waking another thread for each block, and moving its bytes to another core. How many threads it has is
    the session's to say, which knows how many sources share the cores; its window is by that.
    """

    @property
    def threads(self) -> int:
        """Threads it may have now."""

    @property
    def threads_max(self) -> int:
        """Threads it takes at most."""

    def use_threads(self, count: int) -> None:
        """Have so many threads from now on, `threads_max` at most. Nothing that is under way is broken off."""

    async def handle(
        self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
    ) -> Sequence[Cid]:
        """Have `handle` called in such a thread with the unverified bytes of each of these blocks as it comes, one
        after the other; return those that the source lacks.

        The buffer is used again when `handle` returns. Raises what `handle` raises, SourceFailedError, and
        trio.TooSlowError if the source alone took longer than `seconds_max` for all: time that threads spend in
        `handle` does not count against it. Some blocks may have been handled by then. Cancelling is safe at any time;
        a `handle` that was begun is waited for.
        """

    def close(self) -> None:
        """Give back all but what a `handle` that was begun needs, without waiting; whoever asks again is refused."""
