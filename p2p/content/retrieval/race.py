"""Gets many blocks from several sources at once: one list of work, from which each source takes as fast as it can.

Purpose: no source is waited for. One that is slow gets less to do; what it still holds when nothing else is left is
asked of another too, and whoever comes second is cancelled. One that lies, stalls or fails is dropped for the session
and blamed, unless it is only slow; its blocks are asked elsewhere. One that lacks a block is only not asked for that
block again.

Detail: blocks wait in `_shared`, in the order of the file, and only sources of the lowest rank alive take from there.
A source takes one block at a time, or a few if it has threads of its own and gives a block in milliseconds: then the
event loop has one turn for all of them (docs/decisions/0057).
A block that came back (lacked, lost) waits in the queue of each source that may be asked next. Blocks that nobody
present may be asked for are orphans: they wake the recruiter, which brings in sources held in reserve, then asks for
more sources once, and then gives the orphans up.
"""

import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum, auto

import structlog
import trio

from p2p.content.cid import Cid
from p2p.content.rate import ByteRate
from p2p.content.retrieval.hands import Hands, open_hands
from p2p.content.source import BlockSource, HandlingSource, SourceFailedError
from p2p.content.unixfs import BLOCK_BYTES_MAX
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

SOURCES_ACTIVE_MAX = 6
"""Asked at once; the rest wait in reserve. This bounds memory: a gateway takes a block for each of its connections,
others up to their window and what waits for the writers."""
SOURCES_MAX = 64
"""Considered in one session."""
BLOCK_SECONDS_MAX = 30.0
"""For one block, whatever it waits for; a source slower than 35 kB/s is of no use."""
HEDGE_SECONDS_MIN = 0.5
"""A block younger than this is not asked twice: it is likely on its way."""
HEDGE_FACTOR = 2.0
"""Nor one for which this source itself would need more than half the time it took already."""
HEDGE_SECONDS_UNKNOWN = 2.0
"""The same for a source that has given nothing yet."""
RUNS_PER_BLOCK_MAX = 2
IDLE_SECONDS_MAX = 0.5
QUICK_PART = 8
"""A block that came within this part of its time lets its source have one more request under way, up to its window."""
SLOW_PART = 4
"""One that took longer than this part halves them. So a thin line has one block under way, and gets it in time."""
LACKS_FREE = 16
"""Blocks a source may lack in a row before it is asked more slowly: it may have nothing of this tree."""
LACK_SECONDS = 0.01
"""Pause for each block in a row beyond that, up to a second."""
SMOOTHING = 0.2
"""Weight of the newest block in a source's mean time."""
RUN_BLOCKS_MAX = 4
"""Blocks asked of a source at once. One turn of the event loop costs about as much as hashing 100 kB; at more, the ends
of a fetch get uneven, and a block waits longer until somebody else is asked."""
RUN_SECONDS_MAX = 0.02
"""What a source gives in that time may be asked of it at once: so late is it told of, and asked for more."""
WRITERS_MAX = 3
"""Threads that hash and write what comes from sources without threads of their own: one per core that a fetch may fill,
and one that waits for the disk."""

Deliver = Callable[[Cid, bytes | bytearray], None]
"""Takes verified bytes; called in worker threads, several at once. What it raises ends the race."""
Taken = Callable[[Cid, int], None]
"""Told of each delivered block and its size, in the trio thread. What it raises ends the race."""
MoreSources = Callable[[], Awaitable[Sequence[BlockSource]]]


@dataclass(slots=True)
class RaceCounts:
    """What a session fetched."""

    fetched_bytes: Counter[str] = field(default_factory=Counter)
    """Verified bytes that were taken, by source."""
    duplicate_bytes: int = 0
    """Bytes of blocks that came whole a second time."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a source was dropped, or that it lacked blocks."""
    failed: set[str] = field(default_factory=set)
    """Sources that were dropped."""


