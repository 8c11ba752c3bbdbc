"""Vote bundles that are hard to get, and votes that nobody computed: the network agrees all the same."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from netsim.clock import run_deterministically
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, run_node
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, NONCES_MAX, PARAMETERS
from netsim.trace import Trace
from node.ports import Engine
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.codec import from_bytes
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, ModelId
from node.protocol.records import EpochResult, VoteBundle
from node.protocol.results import form_epoch_result_in_slices
from node.protocol.slices import Slices
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict
from node.services import bundle_fetching, forming, recomputing, result_inputs, validating
from node.services.bundle_fetching import BundlesRead
from node.services.early_bundles import EarlyBundles
from node.services.judging import Judging

NODES = 5
Sabotage = Callable[[Ledger, ContentExchange], Awaitable[None]]


async def until(ledger: Ledger, block: BlockNumber) -> None:
    await trio.sleep(max(0, block - ledger.height) * BLOCK_SECONDS)


async def nothing(_ledger: Ledger, _exchange: ContentExchange) -> None:
    await trio.lowlevel.checkpoint()


async def register_late(ledger: Ledger, exchange: ContentExchange) -> None:
    """Another model comes when nobody can mine it any more."""
    await until(ledger, first_block_of(0, Stage.EXCHANGE, PARAMETERS))
    ledger.register_model(replace(MODEL, model_id=ModelId("late")))


async def withhold_votes(ledger: Ledger, exchange: ContentExchange) -> None:
    """From the end of VALIDATE on the second node gives nothing to anyone."""
    await until(ledger, first_block_of(0, Stage.VOTE_EXCHANGE, PARAMETERS))
    exchange.stores["host-1", 1].withhold = True


async def give_to_one(ledger: Ledger, exchange: ContentExchange) -> None:
    """The second node gives its bundle to one other only, and nothing to anyone from before bundles are read."""
    await until(ledger, first_block_of(0, Stage.VOTE_EXCHANGE, PARAMETERS))
    giver, getter = exchange.stores["host-1", 1], exchange.stores["host-2", 1]
    giver.withhold = True
    await until(ledger, BlockNumber(first_block_of(0, Stage.FORM, PARAMETERS) - 1))
    (account,) = [account for account in ledger.state.vote_bundles[EpochNumber(0)] if account == plan(1).account]
    cid = ledger.state.vote_bundles[EpochNumber(0)][account]
    await getter.add_bytes(await giver.read_bytes(cid, (), limit_bytes=2**20))


def plan(number: int, weights: str = "honest") -> NodePlan:
    return NodePlan(number, 0, weights, NONCES_MAX)


def run(sabotage: Sabotage, *, epochs: int = 1, cheats: int = 0) -> tuple[Ledger, dict[Cid, bytes]]:
    """Run NODES nodes, the last `cheats` with another model; return the ledger and all content there was."""

    async def main() -> tuple[Ledger, dict[Cid, bytes]]:
        plans = [plan(number, "honest" if number < NODES - cheats else "another") for number in range(NODES)]
        trace = Trace()
        group = tuple((account, 1) for account in sorted((plan.account for plan in plans), key=str.lower))
        ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 0, trace, group)
        ledger.register_model(MODEL)
        exchange = ContentExchange(trace)
        async with trio.open_nursery() as nursery:
            switchboard = Switchboard(nursery, 0, trace)
            nursery.start_soon(ledger.produce_blocks)
            for one in plans:
                nursery.start_soon(run_node, one, MODEL_ID, ledger, switchboard, exchange)
            nursery.start_soon(sabotage, ledger, exchange)
            await until(ledger, first_block_of(epochs, Stage.SERVE, PARAMETERS))
            nursery.cancel_scope.cancel()
        return ledger, content_of(exchange.stores.values())

    return run_deterministically(main, 0)


def content_of(stores: object) -> dict[Cid, bytes]:
    assert hasattr(stores, "__iter__")
    return {cid: data for store in stores if isinstance(store, SimulatedContent) for cid, data in store._blocks.items()}


@pytest.mark.parametrize("sabotage", [withhold_votes, give_to_one])
def test_whoever_keeps_its_votes_to_itself_or_to_a_few_does_not_keep_the_others_from_a_result(
    sabotage: Sabotage,
) -> None:
    ledger, _ = run(sabotage)
    assert len(ledger.state.groups[EpochNumber(1)]) == NODES  # all are paid and in the next group
    assert not ledger.state.voided  # those who hold the votes that were left out object to nothing


def test_bundles_are_read_before_form_begins_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else FORM, which may be four blocks, has to read them all."""
    found: list[tuple[int, set[tuple[Address, Cid]]]] = []
    late: list[Address] = []
    read_by, read_bundle = EarlyBundles.read_by, bundle_fetching.read_bundle

    def noted(self: EarlyBundles, judging: Judging) -> BundlesRead:
        read = read_by(self, judging)
        found.append((judging.epoch, set(read)))
        return read

    async def read_late(*arguments: Any) -> VoteBundle | None:
        late.append(arguments[3])
        return await read_bundle(*arguments)

    monkeypatch.setattr(EarlyBundles, "read_by", noted)
    monkeypatch.setattr(bundle_fetching, "read_bundle", read_late)
    ledger, _ = run(nothing, epochs=2)
    committed = {epoch: set(bundles.items()) for epoch, bundles in ledger.state.vote_bundles.items()}
    assert all(len(bundles) == NODES for bundles in committed.values())
    assert sorted(found, key=lambda one: one[0]) == [
        (epoch, committed[EpochNumber(epoch)]) for epoch in (0, 1) for _ in range(NODES)
    ]
    assert late == []


