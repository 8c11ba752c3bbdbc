"""Vote bundles count as soon as they are read, however slow the disk is that is to keep them; and what was read before
FORM counts there only if it was checked by the same rules. Void ones never do."""

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netsim.content import ContentExchange, SimulatedContent
from netsim.trace import Trace
from node.protocol.bundle_reading import limits_of, read_bundle_in_slices
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Cid, EpochNumber, Hash32
from node.protocol.judges import Judges
from node.protocol.records import VoteBundle
from node.protocol.schedules import ParameterSchedule
from node.protocol.slices import Slices
from node.protocol.verdicts import Verdict
from node.services import early_bundles
from node.services.bundle_fetching import BundleFetching, read_bundle
from node.services.early_bundles import EarlyBundles
from node.services.judging import Judging
from node.services.slicing import Slicer
from tests.builders import NODE, PARAMETERS, SOME_CID, account, bundle_of, commit, vote_on


class SlowContent(SimulatedContent):
    """Takes ten seconds to keep a proof."""

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        await trio.sleep(10)
        await super().keep(cid, until)


class Anything:
    """Finds every bundle sound, and nobody present."""

    bundle_limits = limits_of({}, {}, 0, 0)

    def check(self, *_: object) -> None:
        pass

    def read(self, data: bytes) -> Slices[VoteBundle]:
        return read_bundle_in_slices(data, self.bundle_limits)

    def providers(self, *_: object) -> tuple[()]:
        return ()


async def test_a_bundle_counts_before_it_is_kept_and_is_kept(autojump_clock: object) -> None:
    content = SlowContent(ContentExchange(Trace()), "host", 1)
    cid = await content.add_bytes(to_bytes(bundle_of(1)))
    anything: Any = Anything()
    changes: list[float] = []
    fetching = BundleFetching(
        content, anything, anything, {account(1): cid}, lambda: changes.append(trio.current_time() - begin)
    )
    begin = trio.current_time()
    await fetching.run()
    assert changes == [0]
    assert fetching.is_complete
    await content.forget(EpochNumber(99), [])
    assert cid not in content.blocks  # what nobody ever kept would stay


SEED = Hash32(b"\x01" * 32)
RULES = Judging(EpochNumber(0), {}, {}, {}, Judges(), {account(1): 1}, SEED, SEED, None, frozenset())


def early(content: SimulatedContent) -> EarlyBundles:
    anything: Any = Anything()
    return EarlyBundles(anything, content, anything, anything)


async def test_what_was_read_early_is_taken_by_the_same_rules_only_and_until_the_epoch_is_over() -> None:
    bundles = early(SimulatedContent(ContentExchange(Trace()), "host", 1))
    assert bundles.read_by(RULES) == {}
    bundles._judging, bundles._read = RULES, {(account(1), SOME_CID): None}
    assert bundles.read_by(replace(RULES)) == {(account(1), SOME_CID): None}
    assert bundles.read_by(replace(RULES, sample_seed=Hash32(b"\x02" * 32))) == {}
    bundles.forget()
    assert bundles.read_by(RULES) == {}


async def test_what_was_read_early_is_on_the_disk_before_it_counts(autojump_clock: object) -> None:
    content = SlowContent(ContentExchange(Trace()), "host", 1)
    cid = await content.add_bytes(to_bytes(bundle_of(1)))
    bundles = early(content)
    bundles._judging = RULES
    anything: Any = Anything()
    with trio.move_on_after(9):  # FORM begins
        await bundles._read_one(anything, account(1), cid, trio.CapacityLimiter(1))
    assert bundles.read_by(RULES) == {}
    await bundles._read_one(anything, account(1), cid, trio.CapacityLimiter(1))
    assert bundles.read_by(RULES) == {(account(1), cid): bundle_of(1)}


async def test_another_bundle_than_was_read_early_is_fetched(autojump_clock: object) -> None:
    """A commitment that a reorganisation replaced."""
    content = SimulatedContent(ContentExchange(Trace()), "host", 1)
    cid = await content.add_bytes(to_bytes(bundle_of(1)))
    anything: Any = Anything()
    read = {(account(1), SOME_CID): None}
    fetching = BundleFetching(content, anything, anything, {account(1): cid}, lambda: None, read)
    assert not fetching.is_complete
    await fetching.run()
    assert fetching.held == {account(1): bundle_of(1)}
    again = BundleFetching(content, anything, anything, {account(1): SOME_CID}, lambda: None, read)
    assert again.is_complete
    assert again.held == {account(1): None}


