"""A payer without weight on a whole network: what an executor left out of its book is proven in members' bundles."""

import pytest
import trio

from netsim.clock import run_deterministically
from netsim.content import ContentExchange
from netsim.ledger import Ledger
from netsim.network import Switchboard
from netsim.node import NodePlan, run_node
from netsim.scenario import BLOCK_SECONDS, MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.protocol.audit_outcomes import OMITTED
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import EpochResult, Omission, SignedReceipt, VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.services.epochs import result_from_bytes
from node.store.given_answers import GivenAnswerTables
from tests.netsim.test_audits import _ask

SEED = 5
MEMBERS = range(5)
OMITTING = 2
PAYER = 5
EPOCHS = 3


class Outcome:
    """What became of a run."""

    def __init__(self, results: dict[EpochNumber, EpochResult], bundles: list[VoteBundle]) -> None:
        self.results = results
        self.bundles = bundles


def account_of(number: int) -> Address:
    return plan(number).account


def plan(number: int) -> NodePlan:
    return NodePlan(number, SEED, "honest", 0 if number == PAYER else 32)


async def run() -> Outcome:
    trace = Trace()
    group = tuple(sorted(((account_of(number), 1) for number in MEMBERS), key=lambda one: one[0].lower()))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, SEED, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    last_block = first_block_of(EPOCHS, Stage.SERVE, PARAMETERS)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, SEED, trace)
        nursery.start_soon(ledger.produce_blocks)
        for number in (*MEMBERS, PAYER):
            user = _ask if number == PAYER else None
            nursery.start_soon(run_node, plan(number), MODEL_ID, ledger, switchboard, exchange, user)
        await trio.sleep((last_block - ledger.height) * BLOCK_SECONDS)
        nursery.cancel_scope.cancel()
    blocks = {cid: data for store in exchange.stores.values() for cid, data in store._blocks.items()}
    results = {
        epoch: result_from_bytes(blocks[summary.content_cid], summary)
        for epoch, summary in ledger.state.results.items()
    }
    bundles = []
    for data in blocks.values():
        try:
            bundles.append(from_bytes(VoteBundle, data))
        except SchemaError:
            continue
    return Outcome(results, bundles)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    new_receipts = GivenAnswerTables.new_receipts

    def leave_out_all(given: GivenAnswerTables, **how: int) -> tuple[tuple[SignedReceipt, ...], int]:
        receipts, last = new_receipts(given, **how)
        return receipts[: 0 if given._account == account_of(OMITTING) else None], last

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GivenAnswerTables, "new_receipts", leave_out_all)
        return run_deterministically(run, SEED)


def test_the_payer_has_no_weight_in_any_epoch(outcome: Outcome) -> None:
    for result in outcome.results.values():
        assert account_of(PAYER) not in {member.participant for member in result.group.members}


def test_members_bundles_prove_what_was_left_out_and_nothing_else(outcome: Outcome) -> None:
    proofs: dict[Address, list[Omission]] = {}
    for bundle in outcome.bundles:
        if bundle.omissions:
            proofs[bundle.validator] = list(bundle.omissions)
    assert len(proofs) >= 3
    assert not proofs.keys() & {account_of(PAYER), account_of(OMITTING)}
    receipts = [one.signed.receipt for found in proofs.values() for one in found]
    assert {(receipt.executor, receipt.payer) for receipt in receipts} == {(account_of(OMITTING), account_of(PAYER))}


def test_it_counts_against_its_executor_and_nobody_else(outcome: Outcome) -> None:
    audits = {found.executor: found for found in outcome.results[EpochNumber(2)].audits}
    assert audits[account_of(OMITTING)].reason == OMITTED
    assert audits[account_of(OMITTING)].withheld > 0
    assert all(found.withheld == 0 for executor, found in audits.items() if executor != account_of(OMITTING))