@pytest.mark.parametrize("arguments", [MODEL.model_args, ("--runner", "pooling")])
def test_who_voted_with_another_model_is_named_in_the_next_result(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Also in a network that has nothing but an embedding model."""
    cheat, recompute = plan(NODES - 1).account, recomputing.recompute

    async def by_another(engine: Engine, *arguments: Any, **options: Any) -> recomputing.Recomputed:
        used = SimulatedEngine(engine.node_id, MODEL_ID, "another", 0.0, 1) if cheat in arguments else engine
        return await recompute(used, *arguments, **options)

    monkeypatch.setattr(validating, "recompute", by_another)
    monkeypatch.setattr(f"{__name__}.MODEL", replace(MODEL, model_args=arguments))
    ledger, content = run(nothing, epochs=2)
    result = from_bytes(EpochResult, content[ledger.state.results[EpochNumber(1)].content_cid])
    fates = {outcome.validator: outcome.fate for outcome in result.validators}
    assert fates[cheat] is Verdict.INVALID
    assert [fate for validator, fate in fates.items() if validator != cheat] == [Verdict.VALID] * (NODES - 1)
    bundle = from_bytes(VoteBundle, content[ledger.state.vote_bundles[EpochNumber(1)][plan(0).account]])
    assert {check.validator for check in bundle.checks} == fates.keys() - {plan(0).account}
    assert {check.model_id for check in bundle.checks} == {MODEL.model_id}


def test_whose_batch_was_rejected_is_checked_by_nobody() -> None:
    """It gave that epoch's pay away, which is much more than judging costs."""
    ledger, content = run(nothing, epochs=2, cheats=1)
    result = from_bytes(EpochResult, content[ledger.state.results[EpochNumber(1)].content_cid])
    cheat = plan(NODES - 1).account
    assert cheat not in dict(ledger.state.groups[EpochNumber(1)])
    assert [(found.fate, found.validator == cheat) for found in result.validators] == [(Verdict.VALID, False)] * (
        NODES - 1
    )


def test_a_result_too_large_to_be_read_is_signed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forming, "RESULT_BYTES_MAX", 100)
    ledger, _ = run(nothing)
    assert not ledger.state.results


def test_a_result_larger_than_half_of_what_may_be_is_signed_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, content = run(nothing)
    monkeypatch.setattr(forming, "RESULT_BYTES_MAX", len(content[ledger.state.results[EpochNumber(0)].content_cid]))
    with capture_logs() as logs:
        again, _ = run(nothing)
    assert again.state.results == ledger.state.results
    assert any("larger than half" in line["event"] for line in logs)


def test_a_model_registered_after_mining_is_not_asked_of_anybody() -> None:
    ledger, content = run(register_late)
    assert ModelId("late") in ledger.state.models
    result = from_bytes(EpochResult, content[ledger.state.results[EpochNumber(0)].content_cid])
    assert result.judged_models == (MODEL_ID,)
    assert all(share.covers_models for share in result.settled)


def test_every_node_counts_bundles_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[tuple[str, ...]] = []

    def form(*arguments: Any, **options: Any) -> Slices[EpochResult | None]:
        orders.append(tuple(arguments[3]))
        return form_epoch_result_in_slices(*arguments, **options)

    monkeypatch.setattr(result_inputs, "form_epoch_result_in_slices", form)
    run(nothing)
    assert len(orders) >= NODES
    assert all(list(order) == sorted(order, key=str.lower) for order in orders)


def test_challenges_are_chosen_by_a_block_after_the_bundles_and_draws_by_one_after_the_books(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[int, AuditSeeds] = {}

    def form(*arguments: Any, **options: Any) -> Slices[EpochResult | None]:
        if options["audit_seeds"] is not None:
            seen[arguments[0]] = options["audit_seeds"]
        return form_epoch_result_in_slices(*arguments, **options)

    monkeypatch.setattr(result_inputs, "form_epoch_result_in_slices", form)
    ledger, _ = run(nothing, epochs=3)
    hashes = [ledger.block_hashes[first_block_of(epoch, Stage.FORM, PARAMETERS)] for epoch in range(3)]
    assert seen == {1: AuditSeeds(hashes[0], hashes[1]), 2: AuditSeeds(hashes[1], hashes[2])}
