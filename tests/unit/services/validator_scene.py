"""One validator in the first epoch of a simulated chain, with whatever a test has happen to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, PARAMETERS
from netsim.trace import Trace
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.audits import NO_FIGURES
from node.protocol.codec import from_bytes
from node.protocol.events import EventBody, PocCommitted
from node.protocol.findings import AuditVote, Observations
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.nonces import VECTOR_BYTES, VectorsRoot
from node.protocol.records import VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict
from node.services.epochs import EpochBook
from node.services.presence import PresenceTable
from node.services.validating import ValidatingService
from node.store.books import Books
from node.store.database import Database
from tests.builders import NODE, TINY, account, commit, group_set, key_of, model, registered

EPOCH = EpochNumber(0)
ABSTENTION = AuditVote(
    account(2), 0, NodeId(""), ModelId(""), Hash32(b"\x01" * 32), Verdict.ABSTAIN, NO_FIGURES, "no-model"
)
OTHER = replace(model(), model_id=ModelId("other"))
POISON = replace(ABSTENTION, node_id=NodeId("x" * 65))
"""An audit that voids every bundle it is in."""


class Auditing:
    """Completes bundles with what a hostile executor made auditors say."""

    async def complete(self, bundle: VoteBundle) -> VoteBundle:
        await trio.lowlevel.checkpoint()
        return replace(bundle, audits=(POISON,))


@dataclass(slots=True)
class Scene:
    """One validator, account 1, in an epoch with the given events."""

    ledger: Ledger
    content: SimulatedContent
    store: Books
    chain: SimulatedChain
    epochs: EpochBook
    presence: PresenceTable
    observed: list[int] = field(default_factory=list)
    """Blocks at which it was asked what it saw."""

    def observe(self) -> Observations:
        self.observed.append(self.ledger.height)
        return Observations()

    def bundle(self) -> VoteBundle:
        return from_bytes(VoteBundle, self.content._blocks[self.ledger.state.vote_bundles[EPOCH][account(1)]])


def provers_of(events: Sequence[EventBody]) -> list[EventBody]:
    """Registrations of all ML nodes that `events` have batches of: others are not judged."""
    nodes = dict[Address, list[tuple[NodeId, ModelId]]]()
    for event in events:
        if isinstance(event, PocCommitted):
            nodes.setdefault(event.commit.participant, []).append((event.commit.node_id, event.commit.model_id))
    numbers = {account(number): number for number in range(1, 20)}
    return [body for prover, served in nodes.items() for body in registered(numbers[prover], *served)]


def run(
    *events: EventBody,
    auditing: Auditing | None = None,
    before: Callable[[Scene], None] = lambda _: None,
    blocks: bytes = b"",
    weights: dict[int, int] | None = None,
    engines: Sequence[SimulatedEngine] = (),
    after: tuple[int, Callable[[Ledger], None]] | None = None,
) -> Scene:
    """Run the validator through the first epoch; `blocks` is content that it holds. `after`: a block, and what happens
    to the chain right after it."""

    async def main() -> Scene:
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, group_set(0, weights or {1: 1, 2: 1}).weights)
        ledger.register_model(model())
        ledger.register_model(OTHER)
        ledger._seal_block([*provers_of(events), *events])
        content = SimulatedContent(ContentExchange(trace), "host", 1)
        await content.add_bytes(blocks)
        store = Books(Database(":memory:"), account(1))
        chain = SimulatedChain(ledger, key_of(1), confirmations=2)
        presence = PresenceTable(chain, lambda: 0)
        epochs = EpochBook(chain, content, store, presence)
        scene = Scene(ledger, content, store, chain, epochs, presence)
        before(scene)
        async with trio.open_nursery() as nursery:
            used: Any = engines or [SimulatedEngine(NODE, TINY, "honest", 0.0, 1)]
            service = ValidatingService(chain, content, store, presence, epochs, used, auditing, scene.observe)
            nursery.start_soon(ledger.produce_blocks)
            nursery.start_soon(service.run)
            for engine in used:
                if isinstance(engine, TroubledEngine):
                    nursery.start_soon(engine.revive)
            if after is not None:
                await trio.sleep((after[0] + 0.5 - ledger.height) * BLOCK_SECONDS)
                after[1](ledger)
            await trio.sleep((first_block_of(0, Stage.LOAD, PARAMETERS) - ledger.height) * BLOCK_SECONDS)
            nursery.cancel_scope.cancel()
        return scene

    return run_deterministically(main, 0)


ZEROS = b"\x00" * VECTOR_BYTES


def batch_of(data: bytes, count: int, *, of: int) -> PocCommitted:
    """Account 2's batch of so many nonces, with the root of `of` vectors of zeros, and `data` for its file."""
    root = VectorsRoot()
    for _ in range(of):
        root.add(ZEROS)
    return PocCommitted(replace(commit(2, count).commit, root=root.root(), vectors_cid=cid_of(data)))


def cid_of(data: bytes) -> Cid:
    async def main() -> Cid:
        return await SimulatedContent(ContentExchange(Trace()), "host", 1).add_bytes(data)

    return trio.run(main)


class TroubledEngine(SimulatedEngine):
    """Does not answer at first, in one way or another, and does from `until_block` on; dead or hanging until then."""

    trouble = ""
    until_block = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        while self.trouble and trio.current_time() < self.until_block * BLOCK_SECONDS:
            if self.trouble == "refuses":
                raise EngineRefusedError("/v1/completions: 401 unauthorized")
            if self.trouble == "dies":
                self.model_id = None
                raise EngineFailedError("the server ended")
            await trio.sleep(BLOCK_SECONDS / 4)
        return await super().prompt_logprobs(prompts, priority=priority)

    async def revive(self) -> None:
        await trio.sleep(self.until_block * BLOCK_SECONDS)
        self.model_id = TINY
