"""Receipts of real answers: both sides keep them, the user's with the answer, and each line of a check can fail."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from node.control.jsonrpc import RpcError
from node.control.receipt_methods import ReceiptParams, ReceiptsParams, VerifyParams
from node.operations.receipts import DaemonReceiptOperations
from node.ports import CallFailedError
from node.protocol.dossiers import Dossier, dossiers_from_json, dossiers_to_json
from node.protocol.draws import MARGIN_MAX, Drawn, Prefill
from node.protocol.identifiers import Cid, EpochNumber, NodeId, TokenAmount
from node.protocol.node_names import UNNAMED
from node.protocol.pricing import receipt_digest
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.signatures import sign
from node.protocol.verification import Outcome, verify_offline
from node.services.receipt_checks import ChainFacts, check_against_chain
from node.services.receipt_tokens import judge_margins
from tests.builders import account, key_of
from tests.unit.services.serving_network import GATEWAY, NODE, UNIT, ServingNetwork, serving_network
from tests.unit.services.test_serving import CHAT, ask, call_with, request_to, signed

ONE = ReceiptsParams(limit=1)


class PrefillingEngine(SimulatedEngine):
    """Says of each token what it would draw itself: itself, at temperature 0."""

    shift = 0

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        del top, priority, drawn
        await trio.lowlevel.checkpoint()
        claimed = [token + self.shift for token in token_ids[first:]]
        likely = [{real: -9.0, wanted: -0.1} for real, wanted in zip(token_ids[first:], claimed, strict=True)]
        return [Prefill(logprobs, 1) for logprobs in likely]


def operations_of(network: ServingNetwork, number: int, *engines: object) -> DaemonReceiptOperations:
    member = network.members[number]
    return DaemonReceiptOperations(member.chain, member.store, member.epochs, engines)


async def only_dossier(operations: DaemonReceiptOperations) -> Dossier:
    (view,) = (await operations.receipts(ONE)).receipts
    document = (await operations.receipt(ReceiptParams(request_id=view.request_id))).document
    (dossier,) = dossiers_from_json(document)
    return dossier


async def outcomes(operations: DaemonReceiptOperations, dossier: Dossier, engine: str | None = None) -> dict[str, str]:
    view = await operations.verify(VerifyParams(document=dossiers_to_json((dossier,)), engine=engine))
    return {check.what: check.outcome for check in view.checks}


def signed_anew(dossier: Dossier, number: int, **changes: object) -> Dossier:
    receipt: Receipt = replace(dossier.signed.receipt, **changes)  # type: ignore[arg-type]
    digest = receipt_digest(receipt)
    both = SignedReceipt(receipt, sign(key_of(number), digest), sign(key_of(GATEWAY), digest))
    return replace(dossier, signed=both)


async def test_a_user_s_receipt_holds_in_every_line(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        _, tokens = await ask(network)
        operations = operations_of(network, GATEWAY)
        dossier = await only_dossier(operations)
        assert dossier.answer is not None
        assert list(dossier.answer.output_ids) == tokens
        assert {check.outcome for check in verify_offline(dossier)} == {Outcome.HOLDS}
        assert await outcomes(operations, dossier) == dict.fromkeys(
            ("network", "executor", "model", "price", "channel"), "holds"
        )


async def test_the_executor_keeps_the_receipt_and_not_what_was_said(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network)
        user, executor = operations_of(network, GATEWAY), operations_of(network, 1)
        (given,), (got,) = (await executor.receipts(ONE)).receipts, (await user.receipts(ONE)).receipts
        assert (given.has_answer, got.has_answer) == (False, True)
        assert given.is_countersigned
        dossier = await only_dossier(executor)
        assert dossier.signed == (await only_dossier(user)).signed
        assert dossier.covering is not None


async def test_a_private_answer_leaves_its_receipt_only(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network, replace(CHAT, private=True))
        operations = operations_of(network, GATEWAY)
        assert (await only_dossier(operations)).answer is None
        tables = network.members[GATEWAY].store.database.connection.execute("SELECT count(*) FROM answers")
        assert tables.fetchone() == (0,)


async def test_answers_are_left_out_of_a_file_if_asked_for(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network)
        operations = operations_of(network, GATEWAY)
        (view,) = (await operations.receipts(ONE)).receipts
        params = ReceiptParams(request_id=view.request_id[:8], with_answer=False)
        (dossier,) = dossiers_from_json((await operations.receipt(params)).document)
        assert dossier.answer is None


async def test_an_unpaid_answer_leaves_a_receipt_that_only_its_executor_signed(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await network.members[GATEWAY].payer.reserve(account(1), TokenAmount(1000 * UNIT))
        request = replace(request_to(1), max_tokens=2)
        with pytest.raises(CallFailedError, match="unpaid"):
            await call_with(network, signed(network, request))
        member = network.members[1]
        (kept,) = member.store.receipts(limit=9)
        assert kept.payer_signature == b""
        assert member.store.receipt_totals() == (0, 0, 0)
        dossier = await only_dossier(operations_of(network, 1))
        failed = [check.what for check in verify_offline(dossier) if check.outcome is Outcome.FAILS]
        assert failed == ["payer's signature"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"price": TokenAmount(5)}, "price"),
        ({"output_tokens": 49}, "price"),
        ({"model_cid": Cid("bafkother")}, "model"),
        ({"node_id": NodeId("no-such-node")}, "executor"),
        ({"executor": account(GATEWAY)}, "executor"),
    ],
)
async def test_what_both_signed_and_the_chain_does_not_know_is_found(
    autojump_clock: object, changes: dict[str, object], expected: str
) -> None:
    """The group of the first epochs is made of the registry, which may change: what differs is no proof of a lie."""
    async with serving_network(1) as network:
        await ask(network)
        operations = operations_of(network, GATEWAY)
        changed = signed_anew(await only_dossier(operations), 1, **changes)
        assert (await outcomes(operations, changed))[expected] == "not checked"


async def test_a_receipt_of_a_node_that_had_no_name_yet_holds(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network)
        operations = operations_of(network, GATEWAY)
        unnamed = signed_anew(await only_dossier(operations), 1, node_id=UNNAMED)
        assert (await outcomes(operations, unnamed))["executor"] == "holds"


async def test_a_node_that_was_registered_after_its_group_was_frozen_is_its_executors(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network)
        operations, member = operations_of(network, GATEWAY), network.members[GATEWAY]
        dossier = await only_dossier(operations)
        group = member.epochs.group()
        frozen = replace(group, members=tuple(replace(one, ml_nodes=()) for one in group.members))
        facts = ChainFacts(
            member.chain.chain_id, member.chain.payment_channels, member.chain.state,
            member.chain.parameters.unit_price, dossier.signed.receipt.epoch, frozen, is_frozen=True,
        )  # fmt: skip

        def executor_of(one: Dossier) -> Outcome:
            return next(check.outcome for check in check_against_chain(one, facts) if check.what == "executor")

        assert executor_of(dossier) is Outcome.HOLDS
        assert executor_of(signed_anew(dossier, 1, node_id=NodeId("made-up"))) is Outcome.FAILS


async def test_receipts_of_other_networks_epochs_and_payers_without_channel_fail(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network)
        operations = operations_of(network, GATEWAY)
        dossier = await only_dossier(operations)
        assert await outcomes(operations, replace(dossier, chain_id=1)) == {"network": "fails"}
        later = signed_anew(dossier, 1, epoch=EpochNumber(10**6))
        assert (await outcomes(operations, later))["executor"] == "fails"
        stranger = signed_anew(dossier, 1, payer=account(55))
        assert (await outcomes(operations, stranger))["channel"] == "fails"
        covering = dossier.covering
        assert covering is not None
        beyond = replace(covering, voucher=replace(covering.voucher, cumulative=TokenAmount(10**30)))
        assert (await outcomes(operations, replace(dossier, covering=beyond)))["channel"] == "fails"


async def test_tokens_are_checked_with_an_engine_of_one_s_own(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        await ask(network, replace(CHAT, sampling=replace(CHAT.sampling, temperature_milli=0)))
        engine = PrefillingEngine(NODE, network.members[1].engine.model_id, "honest", 0.0, 1)  # type: ignore[union-attr]
        operations = operations_of(network, GATEWAY, engine)
        dossier = await only_dossier(operations)
        assert (await outcomes(operations, dossier, "node-1"))["tokens"] == "holds"
        engine.shift = 1
        assert (await outcomes(operations, dossier, "node-1"))["tokens"] == "fails"
        assert (await outcomes(operations, replace(dossier, answer=None), "node-1"))["tokens"] == "not checked"
        engine.model_id = None
        assert (await outcomes(operations, dossier, "node-1"))["tokens"] == "not checked"
        with pytest.raises(RpcError, match="no ML node"):
            await outcomes(operations, dossier, "gpu9")


async def test_ids_and_documents_that_name_nothing_are_refused(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        operations = operations_of(network, GATEWAY)
        assert (await operations.receipts(ONE)).receipts == []
        with pytest.raises(RpcError, match="no receipt begins"):
            await operations.receipt(ReceiptParams(request_id="ab" * 32))
        for document in ("", "{}", '{"format": "quern-receipts/1", "receipts": [{}]}'):
            with pytest.raises(RpcError, match="not one receipt"):
                await operations.verify(VerifyParams(document=document))


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([0.0] * 50, Outcome.HOLDS),
        ([0.0] * 49 + [MARGIN_MAX], Outcome.HOLDS),
        ([0.02] * 50, Outcome.HOLDS),
        ([MARGIN_MAX], Outcome.FAILS),
        ([0.0] * 45 + [MARGIN_MAX] * 5, Outcome.FAILS),
        ([0.2] * 50, Outcome.FAILS),
    ],
)
def test_a_few_ties_are_forgiven_and_another_model_is_not(margins: list[float], expected: Outcome) -> None:
    assert judge_margins(margins).outcome is expected