class _Outcome(Enum):
    TAKEN = auto()
    DUPLICATE = auto()
    CORRUPT = auto()


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A block that came whole."""

    outcome: _Outcome
    size: int
    seconds: float
    """From when it was asked for until it had come, without what we then did with it."""


@dataclass(slots=True, eq=False)
class _Peer:
    source: BlockSource
    handling: HandlingSource | None = field(init=False)
    """The source again, if it has threads of its own."""
    queue: deque[Cid] = field(default_factory=deque)
    """Blocks that came back and that this source may be asked for."""
    runs: set["_Run"] = field(default_factory=set)
    dropped: bool = False
    block_seconds: float | None = None
    lacks: int = 0
    """Blocks it lacked since it last gave one."""
    excused_at: float | None = None
    """When it last gave a block, or had a request taken from it that its line may have been busy with."""
    room: int = 1
    """Blocks that may be under way before it is asked for more."""
    under_way: int = 0
    """Not counted any more before the block is hashed and written: the line must not wait for the disk."""
    run_blocks: int = 1
    """Blocks it is asked for at once."""
    waiting: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    """Workers that wait for room."""

    def __post_init__(self) -> None:
        self.handling = self.source if isinstance(self.source, HandlingSource) else None

    def adapt(self, seconds: float, block_seconds_max: float) -> None:
        """Learn from a block that came within so many seconds of at most so many."""
        if seconds > block_seconds_max / SLOW_PART:
            self.room = max(1, self.room // 2)
        elif seconds < block_seconds_max / QUICK_PART and self.room < self.source.window:
            self.room += 1
        each = seconds / self.room  # the others were under way meanwhile
        if each * self.run_blocks > RUN_SECONDS_MAX:
            self.run_blocks = max(1, self.run_blocks // 2)
        elif self.handling is not None and each * (self.run_blocks + 1) < RUN_SECONDS_MAX:
            self.run_blocks = min(RUN_BLOCKS_MAX, self.run_blocks + 1)
        self.block_seconds = (
            seconds if self.block_seconds is None else self.block_seconds + SMOOTHING * (seconds - self.block_seconds)
        )

    def take_room(self, count: int) -> None:
        """Count blocks as under way. If there is room for more, another worker is to see to it."""
        self.under_way += count
        self.wake_one()

    def wake_one(self) -> None:
        """Wake a worker if there is room."""
        if self.under_way < self.room:
            self.waiting.unpark()

    def hedge_after_seconds(self) -> float:
        if self.block_seconds is None:
            return HEDGE_SECONDS_UNKNOWN
        return max(HEDGE_SECONDS_MIN, HEDGE_FACTOR * self.block_seconds)


@dataclass(slots=True, eq=False)
class _Run:
    """One request for a block, or for several at once, at one source."""

    peer: _Peer
    cids: list[Cid]
    started: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    room_taken: int = 0
    arrivals: dict[Cid, _Arrival] = field(default_factory=dict)
    """Filled by whatever thread receives blocks."""
    lacked: Sequence[Cid] = ()
    failure: tuple[str, Offence | None] | None = None
    """Why its source is to be dropped."""

    def take_room(self) -> None:
        """Count its blocks as under way."""
        self.room_taken = len(self.cids)
        self.peer.take_room(self.room_taken)

    def release_room(self) -> None:
        """Let other requests go. Whoever does not go on to ask for more wakes a worker."""
        self.peer.under_way -= self.room_taken
        self.room_taken = 0


class BlockRace:
    """One session with a set of sources. Use `run` as often as there is something to fetch, then `aclose`."""

    def __init__(
        self,
        sources: Iterable[BlockSource],
        *,
        in_reserve: Iterable[BlockSource] = (),
        more_sources: MoreSources | None = None,
        standing: Standing | None = None,
        rate: ByteRate | None = None,
        block_seconds: float = BLOCK_SECONDS_MAX,
    ) -> None:
        """`in_reserve` are asked only when the others cannot give everything, `more_sources` (once) only after them."""
        self.counts = RaceCounts()
        self._standing = standing
        self._rate = rate or ByteRate(0)
        self._block_seconds = block_seconds
        self._more_sources = more_sources
        self._known: dict[str, BlockSource] = {}
        self._peers: list[_Peer] = []
        self._reserve: deque[BlockSource] = deque()
        self._add_sources(sources)
        self._admit(in_reserve)
        # Of one run:
        self._shared: deque[Cid] = deque()
        self._open = 0
        """Blocks neither delivered nor given up."""
        self._tried: dict[Cid, set[_Peer]] = {}
        """Open blocks that came back at least once, and who was asked in vain."""
        self._running: dict[Cid, list[_Run]] = {}
        self._orphans: dict[Cid, None] = {}
        """A set in order: a block may have waited in several queues whose sources were dropped."""
        self._missing: list[Cid] = []
        self._changed = trio.Event()
        self._claims = threading.Lock()
        self._claimed: set[Cid] = set()

    async def run(
        self,
        wanted: Iterable[Cid],
        deliver: Deliver,
        *,
        bytes_max: int = BLOCK_BYTES_MAX,
        bytes_expected: int = 1024 * 1024,
        taken: Taken | None = None,
    ) -> list[Cid]:
        """Fetch blocks (no block twice) about in this order; return those that nobody gave.

        `bytes_expected` is what the rate limit is charged before a block's size is known. Raises what `deliver` or
        `taken` raises.
        """
        self._shared = deque(wanted)
        self._open = len(self._shared)
        self._tried, self._running, self._orphans, self._missing = {}, {}, {}, []
        self._claimed = set()
        if not self._open:
            return []
        try:
            async with open_hands(WRITERS_MAX) as writers, trio.open_nursery() as nursery:
                job = _Job(deliver, bytes_max, bytes_expected, taken, writers)
                nursery.start_soon(self._recruit, nursery, job)
                for peer in self._peers:
                    if not peer.dropped:
                        self._start(nursery, peer, job)
        except BaseExceptionGroup as group:
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            raise leaf from group
        return self._missing

    async def aclose(self) -> None:
        """Give back the connections of all sources."""
        for source in self._known.values():
            if isinstance(source, HandlingSource):
                source.close()  # all of them, before one is waited for
        async with AsyncExitStack() as stack:  # an error of one does not keep the others
            for source in self._known.values():
                stack.push_async_callback(source.aclose)

    # --- Sources ------------------------------------------------------------------------------------------------------

    def _add_sources(self, sources: Iterable[BlockSource]) -> None:
        self._admit(sources)
        while self._reserve and len(self._live()) < SOURCES_ACTIVE_MAX:
            self._peers.append(_Peer(self._reserve.popleft()))

    def _admit(self, sources: Iterable[BlockSource]) -> None:
        for source in sources:
            if source.name in self._known or len(self._known) == SOURCES_MAX:
                continue
            self._known[source.name] = source
            if self._standing is not None and self._standing.is_banned(source.name):
                self.counts.reasons[source.name] = "banned"
                continue
            self._reserve.append(source)
        # Stable: within a rank the order of the caller, who knows which ones failed lately.
        self._reserve = deque(sorted(self._reserve, key=lambda source: source.rank))

    def _live(self) -> list[_Peer]:
        return [peer for peer in self._peers if not peer.dropped]

    def _level(self) -> int | None:
        """The rank that takes fresh blocks."""
        return min((peer.source.rank for peer in self._live()), default=None)

    def _start(self, nursery: trio.Nursery, peer: _Peer, job: "_Job") -> None:
        peer.run_blocks = 1  # what it gave before may have been of another size
        # A block that our own threads write has no request under way any more.
        for _ in range(peer.source.window + (WRITERS_MAX if peer.handling is None else 0)):
            nursery.start_soon(self._work, peer, job)

    def _drop(self, peer: _Peer, reason: str, offence: Offence | None) -> None:
        if peer.dropped:
            return
        peer.dropped = True
        name = peer.source.name
        log.warning("a content source is dropped", source=name, reason=reason)
        self.counts.reasons[name] = reason
        self.counts.failed.add(name)
        if self._standing is not None and offence is not None:
            self._standing.blame(name, offence, reason)
        peer.waiting.unpark_all()
        for run in peer.runs:
            run.scope.cancel()
        if peer.handling is not None:
            peer.handling.close()  # not held until the fetch ends: there may be many like it
        waiting, peer.queue = peer.queue, deque()
        for cid in waiting:
            if cid in self._tried and cid not in self._running:
                self._place(cid)
        self._notify()

    async def _recruit(self, nursery: trio.Nursery, job: "_Job") -> None:
        """Bring in more sources as long as blocks have nobody to be asked of; then give those blocks up."""
        while self._open:
            stranded = self._orphans or (self._shared and not self._live())
            if not stranded:
                await self._changed.wait()
                continue
            before = len(self._peers)
            if self._reserve:
                self._peers.append(_Peer(self._reserve.popleft()))
            elif self._more_sources is not None:
                more_sources, self._more_sources = self._more_sources, None
                self._add_sources(await more_sources())
            else:
                self._give_up()
                continue
            for peer in self._peers[before:]:
                self._start(nursery, peer, job)
            orphans, self._orphans = self._orphans, {}
            for cid in orphans:
                self._place(cid)
            self._notify()

    def _give_up(self) -> None:
        lost = list(self._orphans)
        self._orphans = {}
        if not self._live():
            lost.extend(self._shared)
            self._shared.clear()
        self._missing.extend(lost)
        self._open -= len(lost)
        for cid in lost:
            self._tried.pop(cid, None)
        self._notify()

    # --- Blocks -------------------------------------------------------------------------------------------------------

    async def _work(self, peer: _Peer, job: "_Job") -> None:
        while self._open and not peer.dropped:
            if peer.under_way >= peer.room:
                await peer.waiting.park()
                continue
            cids = self._next_for(peer)
            if cids:
                await self._attempt(peer, cids, job)
                if peer.lacks > LACKS_FREE and len(self._live()) > 1:
                    peer.wake_one()
                    await trio.sleep(min(LACK_SECONDS * (peer.lacks - LACKS_FREE), 1.0))
                continue
            peer.take_room(1)  # not all workers need to look out for something to do
            try:
                # Not for ever: a run that starts elsewhere while this waits is one to hedge.
                with trio.move_on_at(min(self._next_hedge(peer), trio.current_time() + IDLE_SECONDS_MAX)):
                    await self._changed.wait()
            finally:
                peer.under_way -= 1

    def _next_for(self, peer: _Peer) -> list[Cid]:
        """Take what this source is to be asked for next: several blocks only of those nobody was asked for."""
        while peer.queue:
            cid = peer.queue.popleft()
            if cid in self._tried and cid not in self._running and peer not in self._tried[cid]:
                return [cid]
        if self._shared and peer.source.rank == self._level():
            # Few at the end, so that all sources come to theirs at about the same time.
            even = len(self._shared) // max(1, sum(other.under_way for other in self._live()))
            count = 1 if self._rate.is_limited else max(1, min(peer.run_blocks, even, len(self._shared)))
            return [self._shared.popleft() for _ in range(count)]
        now = trio.current_time()
        late = next((cid for cid, at in self._hedges(peer) if at <= now), None)
        return [] if late is None else [late]

    def _hedges(self, peer: _Peer) -> Iterable[tuple[Cid, float]]:
        """Blocks under way elsewhere that this source might be asked for too, and from when on."""
        for cid, runs in self._running.items():
            if (
                len(runs) < RUNS_PER_BLOCK_MAX
                and runs[0].peer is not peer
                and runs[0].peer.source.rank >= peer.source.rank
                and cid not in self._claimed
                and peer not in self._tried.get(cid, ())
            ):
                yield cid, runs[0].started + peer.hedge_after_seconds()

    def _next_hedge(self, peer: _Peer) -> float:
        return min((at for _, at in self._hedges(peer)), default=float("inf"))

    async def _attempt(self, peer: _Peer, cids: list[Cid], job: "_Job") -> None:
        run = _Run(peer, cids, trio.current_time())
        run.take_room()
        peer.runs.add(run)
        for cid in cids:
            self._running.setdefault(cid, []).append(run)
        try:
            with run.scope:
                await self._ask(run, job)
            # Cancelled or not: what has come counts.
            sizes = self._judge(run)
        finally:
            run.release_room()
            peer.runs.discard(run)
            others = [self._others(cid, run) for cid in cids]
        for cid, twins in zip(cids, others, strict=True):
            self._settle(cid, sizes.get(cid), twins, job)

    def _others(self, cid: Cid, run: _Run) -> list[_Run]:
        """Take a run off a block; return the others that it has."""
        runs = self._running[cid]
        runs.remove(run)
        if not runs:
            del self._running[cid]
        return runs

    def _settle(self, cid: Cid, size: int | None, twins: list[_Run], job: "_Job") -> None:
        """See to a block after a run for it: `size` if the run delivered it, `twins` are asked for it still."""
        if size is not None:
            self._tried.pop(cid, None)
            self._open -= 1
            for twin in twins:
                twin.peer.excused_at = trio.current_time()
                if self._claimed.issuperset(twin.cids):  # otherwise it is to bring others
                    twin.scope.cancel()
            if not self._open:
                self._notify()
            if job.taken is not None:
                job.taken(cid, size)
        elif not twins and cid not in self._claimed:
            self._place(cid)
        if not twins:
            self._claimed.discard(cid)

    async def _ask(self, run: _Run, job: "_Job") -> None:
        """Ask for blocks and deliver what comes; note in `run` what became of it."""
        peer = run.peer
        expected = job.bytes_expected * len(run.cids)
        if self._rate.is_limited:
            await self._rate.spend(expected)
            run.started = trio.current_time()
        try:
            if peer.handling is None:
                run.lacked = await self._receive(run, job)
            else:
                run.lacked = await self._have_handled(peer.handling, run, job)
        except trio.TooSlowError:
            run.failure = f"no block within {self._block_seconds:g} s", Offence.STALLED
        except SourceFailedError as error:
            run.failure = str(error), None
        finally:
            self._rate.correct(-expected)

    def _judge(self, run: _Run) -> dict[Cid, int]:
        """Draw conclusions from what a source did; return the blocks that were delivered, and their sizes."""
        peer, name = run.peer, run.peer.source.name
        sizes: dict[Cid, int] = {}
        for cid, arrival in run.arrivals.items():
            self._rate.correct(arrival.size)
            peer.excused_at = trio.current_time()
            match arrival.outcome:
                case _Outcome.CORRUPT:
                    self._tried.setdefault(cid, set()).add(peer)
                    self._drop(peer, f"sent other bytes for {cid}", Offence.CORRUPT_BLOCK)
                case _Outcome.DUPLICATE:
                    self.counts.duplicate_bytes += arrival.size
                case _Outcome.TAKEN:
                    peer.lacks = 0
                    peer.adapt(arrival.seconds, self._block_seconds)
                    self.counts.fetched_bytes[name] += arrival.size
                    sizes[cid] = arrival.size
        for cid in run.lacked:
            self._tried.setdefault(cid, set()).add(peer)
            self.counts.reasons.setdefault(name, "lacks blocks")
            peer.lacks += 1
        if run.failure is not None:
            reason, offence = run.failure
            # Whoever gave others meanwhile is slow, which is no offence: it is of no use here, and that is all.
            is_excused = peer.excused_at is not None and peer.excused_at >= run.started
            self._drop(peer, reason, None if is_excused else offence)
        return sizes

    async def _receive(self, run: _Run, job: "_Job") -> Sequence[Cid]:
        """Have a block received and then, in a thread of ours, verified and delivered; return it if it is lacked."""
        (cid,) = run.cids
        peer = run.peer
        try:
            with trio.fail_after(self._block_seconds):
                data = await peer.source.get(cid, bytes_max=job.bytes_max)
        except ValueError as error:  # of what it was told or sent; that of a delivery would be of the content
            raise SourceFailedError(f"it cannot be asked: {error}") from error
        finally:
            run.release_room()
            peer.wake_one()
        if data is None:
            return run.cids
        seconds = trio.current_time() - run.started
        outcome = await job.writers.do(lambda: self._take(cid, data, job))
        run.arrivals[cid] = _Arrival(outcome, len(data), seconds)
        return ()

    async def _have_handled(self, source: HandlingSource, run: _Run, job: "_Job") -> Sequence[Cid]:
        """The same where the source has threads for it, for several blocks."""
        now = trio.lowlevel.current_clock().current_time

        def handle(cid: Cid, data: bytearray) -> None:
            seconds = now() - run.started  # before our disk takes its time
            run.arrivals[cid] = _Arrival(self._take(cid, data, job), len(data), seconds)

        return await source.handle(run.cids, handle, bytes_max=job.bytes_max, seconds_max=self._block_seconds)

    def _take(self, cid: Cid, data: bytes | bytearray, job: "_Job") -> _Outcome:
        """Verify and deliver, in a worker thread. Of two who bring one block, only the first delivers."""
        if len(data) > job.bytes_max or not cid.matches(data):
            return _Outcome.CORRUPT
        with self._claims:
            if cid in self._claimed:
                return _Outcome.DUPLICATE
            self._claimed.add(cid)
        job.deliver(cid, data)
        return _Outcome.TAKEN

    def _place(self, cid: Cid) -> None:
        """Queue an open block that nobody is fetching with those who may be asked next."""
        tried = self._tried.setdefault(cid, set())
        able = [peer for peer in self._live() if peer not in tried]
        if not able:
            self._orphans[cid] = None
        else:
            level = min(peer.source.rank for peer in able)
            for peer in able:
                if peer.source.rank == level:
                    peer.queue.append(cid)
        self._notify()

    def _notify(self) -> None:
        if not self._open:
            for peer in self._peers:
                peer.waiting.unpark_all()
        self._changed.set()
        self._changed = trio.Event()


@dataclass(frozen=True, slots=True)
class _Job:
    """What one `run` was asked for."""

    deliver: Deliver
    bytes_max: int
    bytes_expected: int
    taken: Taken | None
    writers: Hands
