"""Pay on a whole network: nodes that keep serving are paid like those that mine, who fakes is punished once."""

from dataclasses import dataclass

import pytest
import trio

from netsim.clock import run_deterministically
from netsim.content import ContentExchange
from netsim.ledger import Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, run_node
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.protocol.findings import NodeFate
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import EpochResult
from node.protocol.stages import Stage, first_block_of
from node.protocol.unpaid import explain
from node.protocol.verdicts import Offence
from node.services.epochs import result_from_bytes
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway

EPOCHS = 3
NODES = 5
FAKER = NODES - 1
QUESTIONS = 12


@dataclass
class Outcome:
    accounts: list[Address]
    results: dict[EpochNumber, EpochResult]
    ledger: Ledger

    @property
    def honest(self) -> list[Address]:
        return self.accounts[:FAKER]

    def fates(self, epoch: int) -> dict[Address, NodeFate]:
        return {node.participant: node.fate for node in self.results[EpochNumber(epoch)].nodes}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run_deterministically(_run, 5)


async def _ask(gateway: Gateway) -> None:
    await trio.sleep(PARAMETERS.epoch_blocks * BLOCK_SECONDS + 10)  # in the second epoch, whose group is frozen
    for number in range(QUESTIONS):
        prompt = Prompt((Turn("user", f"question number {number}"),))
        async with gateway.ask(ChatRequest(MODEL_ID, prompt, max_tokens=20)) as answer:
            async for _ in answer:
                pass


async def _run() -> Outcome:
    plans = [NodePlan(number, 5, "another" if number == FAKER else "honest", 32) for number in range(NODES)]
    accounts = [plan.account for plan in plans]
    trace = Trace()
    group = tuple((account, 1) for account in sorted(accounts, key=str.lower))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 5, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 5, trace)
        nursery.start_soon(ledger.produce_blocks)
        for plan in plans:
            asking = _ask if plan.number == 0 else None
            nursery.start_soon(run_node, plan, MODEL_ID, ledger, switchboard, exchange, asking)
        await trio.sleep((first_block_of(EPOCHS, Stage.SERVE, ledger.schedule) - ledger.height) * BLOCK_SECONDS)
        nursery.cancel_scope.cancel()
    blocks = {cid: data for store in exchange.stores.values() for cid, data in store._blocks.items()}
    results = {
        epoch: result_from_bytes(blocks[summary.content_cid], summary)
        for epoch, summary in ledger.state.results.items()
    }
    return Outcome(accounts, results, ledger)


def test_every_epoch_has_a_result(outcome: Outcome) -> None:
    assert sorted(outcome.results) == list(range(EPOCHS))


def test_half_of_the_model_keeps_serving_and_none_twice_without_mining(outcome: Outcome) -> None:
    assert NodeFate.PRESERVED not in outcome.fates(0).values()
    kept = [
        {account for account, fate in outcome.fates(epoch).items() if fate is NodeFate.PRESERVED}
        for epoch in range(EPOCHS)
    ]
    assert len(kept[1]) == len(outcome.honest) // 2
    assert kept[2]
    assert not kept[1] & kept[2]
    committed = {participant for participant, _ in outcome.ledger.state.poc_commits[EpochNumber(1)]}
    assert not kept[1] & committed


def test_honest_nodes_are_paid_alike_whether_they_mined_or_kept_serving(outcome: Outcome) -> None:
    for result in outcome.results.values():
        paid = {share.participant: share.amount for share in result.settled}
        assert set(paid) == set(outcome.honest)
        assert len(set(paid.values())) == 1
        assert min(paid.values()) > 0
        scores = {score.participant: score.per_mille for score in result.scores}
        assert {scores[account] for account in outcome.honest} == {1000}


def test_who_mined_with_another_model_is_punished_once_and_barred(outcome: Outcome) -> None:
    faker = outcome.accounts[FAKER]
    (penalty,) = outcome.results[EpochNumber(0)].penalties
    assert (penalty.participant, penalty.offence, penalty.reason) == (faker, Offence.FRAUD, "batch-of-fakes")
    executed = [event for event in outcome.ledger.events if type(event.body).__name__ == "ParticipantPunished"]
    assert (EpochNumber(0), faker, Offence.FRAUD) in outcome.ledger.state.punished
    assert len(executed) == len(outcome.ledger.state.punished)
    assert outcome.fates(1).get(faker) in (None, NodeFate.UNDECIDED)


def test_tokens_served_are_in_the_throughput_of_the_next_group(outcome: Outcome) -> None:
    (entry,) = outcome.results[EpochNumber(1)].group.throughputs
    assert sum(entry.real_throughput_vector) > QUESTIONS
    assert entry.total_throughput == sum(
        node.throughput for member in outcome.results[EpochNumber(1)].group.members for node in member.ml_nodes
    )


def test_what_was_not_paid_is_explained_for_everybody(outcome: Outcome) -> None:
    before = None
    for epoch in range(EPOCHS):
        result = outcome.results[EpochNumber(epoch)]
        for account in outcome.accounts:
            explanation = explain(result, before, account)
            assert explanation.most - explanation.paid == sum(part.amount for part in explanation.parts)
            assert (explanation.parts == ()) is (account in outcome.honest or explanation.most == 0)
        before = result.group
