"""Vote bundles count as soon as they are read, however slow the disk is that is to keep them; and what was read before
FORM counts there only if it was checked by the same rules."""

from dataclasses import replace
from typing import Any

import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.trace import Trace
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Cid, EpochNumber, Hash32
from node.protocol.judges import Judges
from node.services.bundle_fetching import BundleFetching
from node.services.early_bundles import EarlyBundles
from node.services.judging import Judging
from tests.builders import SOME_CID, account, bundle_of


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