UNKNOWN = vote_on(commit(3, 8).commit, Verdict.ABSTAIN)
"""On a batch that nobody committed."""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\xff no bundle", "", id="no bundle"),
        pytest.param(b"", "", id="nothing"),
        pytest.param(bytes(VOTE_BUNDLE_BYTES_MAX + 1), "over the limit", id="too large"),
        pytest.param(to_bytes(bundle_of(3)), "another epoch or validator", id="somebody else's"),
        pytest.param(to_bytes(bundle_of(2, epoch=1)), "another epoch or validator", id="of another epoch"),
        pytest.param(to_bytes(bundle_of(2, UNKNOWN)), "committed no batch", id="of a batch that is none"),
    ],
)
async def test_a_void_bundle_counts_for_nobody_costs_no_other_and_is_told_with_its_reason(
    data: bytes, reason: str, autojump_clock: object
) -> None:
    content, nobody = SimulatedContent(ContentExchange(Trace()), "host", 1), Anything()
    sound, seed = bundle_of(1), Hash32(bytes(32))
    weights = {account(1): 1, account(2): 1}
    commits = {(account(4), NODE): commit(4, 8).commit}
    judging = Judging(EpochNumber(0), commits, {}, {}, Judges(), weights, seed, seed, None, frozenset())
    cids = {account(2): await content.add_bytes(data), account(1): await content.add_bytes(to_bytes(sound))}
    presence: Any = nobody
    fetching = BundleFetching(content, presence, judging, cids, lambda: None)
    with capture_logs() as lines:
        await fetching.run()
    assert fetching.held == {account(1): sound, account(2): None}
    assert fetching.is_complete
    ((level, validator, told),) = [
        (line["log_level"], line["validator"], line["reason"])
        for line in lines
        if line["event"] == "a vote bundle is void: none of its votes count"
    ]
    assert (level, validator) == ("warning", account(2))
    assert reason in told and told


class Counting(Anything):
    """Reads in ten slices, and says how many bundles are in work at once."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended = 0

    def read(self, data: bytes) -> Slices[VoteBundle]:
        self.begun.append(len(self.begun) - self.ended)
        for _ in range(10):
            yield
        self.ended += 1
        return (yield from super().read(data))


async def test_bundles_are_read_one_after_the_other_and_others_have_their_turns_meanwhile() -> None:
    content, judging = SimulatedContent(ContentExchange(Trace()), "host", 1), Counting()
    cids = {account(number): await content.add_bytes(to_bytes(bundle_of(number))) for number in (1, 2, 3)}
    rules: Any = judging
    fetching = BundleFetching(content, rules, rules, cids, lambda: None)
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetching.run)
        while not fetching.is_complete:
            await trio.lowlevel.checkpoint()
            turns += 1
    assert judging.begun == [0, 0, 0]
    assert turns >= 30


async def test_what_an_epoch_does_not_allow_is_not_even_fetched(autojump_clock: object) -> None:
    content = SimulatedContent(ContentExchange(Trace()), "host", 1)
    assert RULES.bundle_limits.bytes_max < VOTE_BUNDLE_BYTES_MAX
    cid = await content.add_bytes(bytes(RULES.bundle_limits.bytes_max + 1))
    presence: Any = Anything()
    with capture_logs() as lines:
        assert await read_bundle(content, presence, RULES, account(1), cid, trio.CapacityLimiter(1), Slicer()) is None
    assert "over the limit" in lines[-1]["reason"]


class Heads:
    """A chain whose blocks have these bundles, one block after the other."""

    schedule = ParameterSchedule(PARAMETERS)

    def __init__(self, number: int, cids: dict[int, Cid], *blocks: tuple[int, ...]) -> None:
        self.account = account(number)
        self._cids = cids
        self._blocks = blocks
        self.state = SimpleNamespace(vote_bundles={})

    async def state_at(self, _block: int) -> object:
        return self.state

    async def heads(self) -> AsyncIterator[None]:
        for block in self._blocks:
            self.state.vote_bundles = {EpochNumber(0): {account(number): self._cids[number] for number in block}}
            yield None
            await trio.sleep(1)


@pytest.mark.parametrize(
    ("number", "blocks", "read"),
    [(1, ((2,), (2,)), set()), (1, ((2,), (1, 2)), {1, 2}), (3, ((2,), (2,)), {2})],
)
async def test_a_member_reads_the_votes_of_others_once_its_own_are_committed(
    number: int,
    blocks: tuple[tuple[int, ...], ...],
    read: set[int],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: object,
) -> None:
    async def judging_of(*_: object) -> Judging:
        return RULES

    monkeypatch.setattr(early_bundles, "judging_of", judging_of)
    content = SimulatedContent(ContentExchange(Trace()), "host", 1)
    cids = {one: await content.add_bytes(to_bytes(bundle_of(one))) for one in (1, 2)}
    chain: Any = Heads(number, cids, *blocks)
    anything: Any = Anything()
    bundles = EarlyBundles(chain, content, anything, anything)
    await bundles._read_as_committed(EpochNumber(0))
    assert {validator for validator, _ in bundles.read_by(RULES)} == {account(one) for one in read}
