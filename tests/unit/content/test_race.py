"""The race for blocks: who is asked for what, and what becomes of those who are slow, lie, lack or fail."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio

import p2p.content.retrieval.peer
from p2p.content.cid import Cid, Codec
from p2p.content.rate import ByteRate
from p2p.content.retrieval import breadth
from p2p.content.retrieval.peer import RUN_BLOCKS_MAX
from p2p.content.retrieval.race import BlockRace
from p2p.content.retrieval.roster import SOURCES_ACTIVE_MAX
from p2p.content.source import BlockSource, Rank, SourceFailedError
from p2p.standing import Standing
from tests.unit.content.blocks import handle_each

BLOCKS = {Cid.of(Codec.RAW, data): data for data in (hashlib.sha256(bytes([n])).digest() * 32 for n in range(200))}
CIDS = list(BLOCKS)


class FakeSource:
    """A source with the seconds it takes for each block and, where it is not honest, what it gives instead."""

    def __init__(
        self,
        name: str,
        *,
        seconds: float = 0.01,
        rank: Rank = Rank.GATEWAY,
        answer: Callable[[Cid], bytes | None] = BLOCKS.get,
        window: int = 4,
    ) -> None:
        self.name = name
        self.rank = rank
        self.window = window
        self.asked: Counter[Cid] = Counter()
        self.given = 0
        self.closed = self.closing = False
        self._seconds = seconds
        self._answer = answer

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        self.asked[cid] += 1
        await trio.sleep(self._seconds)
        self.given += 1
        return self._answer(cid)

    async def aclose(self) -> None:
        self.closed = True


class FakeWithThreads(FakeSource):
    """The same with threads of its own."""

    def __init__(
        self,
        name: str,
        *,
        seconds: float = 0.01,
        answer: Callable[[Cid], bytes | None] = BLOCKS.get,
        window: int = 4,
    ) -> None:
        super().__init__(name, seconds=seconds, answer=answer, window=window)
        self.threads = self.threads_max = 3
        self.runs: list[list[Cid]] = []
        """What it was asked for at once."""

    async def handle(
        self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
    ) -> Sequence[Cid]:
        self.runs.append(list(cids))
        with trio.fail_after(seconds_max):
            return await handle_each(partial(self.get, bytes_max=bytes_max), cids, handle)

    def use_threads(self, count: int) -> None:
        self.threads = count

    def close(self) -> None:
        self.closing = True


async def fetch(race: BlockRace, cids: Sequence[Cid] = CIDS) -> tuple[dict[Cid, bytes], list[Cid]]:
    got: dict[Cid, bytes] = {}

    def deliver(cid: Cid, data: bytes | bytearray) -> None:
        assert cid not in got
        got[cid] = bytes(data)

    missing = await race.run(cids, deliver)
    await race.aclose()
    return got, missing


def fail(_cid: Cid) -> bytes | None:
    raise SourceFailedError("gone")


async def test_equal_sources_share_the_work_and_nothing_comes_twice() -> None:
    sources = [FakeSource(name) for name in "abc"]
    race = BlockRace(sources)
    got, missing = await fetch(race)
    assert got == BLOCKS
    assert not missing
    assert sum(source.given for source in sources) == len(BLOCKS)
    assert all(source.given > len(BLOCKS) / 5 for source in sources)
    assert all(source.closed for source in sources)


async def test_sources_with_threads_of_their_own_and_others_share_the_work_and_nothing_comes_twice() -> None:
    sources = [FakeSource("a"), FakeWithThreads("b"), FakeWithThreads("c")]
    race = BlockRace(sources)
    got, missing = await fetch(race)
    assert got == BLOCKS
    assert not missing
    assert sum(source.given for source in sources) == len(BLOCKS)
    assert all(source.given > len(BLOCKS) / 8 for source in sources)
    assert race.counts.fetched_bytes.total() == sum(map(len, BLOCKS.values()))


async def test_a_source_with_threads_of_its_own_is_judged_like_any_other() -> None:
    standing = Standing(trio.current_time)
    half = set(CIDS[::2])
    sources = [
        FakeWithThreads("liar", answer=lambda _cid: b"lies"),
        FakeWithThreads("staller", seconds=10**6),
        FakeWithThreads("gone", answer=fail),
        FakeWithThreads("half", answer=lambda cid: BLOCKS[cid] if cid in half else None),
    ]
    race = BlockRace(sources, standing=standing, block_seconds=0.4)
    with trio.fail_after(30):
        got, missing = await fetch(race)
    assert set(got) == half
    assert set(missing) == set(CIDS) - half
    assert race.counts.failed == {"liar", "staller", "gone"}
    assert standing.is_banned("liar")
    assert not standing.is_banned("half")


async def test_a_source_that_cannot_be_asked_is_dropped_and_the_others_give_everything() -> None:
    def stumble(_cid: Cid) -> bytes | None:
        raise UnicodeError("no such host can be")

    race = BlockRace([FakeSource("odd", answer=stumble), FakeSource("good", seconds=0.1)])
    got, missing = await fetch(race)
    assert got == BLOCKS
    assert not missing
    assert race.counts.failed == {"odd"}


async def test_what_delivering_a_block_finds_wrong_is_of_the_content_and_blames_no_source() -> None:
    def deliver(_cid: Cid, _data: bytes | bytearray) -> None:
        raise ValueError("no file")

    for source in (FakeSource("a"), FakeWithThreads("b")):
        race = BlockRace([source])
        with pytest.raises(ValueError, match="no file"):
            await race.run(CIDS, deliver)
        await race.aclose()
        assert not race.counts.failed


async def test_a_slow_source_is_worked_around_at_the_end() -> None:
    slow, fast = FakeSource("slow", seconds=25), FakeSource("fast")
    race = BlockRace([slow, fast])
    with trio.fail_after(15):
        got, _ = await fetch(race)
    assert got == BLOCKS
    assert race.counts.duplicate_bytes == 0
    assert not race.counts.failed  # slow is no crime


async def test_a_source_that_stalls_is_dropped_and_blamed() -> None:
    standing = Standing(trio.current_time)
    staller = FakeSource("staller", seconds=10**6)
    race = BlockRace([staller], standing=standing, block_seconds=0.1)
    with trio.fail_after(15):
        got, missing = await fetch(race)
    assert not got
    assert set(missing) == set(CIDS)
    assert race.counts.failed == {"staller"}


class BusyLine(FakeSource):
    """Gives one block of those it is asked for, and is too slow for the others; or has all of them taken from it."""

    gives = 1

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        self.gives -= 1
        if self.gives < 0:
            await trio.sleep_forever()
        return await super().get(cid, bytes_max=bytes_max)


@pytest.mark.parametrize(("gives", "is_blamed"), [(0, True), (1, False)])
async def test_a_source_that_gave_a_block_meanwhile_is_slow_and_not_blamed_for_the_next(
    gives: int, is_blamed: bool
) -> None:
    standing = Standing(trio.current_time)
    busy = BusyLine("busy", seconds=0.05)
    busy.gives = gives
    race = BlockRace([busy], standing=standing, block_seconds=0.5)
    race._roster.peers[0].room = 2  # both under way at once
    _, missing = await fetch(race, CIDS[:2])
    assert len(missing) == 2 - gives
    assert race.counts.failed == {"busy"}
    assert (standing.points("busy") > 0) is is_blamed


async def test_a_source_whose_request_was_taken_from_it_is_not_blamed_for_its_neighbour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(p2p.content.retrieval.peer, "HEDGE_SECONDS_UNKNOWN", 0.05)
    standing = Standing(trio.current_time)
    slow = BusyLine("slow")
    slow.gives = 0
    quick = FakeSource("quick", seconds=0.2, answer=lambda cid: BLOCKS[cid] if cid == CIDS[0] else None)
    race = BlockRace([slow, quick], standing=standing, block_seconds=1.0)
    race._roster.peers[0].room = 2
    _, missing = await fetch(race, CIDS[:2])
    assert missing == [CIDS[1]]
    assert race.counts.failed == {"slow"}
    assert standing.points("slow") == 0


async def test_an_honest_source_on_a_thin_line_is_used_as_far_as_it_goes(autojump_clock: object) -> None:
    under_way = 0

    class ThinLine(FakeSource):
        async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
            nonlocal under_way
            under_way += 1
            try:
                for _ in range(8):  # its share of the line, as that changes
                    await trio.sleep(0.02 * under_way)
                return BLOCKS[cid]
            finally:
                under_way -= 1

    race = BlockRace([ThinLine("thin", window=8)], block_seconds=0.6)
    got, missing = await fetch(race, CIDS[:30])
    assert not missing
    assert len(got) == 30
    assert not race.counts.failed


async def test_a_liar_is_banned_and_its_blocks_are_got_elsewhere() -> None:
    standing = Standing(trio.current_time)
    liar, honest = FakeSource("liar", answer=lambda _cid: b"lies"), FakeSource("honest", seconds=0.02)
    got, _ = await fetch(BlockRace([liar, honest], standing=standing))
    assert got == BLOCKS
    assert standing.is_banned("liar")
    assert not standing.is_banned("honest")
    again = FakeSource("liar")
    await fetch(BlockRace([again, FakeSource("honest")], standing=standing))
    assert not again.asked


async def test_a_block_too_large_is_a_lie_too() -> None:
    standing = Standing(trio.current_time)
    large = FakeSource("large", answer=lambda _cid: bytes(3 * 1024 * 1024))
    got, missing = await fetch(BlockRace([large], standing=standing))
    assert not got
    assert len(missing) == len(CIDS)
    assert standing.is_banned("large")


async def test_a_source_is_not_asked_again_for_a_block_it_lacks() -> None:
    half = set(CIDS[::2])
    one = FakeSource("one", answer=lambda cid: BLOCKS[cid] if cid in half else None)
    two = FakeSource("two", answer=lambda cid: None if cid in half else BLOCKS[cid])
    got, missing = await fetch(BlockRace([one, two]))
    assert got == BLOCKS
    assert not missing
    assert max(*one.asked.values(), *two.asked.values()) == 1


async def test_a_higher_rank_is_asked_only_for_what_the_lower_lacks() -> None:
    lacking = set(CIDS[10:20])
    gateway = FakeSource("gateway", answer=lambda cid: None if cid in lacking else BLOCKS[cid])
    web = FakeSource("web", rank=Rank.WEB)
    got, _ = await fetch(BlockRace([web, gateway]))
    assert got == BLOCKS
    assert set(web.asked) == lacking


async def test_a_higher_rank_takes_over_when_all_lower_ones_failed() -> None:
    bad = [FakeSource(name, answer=fail) for name in "ab"]
    web = FakeSource("web", rank=Rank.WEB)
    got, _ = await fetch(BlockRace([*bad, web]))
    assert got == BLOCKS


async def test_more_sources_are_looked_for_once_and_only_if_needed() -> None:
    calls = 0

    async def more() -> Sequence[BlockSource]:
        nonlocal calls
        calls += 1
        return [FakeSource("found", rank=Rank.BITSWAP)]

    got, _ = await fetch(BlockRace([FakeSource("enough")], more_sources=more))
    assert got == BLOCKS
    assert calls == 0
    lacking = FakeSource("lacking", answer=lambda cid: None if cid == CIDS[7] else BLOCKS[cid])
    got, _ = await fetch(BlockRace([lacking], more_sources=more))
    assert got == BLOCKS
    got, _ = await fetch(BlockRace([], more_sources=more))
    assert got == BLOCKS
    assert calls == 2


async def test_sources_in_reserve_replace_those_that_fail() -> None:
    bad = [FakeSource(f"bad{number}", answer=fail) for number in range(SOURCES_ACTIVE_MAX + 2)]
    good = FakeSource("good")
    got, _ = await fetch(BlockRace([*bad, good]))
    assert got == BLOCKS


async def test_what_nobody_has_is_named_and_the_rest_still_comes() -> None:
    def lacks_one(cid: Cid) -> bytes | None:
        return None if cid == CIDS[3] else BLOCKS[cid]

    got, missing = await fetch(BlockRace([FakeSource(name, answer=lacks_one) for name in "ab"]))
    assert missing == [CIDS[3]]
    assert len(got) == len(CIDS) - 1


async def test_one_race_runs_again_with_what_it_learnt() -> None:
    liar = FakeSource("liar", answer=lambda _cid: b"lies")
    race = BlockRace([liar, FakeSource("honest")])
    await race.run(CIDS[:50], lambda _cid, _data: None)
    asked = liar.asked.total()
    assert not await race.run(CIDS[50:], lambda _cid, _data: None)
    assert liar.asked.total() == asked
    await race.aclose()


async def test_a_full_disk_ends_the_race_with_its_own_error() -> None:
    def deliver(_cid: Cid, _data: bytes | bytearray) -> None:
        raise OSError(28, "no space left on device")

    race = BlockRace([FakeSource(name) for name in "ab"])
    with pytest.raises(OSError, match="no space"):
        await race.run(CIDS, deliver)
    await race.aclose()


async def test_downloads_keep_to_their_rate() -> None:
    total = sum(map(len, BLOCKS.values()))
    race = BlockRace([FakeSource(name) for name in "ab"], rate=ByteRate(total))
    started = trio.current_time()
    await race.run(CIDS, lambda _cid, _data: None, bytes_expected=1024)
    assert trio.current_time() - started > 0.5  # a second, less what may come at once and what is not yet paid for
    await race.aclose()


async def test_a_source_that_is_dropped_is_closed_at_once() -> None:
    liar, honest = FakeWithThreads("liar", answer=lambda _cid: b"lies"), FakeWithThreads("honest")
    race = BlockRace([liar, honest])
    assert not await race.run(CIDS, lambda _cid, _data: None)
    assert liar.closing
    assert not honest.closing
    await race.aclose()


async def test_a_source_that_cannot_be_closed_does_not_keep_the_others_open() -> None:
    class Broken(FakeWithThreads):
        async def aclose(self) -> None:
            raise OSError("broken")

    others = [FakeWithThreads("a"), FakeSource("b")]
    race = BlockRace([others[0], Broken("broken"), others[1]])
    with pytest.raises(OSError, match="broken"):
        await race.aclose()
    assert all(source.closed for source in others)


async def test_a_slow_disk_of_ours_does_not_slow_down_what_is_asked_of_a_source() -> None:
    under_way = most = 0

    class Watched(FakeWithThreads):
        async def handle(
            self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
        ) -> Sequence[Cid]:
            nonlocal under_way, most
            under_way += len(cids)  # a gateway is sent all of them ahead
            most = max(most, under_way)
            try:
                return await super().handle(cids, handle, bytes_max=bytes_max, seconds_max=seconds_max)
            finally:
                under_way -= len(cids)

    def deliver(_cid: Cid, _data: bytes | bytearray) -> None:
        time.sleep(0.3)  # more than QUICK_PART of the time for a block

    race = BlockRace([Watched("quick", seconds=0)], block_seconds=2)
    assert not await race.run(CIDS[:8], deliver)
    assert most > 1
    await race.aclose()


async def test_only_a_source_that_gives_a_block_in_milliseconds_is_asked_for_several_at_once() -> None:
    quick, slow = FakeWithThreads("quick", seconds=0), FakeWithThreads("slow", seconds=0.1)
    for source, count in ((quick, len(CIDS)), (slow, 20)):
        race = BlockRace([source])
        assert not await race.run(CIDS[:count], lambda _cid, _data: None)
        await race.aclose()
        assert [cid for run in source.runs for cid in run] == CIDS[:count]  # in the order of the file
    assert max(map(len, quick.runs)) == RUN_BLOCKS_MAX
    assert max(map(len, slow.runs)) == 1


async def test_what_is_left_at_the_end_is_asked_for_in_short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breadth, "CORES", 16)  # so that neither rests
    monkeypatch.setattr(breadth, "THREADS_MAX", 16)
    sources = [FakeWithThreads(name, seconds=0) for name in "ab"]
    race = BlockRace(sources)
    assert not await race.run(CIDS, lambda _cid, _data: None)
    await race.aclose()
    assert max(len(run) for source in sources for run in source.runs) > 1
    last = {run[-1]: len(run) for source in sources for run in source.runs}
    assert last[CIDS[-1]] == 1


async def test_downloads_at_a_limited_rate_are_asked_for_one_by_one() -> None:
    source = FakeWithThreads("quick", seconds=0)
    race = BlockRace([source], rate=ByteRate(10**9))
    assert not await race.run(CIDS, lambda _cid, _data: None, bytes_expected=1024)
    await race.aclose()
    assert max(map(len, source.runs)) == 1


class StallsWithin(FakeWithThreads):
    """While `is_stalling` it gives the first block of each run, and then nothing until it is cancelled."""

    is_stalling = False
    cancelled = 0

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        if self.is_stalling and cid != self.runs[-1][0]:
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled += 1
        return await super().get(cid, bytes_max=bytes_max)


def _begin_run_of(race: BlockRace, source: FakeWithThreads, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the race believe that it knows its source, which is asked for so many blocks at once from now on."""
    (peer,) = (peer for peer in race._roster.peers if peer.source is source)
    start = race._start

    def start_and_know(*called: Any) -> None:
        start(*called)
        peer.run_blocks = blocks

    monkeypatch.setattr(race, "_start", start_and_know)  # no source is fast enough for sure on a busy machine
    peer.room = 1


