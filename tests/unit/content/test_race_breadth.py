"""Who is asked while a race goes on, in virtual time: no more sources than help, and others at once when they do."""

import hashlib
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock

from p2p.content.cid import Cid, Codec
from p2p.content.retrieval import breadth
from p2p.content.retrieval.race import BlockRace
from p2p.content.retrieval.steering import BLOCKS_MANY
from p2p.content.source import Rank, SourceFailedError
from p2p.standing import Standing

BLOCK_BYTES = 1024
BLOCKS = {Cid.of(Codec.RAW, data): data for data in (hashlib.sha256(n.to_bytes(2)).digest() * 32 for n in range(1000))}
CIDS = list(BLOCKS)
CORES = 2


class Client:
    """Two cores that a block takes for a time, whoever it came from; stands for the threads of sources."""

    def __init__(self, block_seconds: float) -> None:
        self.block_seconds = block_seconds
        self._cores = trio.CapacityLimiter(CORES)
        self._done = self._begun_sum = 0.0
        self._under_way = 0

    async def work(self) -> None:
        async with self._cores:
            began = trio.current_time()
            self._under_way += 1
            self._begun_sum += began
            try:
                await trio.sleep(self.block_seconds)
            finally:
                self._under_way -= 1
                self._begun_sum -= began
                self._done += trio.current_time() - began

    # What the race asks of its `Effort`:

    def begin(self) -> None:
        """It is all in `work`."""

    def end(self) -> None:
        """It is all in `work`."""

    @property
    def seconds(self) -> float:
        return self._done + self._under_way * trio.current_time() - self._begun_sum


class Line:
    """A source on a line that brings a block in so many seconds; `answer` may be changed meanwhile."""

    rank = Rank.GATEWAY
    threads = threads_max = 3

    def __init__(self, name: str, client: Client, block_seconds: float) -> None:
        self.name = name
        self.block_seconds = block_seconds
        self.answer: Callable[[Cid], bytes | None] = BLOCKS.get
        self.is_stalled = False
        self.given: list[Cid] = []
        self._client = client
        self._line = trio.Lock()

    @property
    def window(self) -> int:
        return 8 * self.threads

    def use_threads(self, count: int) -> None:
        self.threads = count

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        async with self._line:
            await trio.sleep(self.block_seconds)
            if self.is_stalled:
                await trio.sleep_forever()
        data = self.answer(cid)
        if data is not None:
            self.given.append(cid)
            await self._client.work()
        return data

    async def handle(
        self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
    ) -> Sequence[Cid]:
        lacked = []
        with trio.fail_after(seconds_max):
            for cid in cids:
                data = await self.get(cid, bytes_max=bytes_max)
                if data is None:
                    lacked.append(cid)
                else:
                    handle(cid, bytearray(data))
        return lacked

    def close(self) -> None:
        """Nothing is kept."""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breadth, "CORES", CORES)
    monkeypatch.setattr(breadth, "THREADS_MAX", 3)


Happening = Callable[[Line], None]
"""Is told of the source that is asked alone by then."""


def race_of(client: Client, lines: Sequence[Line], standing: Standing | None = None) -> BlockRace:
    race = BlockRace(lines, standing=standing)
    race._effort = client  # type: ignore[assignment]  # a thread's time is not virtual
    return race


async def fetch(
    client: Client,
    lines: Sequence[Line],
    *,
    happening: Happening | None = None,
    after: int = len(CIDS) // 2,
    standing: Standing | None = None,
) -> tuple[BlockRace, float]:
    """Fetch all blocks, each once; return the race and the virtual seconds that it took."""
    got: set[Cid] = set()

    def deliver(cid: Cid, data: bytes | bytearray) -> None:
        assert cid not in got
        assert data == BLOCKS[cid]
        got.add(cid)

    def taken(_cid: Cid, _size: int) -> None:
        nonlocal happening
        if happening is not None and len(got) >= after:
            happening, happens = None, happening
            (alone,) = (peer.source for peer in race._roster.asked())
            happens(next(line for line in lines if line is alone))

    race = race_of(client, lines, standing)
    began = trio.current_time()
    assert not await race.run(CIDS, deliver, taken=taken)
    seconds = trio.current_time() - began
    await race.aclose()
    assert len(got) == len(CIDS)
    assert happening is None
    return race, seconds


def given_of(lines: Sequence[Line]) -> list[int]:
    return sorted(len(line.given) for line in lines)


async def test_three_limited_lines_together_are_three_times_as_fast_as_one(autojump_clock: MockClock) -> None:
    """20 MB/s each, where the client could take 400."""
    alone = Client(0.005)
    _, one = await fetch(alone, [Line("a", alone, 0.05)])
    client = Client(0.005)
    lines = [Line(name, client, 0.05) for name in "abc"]
    race, three = await fetch(client, lines)
    assert one / three > 2.9
    assert race.counts.duplicate_bytes == 0
    assert given_of(lines)[0] > 0.3 * len(CIDS)


async def test_two_of_four_are_asked_where_two_are_needed(autojump_clock: MockClock) -> None:
    client = Client(0.02)
    lines = [Line(name, client, 0.016) for name in "abcd"]  # one gives six tenths of what two cores take
    race, seconds = await fetch(client, lines)
    assert seconds < 1.05 * len(CIDS) * client.block_seconds / CORES
    assert sum(given_of(lines)[-2:]) > 0.9 * len(CIDS)
    assert race.counts.duplicate_bytes == 0


