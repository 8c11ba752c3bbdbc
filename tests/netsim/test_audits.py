"""Audits on a whole network: who proves with the model and answers with another is found out by its answers alone."""

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
from node.protocol.audit_outcomes import ACCUSED
from node.protocol.findings import AuditOutcome
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import EpochResult
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict
from node.services.epochs import result_from_bytes
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway

NODES = 6
CHEAT = NODES - 1
EPOCHS = 3
QUESTIONS_AT_ONCE = 24
TOKENS = 40


@dataclass
class Outcome:
    accounts: list[Address]
    results: dict[EpochNumber, EpochResult]

    def audits(self, epoch: int) -> dict[Address, AuditOutcome]:
        return {outcome.executor: outcome for outcome in self.results[EpochNumber(epoch)].audits}


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run_deterministically(_run, 5)


async def _ask(gateway: Gateway) -> None:
    """Ask all at once, so that every executor gets some."""
    await trio.sleep(20)

    async def ask_one(number: int) -> None:
        prompt = Prompt((Turn("user", f"question number {number}"),))
        async with gateway.ask(ChatRequest(MODEL_ID, prompt, max_tokens=TOKENS)) as answer:
            async for _ in answer:
                pass

    async with trio.open_nursery() as nursery:
        for number in range(QUESTIONS_AT_ONCE):
            nursery.start_soon(ask_one, number)


async def _run() -> Outcome:
    plans = [NodePlan(n, 5, "honest", 32, "another" if n == CHEAT else "") for n in range(NODES)]
    accounts = [plan.account for plan in plans]
    trace = Trace()
    group = tuple((account, 1) for account in sorted(accounts, key=str.lower))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 5, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    last_block = first_block_of(EPOCHS, Stage.SERVE, PARAMETERS)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 5, trace)
        nursery.start_soon(ledger.produce_blocks)
        for plan in plans:
            asking = _ask if plan.number == 0 else None
            nursery.start_soon(run_node, plan, MODEL_ID, ledger, switchboard, exchange, asking)
        await trio.sleep((last_block - ledger.height) * BLOCK_SECONDS)
        nursery.cancel_scope.cancel()
    blocks = {cid: data for store in exchange.stores.values() for cid, data in store._blocks.items()}
    results = {
        epoch: result_from_bytes(blocks[summary.content_cid], summary)
        for epoch, summary in ledger.state.results.items()
    }
    return Outcome(accounts, results)


def test_all_executors_commit_to_the_receipts_of_their_answers(outcome: Outcome) -> None:
    books = outcome.results[EpochNumber(0)].books
    assert sum(committed.book.count for committed in books) == QUESTIONS_AT_ONCE
    assert outcome.accounts[CHEAT] in {committed.executor for committed in books}


def test_honest_answers_pass_and_the_cheat_is_accused(outcome: Outcome) -> None:
    audits = outcome.audits(1)
    cheat = audits.pop(outcome.accounts[CHEAT])
    assert (cheat.fate, cheat.reason) == (Verdict.ABSTAIN, ACCUSED)
    assert audits
    assert {(audit.fate, audit.withheld) for audit in audits.values()} == {(Verdict.VALID, 0)}


def test_the_whole_group_confirms_and_the_fraud_is_to_be_punished(outcome: Outcome) -> None:
    audits = outcome.audits(2)
    assert audits[outcome.accounts[CHEAT]].fate is Verdict.INVALID
    assert [penalty.participant for penalty in outcome.results[EpochNumber(2)].penalties] == [outcome.accounts[CHEAT]]
