"""Vote bundles count as soon as they are read, however slow the disk is that is to keep them; and what was read before
FORM counts there only if it was checked by the same rules. Void ones never do."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netsim.content import ContentExchange, SimulatedContent
from netsim.trace import Trace
from node.protocol.bundles import VOTE_BUNDLE_BYTES_MAX
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Cid, EpochNumber, Hash32
from node.protocol.judges import Judges
from node.protocol.verdicts import Verdict
from node.services.bundle_fetching import BundleFetching
from node.services.early_bundles import EarlyBundles
from node.services.judging import Judging
from tests.builders import SOME_CID, account, bundle_of, commit, vote_on


class SlowContent(SimulatedContent):
    """Takes ten seconds to keep a proof."""

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        await trio.sleep(10)
        await super().keep(cid, until)


class Anything:
    """Finds every bundle sound, and nobody present."""

    def check(self, *_: object) -> None:
        pass

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
    judging = Judging(EpochNumber(0), {}, {}, {}, Judges(), weights, seed, seed, None, frozenset())
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