async def test_what_came_of_a_run_that_was_not_finished_counts_and_nobody_is_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standing = Standing(trio.current_time)
    staller = StallsWithin("staller", seconds=0)
    staller.is_stalling = True
    race = BlockRace([staller], standing=standing, block_seconds=0.3)
    _begin_run_of(race, staller, 3, monkeypatch)
    got, missing = await fetch(race, CIDS[:3])
    assert staller.runs == [CIDS[:3]]
    assert set(got) == {CIDS[0]}
    assert set(missing) == set(CIDS[1:3])
    assert race.counts.failed == {"staller"}
    assert standing.points("staller") == 0
    assert race.counts.fetched_bytes["staller"] == len(BLOCKS[CIDS[0]])


async def test_a_run_is_taken_from_its_source_when_all_of_its_blocks_came_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(p2p.content.retrieval.peer, "HEDGE_SECONDS_UNKNOWN", 0.05)
    monkeypatch.setattr(p2p.content.retrieval.peer, "HEDGE_SECONDS_MIN", 0.05)
    staller, quick = StallsWithin("staller", seconds=0), FakeSource("quick", seconds=0.02, window=1)
    staller.is_stalling = True
    race = BlockRace([staller, quick])
    _begin_run_of(race, staller, 3, monkeypatch)
    with trio.fail_after(15):
        got, missing = await fetch(race, CIDS[:4])
    assert not missing
    assert len(got) == 4
    assert staller.cancelled == 1  # once, after the last of them
    assert race.counts.duplicate_bytes == 0
    assert not race.counts.failed
