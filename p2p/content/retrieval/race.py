"""Gets many blocks from several sources at once: one list of work, from which each source takes as fast as it can.

Purpose: no source is waited for. One that is slow gets less to do; what it still holds when nothing else is left is
asked of another too, and whoever comes second is cancelled. One that lies, stalls or fails is dropped for the session
and blamed, unless it is only slow; its blocks are asked elsewhere. One that lacks a block is only not asked for that
block again.

Detail: blocks wait in `_shared`, in the order of the file, and only sources of the lowest rank alive take from there,
as many of them as help (p2p/content/retrieval/breadth.py): the others rest until our threads wait for blocks.
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

import structlog
import trio

from p2p.content.cid import Cid
from p2p.content.rate import ByteRate
from p2p.content.retrieval.breadth import INTERVAL_SECONDS
from p2p.content.retrieval.effort import Effort
from p2p.content.retrieval.hands import Hands, open_hands
from p2p.content.retrieval.peer import Arrival, Outcome, Peer, Run
from p2p.content.retrieval.roster import WRITERS_MAX, Roster
from p2p.content.retrieval.steering import Steering
from p2p.content.source import BlockSource, HandlingSource, SourceFailedError
from p2p.content.unixfs import BLOCK_BYTES_MAX
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

BLOCK_SECONDS_MAX = 30.0
"""For one block, whatever it waits for; a source slower than 35 kB/s is of no use."""
RUNS_PER_BLOCK_MAX = 2
IDLE_SECONDS_MAX = 0.5
LACKS_FREE = 16
"""Blocks a source may lack in a row before it is asked more slowly: it may have nothing of this tree."""
LACK_SECONDS = 0.01
"""Pause for each block in a row beyond that, up to a second."""
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
        self._roster = Roster(standing, self.counts.reasons)
        self._roster.add(sources)
        self._roster.admit(in_reserve)
        self._effort = Effort()
        # Of one run:
        self._shared: deque[Cid] = deque()
        self._open = 0
        """Blocks neither delivered nor given up."""
        self._tried: dict[Cid, set[Peer]] = {}
        """Open blocks that came back at least once, and who was asked in vain."""
        self._running: dict[Cid, list[Run]] = {}
        self._orphans: dict[Cid, None] = {}
        """A set in order: a block may have waited in several queues whose sources were dropped."""
        self._missing: list[Cid] = []
        self._steering = Steering(self._roster, self._effort, 0.0, blocks=0)
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
        self._steering = Steering(self._roster, self._effort, trio.current_time(), blocks=self._open)
        try:
            async with open_hands(WRITERS_MAX) as writers, trio.open_nursery() as nursery:
                job = _Job(deliver, bytes_max, bytes_expected, taken, writers)
                nursery.start_soon(self._recruit, nursery, job)
                nursery.start_soon(self._steer, nursery, job)
                for peer in self._roster.live():
                    self._start(nursery, peer, job)
        except BaseExceptionGroup as group:
            leaf: BaseException = group
            while isinstance(leaf, BaseExceptionGroup):
                leaf = leaf.exceptions[0]
            raise leaf from group
        return self._missing

    async def aclose(self) -> None:
        """Give back the connections of all sources."""
        for source in self._roster.known.values():
            if isinstance(source, HandlingSource):
                source.close()  # all of them, before one is waited for
        async with AsyncExitStack() as stack:  # an error of one does not keep the others
            for source in self._roster.known.values():
                stack.push_async_callback(source.aclose)

    # --- Sources ------------------------------------------------------------------------------------------------------

    def _start(self, nursery: trio.Nursery, peer: Peer, job: "_Job") -> None:
        peer.run_blocks = 1  # what it gave before may have been of another size
        peer.workers = 0
        self._staff(nursery, peer, job)

    def _staff(self, nursery: trio.Nursery, peer: Peer, job: "_Job") -> None:
        """Have as many workers as may have something to do."""
        # A block that our own threads write has no request under way any more.
        wanted = peer.source.window + (WRITERS_MAX if peer.handling is None else 0)
        for _ in range(peer.workers, wanted):
            nursery.start_soon(self._work, peer, job)
        peer.workers = max(peer.workers, wanted)

    def _drop(self, peer: Peer, reason: str, offence: Offence | None) -> None:
        if peer.dropped:
            return
        self._roster.drop(peer)
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
            stranded = self._orphans or (self._shared and not self._roster.live())
            if not stranded:
                await self._changed.wait()
                continue
            before = len(self._roster.peers)
            if self._roster.enlist():
                pass
            elif self._more_sources is not None:
                more_sources, self._more_sources = self._more_sources, None
                self._roster.add(await more_sources())
            else:
                self._give_up()
                continue
            self._roster.share_threads()
            for peer in self._roster.peers[before:]:
                self._start(nursery, peer, job)
            orphans, self._orphans = self._orphans, {}
            for cid in orphans:
                self._place(cid)
            self._notify()

    async def _steer(self, nursery: trio.Nursery, job: "_Job") -> None:
        """Have as many sources asked as keep our threads at work."""
        while self._open:
            await self._pause(INTERVAL_SECONDS)
            was_busy = self._steering.is_busy
            if self._steering.look(trio.current_time()):
                for peer in self._roster.asked():
                    self._staff(nursery, peer, job)
                    peer.wake_one()
                self._notify()
            elif was_busy and not self._steering.is_busy:
                self._notify()  # what is late may be asked of others now

    def _give_up(self) -> None:
        lost = list(self._orphans)
        self._orphans = {}
        if not self._roster.live():
            lost.extend(self._shared)
            self._shared.clear()
        self._missing.extend(lost)
        self._open -= len(lost)
        for cid in lost:
            self._tried.pop(cid, None)
        self._notify()

    # --- Blocks -------------------------------------------------------------------------------------------------------

    async def _work(self, peer: Peer, job: "_Job") -> None:
        while self._open and not peer.dropped:
            if peer.under_way >= peer.room:
                await peer.waiting.park()
                continue
            cids = self._next_for(peer)
            if cids:
                await self._attempt(peer, cids, job)
                if peer.lacks > LACKS_FREE and len(self._roster.live()) > 1:
                    peer.wake_one()
                    await self._pause(min(LACK_SECONDS * (peer.lacks - LACKS_FREE), 1.0))
                continue
            peer.take_room(1)  # not all workers need to look out for something to do
            try:
                # Not for ever: a run that starts elsewhere while this waits is one to hedge.
                with trio.move_on_at(min(self._next_hedge(peer), trio.current_time() + IDLE_SECONDS_MAX)):
                    await self._changed.wait()
            finally:
                peer.under_way -= 1

    def _next_for(self, peer: Peer) -> list[Cid]:
        """Take what this source is to be asked for next: several blocks only of those nobody was asked for."""
        while peer.queue:
            cid = peer.queue.popleft()
            if cid in self._tried and cid not in self._running and peer not in self._tried[cid]:
                return [cid]
        asked = self._roster.asked() if self._shared else []
        if peer in asked:
            # Few at the end, so that all sources come to theirs at about the same time.
            even = len(self._shared) // max(1, sum(other.under_way for other in asked))
            count = 1 if self._rate.is_limited else max(1, min(peer.run_blocks, even, len(self._shared)))
            return [self._shared.popleft() for _ in range(count)]
        now = trio.current_time()
        late = next((cid for cid, at in self._hedges(peer) if at <= now), None)
        return [] if late is None else [late]

    def _hedges(self, peer: Peer) -> Iterable[tuple[Cid, float]]:
        """Blocks under way elsewhere that this source might be asked for too, and from when on."""
        if peer.is_resting or self._steering.is_busy:
            return
        for cid, runs in self._running.items():
            if (
                len(runs) < RUNS_PER_BLOCK_MAX
                and runs[0].peer is not peer
                and runs[0].peer.source.rank >= peer.source.rank
                and cid not in self._claimed
                and peer not in self._tried.get(cid, ())
            ):
                yield cid, runs[0].started + peer.hedge_after_seconds()

    def _next_hedge(self, peer: Peer) -> float:
        return min((at for _, at in self._hedges(peer)), default=float("inf"))

    async def _attempt(self, peer: Peer, cids: list[Cid], job: "_Job") -> None:
        run = Run(peer, cids, trio.current_time())
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

    def _others(self, cid: Cid, run: Run) -> list[Run]:
        """Take a run off a block; return the others that it has."""
        runs = self._running[cid]
        runs.remove(run)
        if not runs:
            del self._running[cid]
        return runs

    def _settle(self, cid: Cid, size: int | None, twins: list[Run], job: "_Job") -> None:
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

    async def _ask(self, run: Run, job: "_Job") -> None:
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

    def _judge(self, run: Run) -> dict[Cid, int]:
        """Draw conclusions from what a source did; return the blocks that were delivered, and their sizes."""
        peer, name = run.peer, run.peer.source.name
        sizes: dict[Cid, int] = {}
        for cid, arrival in run.arrivals.items():
            self._rate.correct(arrival.size)
            peer.excused_at = trio.current_time()
            match arrival.outcome:
                case Outcome.CORRUPT:
                    self._tried.setdefault(cid, set()).add(peer)
                    self._drop(peer, f"sent other bytes for {cid}", Offence.CORRUPT_BLOCK)
                case Outcome.DUPLICATE:
                    self.counts.duplicate_bytes += arrival.size
                case Outcome.TAKEN:
                    peer.lacks = 0
                    peer.adapt(arrival.seconds, self._block_seconds)
                    peer.given_bytes += arrival.size
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

    async def _receive(self, run: Run, job: "_Job") -> Sequence[Cid]:
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
        run.arrivals[cid] = Arrival(outcome, len(data), seconds)
        return ()

    async def _have_handled(self, source: HandlingSource, run: Run, job: "_Job") -> Sequence[Cid]:
        """The same where the source has threads for it, for several blocks."""
        now = trio.lowlevel.current_clock().current_time

        def handle(cid: Cid, data: bytearray) -> None:
            seconds = now() - run.started  # before our disk takes its time
            run.arrivals[cid] = Arrival(self._take(cid, data, job), len(data), seconds)

        return await source.handle(run.cids, handle, bytes_max=job.bytes_max, seconds_max=self._block_seconds)

    def _take(self, cid: Cid, data: bytes | bytearray, job: "_Job") -> Outcome:
        """Verify and deliver, in a worker thread. Of two who bring one block, only the first delivers."""
        self._effort.begin()
        try:
            return self._deliver_first(cid, data, job)
        finally:
            self._effort.end()

    def _deliver_first(self, cid: Cid, data: bytes | bytearray, job: "_Job") -> Outcome:
        if len(data) > job.bytes_max or not cid.matches(data):
            return Outcome.CORRUPT
        with self._claims:
            if cid in self._claimed:
                return Outcome.DUPLICATE
            self._claimed.add(cid)
        job.deliver(cid, data)
        return Outcome.TAKEN

    def _place(self, cid: Cid) -> None:
        """Queue an open block that nobody is fetching with those who may be asked next."""
        tried = self._tried.setdefault(cid, set())
        able = [peer for peer in self._roster.live() if peer not in tried]
        if not able:
            self._orphans[cid] = None
        else:
            level = min(peer.source.rank for peer in able)
            for peer in able:
                if peer.source.rank == level:
                    peer.queue.append(cid)
        self._notify()

    async def _pause(self, seconds: float) -> None:
        """Wait so long, or until everything is delivered or given up."""
        with trio.move_on_after(seconds):
            while self._open:
                await self._changed.wait()

    def _notify(self) -> None:
        if not self._open:
            for peer in self._roster.peers:
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
