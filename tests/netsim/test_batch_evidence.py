"""What a batch was judged by is shown as it was, from a run of a real miner and a real validator."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from netsim.chain import SimulatedChain
from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.control.jsonrpc import RpcError
from node.control.poc_methods import BatchParams
from node.control.poc_views import BatchEvidenceView
from node.operations.batch_evidence import BatchEvidence
from node.ports import EngineRefusedError
from node.protocol.findings import Observations
from node.protocol.identifiers import Cid, EpochNumber, ModelId, NodeId
from node.protocol.records import MLNodeRegistration
from node.protocol.stages import Stage, first_block_of
from node.services import recomputing
from node.services.epochs import EpochBook
from node.services.mining import MiningService
from node.services.presence import PresenceTable
from node.services.registration import RegistrationService
from node.services.validating import ValidatingService
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of, peer
from tests.netsim.miners import Drawn

NODE_ID = NodeId("node-1")
NONCES = 40
MINER, JUDGE, OTHER = 1, 2, 3
EPOCH = EpochNumber(0)


class Scene:
    """A miner, and a judge whose operator asks."""

    def __init__(self, ledger: Ledger, exchange: ContentExchange, board: Switchboard) -> None:
        self.ledger = ledger
        self.exchange = exchange
        self.board = board
        self.engines = {
            MINER: SimulatedEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1),
            JUDGE: SimulatedEngine(NODE_ID, MODEL_ID, "honest", 0.0, 2),
        }
        self.chains = {number: SimulatedChain(ledger, key_of(number), confirmations=2) for number in (MINER, JUDGE)}
        self.content = SimulatedContent(exchange, "host", 1)
        """Of both: what one has the other has."""
        self.presence = PresenceTable(self.chains[JUDGE], lambda: 0)
        self.store = Books(Database(":memory:"), account(JUDGE))
        self.epochs = EpochBook(self.chains[JUDGE], self.content, self.store, self.presence)

    def start(self, nursery: trio.Nursery) -> None:
        for number, chain in self.chains.items():
            network = SimulatedNetwork(self.board, peer(number), account(number), chain.sign)
            registration = MLNodeRegistration(NODE_ID, (MODEL_ID,), "cpu")
            nursery.start_soon(RegistrationService(chain, network, [registration]).run)
            if number == MINER:
                engine: Any = self.engines[MINER]
                slots = Drawn(selected=False)
                mining = MiningService(chain, self.content, engine, slots, nonces_max=NONCES)
                nursery.start_soon(mining.run)
            else:
                judge: Any = self.engines[JUDGE]
                validating = ValidatingService(
                    chain, self.content, self.store, self.presence, self.epochs, [judge], None,
                    Observations,
                )  # fmt: skip
                nursery.start_soon(validating.run)

    def evidence(self, *, has_model: bool = True) -> BatchEvidence:
        engines: Any = [self.engines[JUDGE]] if has_model else []
        return BatchEvidence(self.chains[JUDGE], self.content, self.presence, self.epochs, engines)


def ask(
    question: Callable[[Scene], Awaitable[BatchEvidenceView]],
    *,
    weights: str = "honest",
    stage: Stage = Stage.LOAD,
) -> BatchEvidenceView:
    """Run the epoch up to `stage`, and return what is told then."""

    async def main() -> BatchEvidenceView | RpcError:
        told: BatchEvidenceView | RpcError
        trace = Trace()
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, ((account(JUDGE), 7), (account(OTHER), 1)))
        ledger.register_model(MODEL)
        async with trio.open_nursery() as nursery:
            scene = Scene(ledger, ContentExchange(trace), Switchboard(nursery, 0, trace))
            scene.engines[MINER].weights = weights
            nursery.start_soon(ledger.produce_blocks)
            scene.start(nursery)
            await trio.sleep((first_block_of(0, stage, PARAMETERS) + 3) * BLOCK_SECONDS)
            try:
                told = await question(scene)
            except RpcError as error:
                told = error
            nursery.cancel_scope.cancel()
        return told

    told = run_deterministically(main, 0)
    if isinstance(told, RpcError):
        raise told
    return told


def batch(*, recompute: bool = False, number: int = MINER) -> BatchParams:
    return BatchParams(epoch=EPOCH, participant=account(number), node_id=NODE_ID, recompute=recompute)


def test_an_honest_batch_is_shown_with_what_its_judge_found_and_what_is_found_here() -> None:
    view = ask(lambda scene: scene.evidence().view(batch(recompute=True), None))
    assert (view.nonces, view.sample, view.fate) == (NONCES, min(NONCES, PARAMETERS.poc_sample_size), "committed")
    (judge,) = view.judges  # the other member committed no votes
    assert (judge.account, judge.weight, judge.may_judge, judge.problem) == (account(JUDGE), 7, True, "")
    assert (judge.verdict, judge.sampled, judge.mismatches) == ("valid", view.sample, 0)
    assert judge.largest_distance == 0
    assert judge.evidence
    assert view.recomputed is not None
    assert (view.recomputed.verdict, view.recomputed.mismatches, view.recomputed.largest_distance) == ("valid", 0, 0)


def test_a_batch_of_before_an_update_is_not_judged_with_the_new_weights() -> None:
    async def question(scene: Scene) -> BatchEvidenceView:
        scene.ledger.register_model(replace(MODEL, cid=Cid("bafy-of-other-weights"), version=2))
        await trio.sleep(4 * BLOCK_SECONDS)
        return await scene.evidence().view(batch(recompute=True), None)

    with pytest.raises(RpcError, match="another version"):
        ask(question)


def test_of_other_weights_it_is_shown_by_how_far_and_which_nonces_differ() -> None:
    view = ask(lambda scene: scene.evidence().view(batch(recompute=True), None), weights="others")
    (judge,) = view.judges
    assert (judge.verdict, judge.reason, judge.mismatches) == ("invalid", "mismatches", view.sample)
    assert judge.unrelated == view.sample  # of another model: fraud
    assert judge.words
    assert view.rejected_from <= judge.mismatches
    assert judge.largest_distance is not None
    assert judge.largest_distance > view.distance_max
    own = view.recomputed
    assert own is not None
    assert (own.verdict, own.mismatches, own.largest_distance) == ("invalid", view.sample, judge.largest_distance)
    assert all(0 <= nonce < NONCES and distance > view.distance_max for nonce, distance in own.differing)


def test_a_bundle_or_its_evidence_that_is_gone_is_said_and_the_rest_is_shown() -> None:
    async def without(scene: Scene, *, votes: bool) -> BatchEvidenceView:
        (judge,) = (await scene.evidence().view(batch(), None)).judges
        del scene.content._blocks[Cid(judge.bundle if votes else judge.evidence)]
        return await scene.evidence().view(batch(), None)

    (judge,) = ask(lambda scene: without(scene, votes=True)).judges
    assert (judge.verdict, judge.evidence) == ("", "")
    assert "not to be had" in judge.problem
    (judge,) = ask(lambda scene: without(scene, votes=False)).judges
    assert (judge.verdict, judge.largest_distance) == ("valid", None)
    assert "evidence" in judge.problem


class ReloadedEngine(SimulatedEngine):
    """Takes up another model when it is asked for the second time, and then is slow; has the old one back when it is
    left, if `is_back`."""

    asked = 0
    is_back = False

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        self.asked += 1
        if self.asked == 2:
            self.weights, self.model_id = "others", ModelId("another")
        try:
            await trio.sleep(max(0, self.asked - 2))
            return await super().prompt_logprobs(prompts, priority=priority)
        except trio.Cancelled:
            self.model_id = MODEL_ID if self.is_back else self.model_id
            raise


class RefusingEngine(SimulatedEngine):
    """Takes no prompt."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        raise EngineRefusedError(f"{len(prompts)} prompts are too many at priority {priority}")


