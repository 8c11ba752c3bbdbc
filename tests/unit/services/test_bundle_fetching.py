"""Vote bundles count as soon as they are read, however slow the disk is that is to keep them."""

from typing import Any

import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.trace import Trace
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Cid, EpochNumber
from node.services.bundle_fetching import BundleFetching
from tests.builders import account, bundle_of


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