async def test_where_the_client_is_the_limit_one_is_asked_and_it_takes_no_longer(autojump_clock: MockClock) -> None:
    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]
    race, seconds = await fetch(client, lines)
    assert seconds < 1.01 * len(CIDS) * client.block_seconds / CORES
    assert given_of(lines)[-1] > 0.9 * len(CIDS)
    assert sum(given_of(lines)) == len(CIDS)
    assert race.counts.duplicate_bytes == 0
    # All threads that there are work for the one; the others keep a connection.
    assert sorted(line.threads for line in lines) == [1, 1, 3]


async def test_over_many_fetches_each_of_equal_servers_is_the_one(autojump_clock: MockClock) -> None:
    chosen: set[str] = set()
    for _ in range(40):  # one of three is left out once in three million times
        client = Client(0.01)
        lines = [Line(name, client, 0.001) for name in "abc"]
        race = race_of(client, lines)
        assert not await race.run(CIDS[:100], lambda _cid, _data: None)
        await race.aclose()
        chosen.add(max(lines, key=lambda line: len(line.given)).name)
    assert chosen == set("abc")


async def test_the_slow_one_of_three_is_not_the_one_that_is_kept(autojump_clock: MockClock) -> None:
    for _ in range(5):
        client = Client(0.01)
        lines = [Line("slow", client, 0.05), Line("b", client, 0.001), Line("c", client, 0.001)]
        race, seconds = await fetch(client, lines)
        assert seconds < 1.05 * len(CIDS) * client.block_seconds / CORES
        assert len(lines[0].given) < 0.1 * len(CIDS)
        assert race.counts.duplicate_bytes == 0


async def test_when_the_one_stalls_the_others_go_on_at_once_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    def stall(line: Line) -> None:
        line.is_stalled = True

    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]
    race, seconds = await fetch(client, lines, happening=stall)
    # What it was asked for is late by then, and is asked of others when nothing else is left to do.
    assert seconds < len(CIDS) * client.block_seconds / CORES + 0.5
    assert race.counts.duplicate_bytes == 0
    assert not race.counts.failed


async def test_when_the_one_is_slower_than_we_are_the_others_are_brought_in(autojump_clock: MockClock) -> None:
    def slow_down(line: Line) -> None:
        line.block_seconds = 0.01  # just half of what two cores take

    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]
    race, seconds = await fetch(client, lines, happening=slow_down)
    assert seconds < 1.1 * len(CIDS) * client.block_seconds / CORES
    assert race.counts.duplicate_bytes == 0


async def test_when_the_one_fails_or_lies_the_others_go_on_and_the_liar_is_banned(autojump_clock: MockClock) -> None:
    def fail(_cid: Cid) -> bytes | None:
        raise SourceFailedError("gone")

    for answer, is_banned in ((fail, False), (lambda _cid: b"lies", True)):
        bad: list[Line] = []

        def turn(line: Line, answer: Callable[[Cid], bytes | None] = answer, bad: list[Line] = bad) -> None:
            line.answer = answer
            bad.append(line)

        standing = Standing(trio.current_time)
        client = Client(0.01)
        lines = [Line(name, client, 0.001) for name in "abc"]
        race, seconds = await fetch(client, lines, happening=turn, standing=standing)
        assert seconds < 1.05 * len(CIDS) * client.block_seconds / CORES
        assert race.counts.failed == {bad[0].name}
        assert standing.is_banned(bad[0].name) is is_banned
        assert race.counts.duplicate_bytes == 0


async def test_what_the_one_lacks_the_others_give(autojump_clock: MockClock) -> None:
    half = set(CIDS[: len(CIDS) // 2])

    def lose(line: Line) -> None:
        line.answer = lambda cid: BLOCKS[cid] if cid in half else None

    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]
    race, seconds = await fetch(client, lines, happening=lose, after=len(CIDS) // 4)
    assert seconds < 1.1 * len(CIDS) * client.block_seconds / CORES
    assert race.counts.duplicate_bytes == 0


async def test_blocks_that_wait_for_our_own_disk_are_asked_of_nobody_else(autojump_clock: MockClock) -> None:
    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]

    def have_a_slow_disk(_line: Line) -> None:
        client.block_seconds = 0.5

    race, _ = await fetch(client, lines, happening=have_a_slow_disk, after=len(CIDS) - 60)
    # Nor is the last one late, which leaves a core free; only here it is not known yet to have come.
    assert sum(given_of(lines)) <= len(CIDS) + CORES
    assert race.counts.duplicate_bytes <= CORES * BLOCK_BYTES


async def test_a_few_blocks_are_asked_of_all(autojump_clock: MockClock) -> None:
    client = Client(0.01)
    lines = [Line(name, client, 0.001) for name in "abc"]
    race = race_of(client, lines)
    for part in (CIDS[:500], CIDS[500 : 500 + BLOCKS_MANY - 1]):
        for line in lines:
            line.given.clear()
        assert not await race.run(part, lambda _cid, _data: None)
    assert given_of(lines)[0] > 0  # of the few; of the many, one was enough
    await race.aclose()