@pytest.mark.parametrize("is_back", [True, False])
def test_what_another_model_made_is_no_evidence(is_back: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputing, "QUESTION_PROMPTS", 2)
    engine = ReloadedEngine(NODE_ID, MODEL_ID, "honest", 0.0, 2)
    engine.is_back = is_back

    async def across_load(scene: Scene) -> BatchEvidenceView:
        scene.engines[JUDGE] = engine
        return await scene.evidence().view(batch(recompute=True), None)

    with pytest.raises(RpcError, match="has another model now") as refused:
        ask(across_load)
    assert (engine.model_id == MODEL_ID) is is_back
    assert "quern nodes" in refused.value.remedy


def test_a_sample_that_the_engine_refuses_is_told() -> None:
    async def refused_by_engine(scene: Scene) -> BatchEvidenceView:
        scene.engines[JUDGE] = RefusingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 2)
        return await scene.evidence().view(batch(recompute=True), None)

    with pytest.raises(RpcError, match="too many at priority") as refused:
        ask(refused_by_engine)
    assert "quern nodes" in refused.value.remedy


@pytest.mark.parametrize(
    ("question", "stage", "said"),
    [
        (lambda scene: scene.evidence().view(batch(), None), Stage.EXCHANGE, "not complete"),
        (lambda scene: scene.evidence().view(batch(number=OTHER), None), Stage.LOAD, "no batch of"),
        (
            lambda scene: scene.evidence(has_model=False).view(batch(recompute=True), None),
            Stage.LOAD,
            "no ML node here has",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_with_what_to_do(
    question: Callable[[Scene], Awaitable[BatchEvidenceView]], stage: Stage, said: str
) -> None:
    with pytest.raises(RpcError, match=said) as refused:
        ask(question, stage=stage)
    assert refused.value.remedy
