"""An engine that does not draw by the rule is paid, signs nothing as verifiable, and is asked after others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import NodeId
from node.protocol.receipt_books import booked_tokens
from node.protocol.sampling import SamplingParameters
from node.protocol.verification import Outcome, verify_offline
from node.services.faults import BURST_SECONDS, Fault
from tests.unit.services.scripted import CHAT, ask, ids_of
from tests.unit.services.serving_network import GATEWAY, NODE, serving_network
from tests.unit.services.test_receipts import only_dossier, operations_of


class Unruly(SimulatedEngine):
    """An engine that knows that it does not draw by the rule."""

    draws_by_rule = False


class DiesEarly(SimulatedEngine):
    """An engine by the rule that dies before its first token; only then the node's other engine is ready."""

    draws_by_rule = True
    other: SimulatedEngine | None = None

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        if self.other is not None:
            self.other.model_id = MODEL_ID
            raise EngineFailedError("it died")
        async with super().generate(request) as chunks:
            yield chunks


async def test_who_does_not_draw_by_the_rule_signs_nothing_as_verifiable_and_is_paid(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        answer, parts = await ask(network)
        assert len(ids_of(parts)) == 50
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_verifiable
        assert booked_tokens(signed.receipt) == 50  # drawn all the same: its word takes nothing out of the draw
        assert signed.payer_signature
        dossier = await only_dossier(operations_of(network, GATEWAY))
        (draw,) = [check for check in verify_offline(dossier) if check.what == "draw"]
        assert draw.outcome is Outcome.HOLDS
        assert "does not follow the rule" in draw.detail
        await trio.sleep(5)
        assert network.paid_to(1) == answer.summary.price


async def test_whoever_says_that_it_follows_no_rule_is_asked_after_those_who_can_be_audited(
    autojump_clock: object,
) -> None:
    def engine(number: int) -> Engine:
        kind = Unruly if number == 1 else SimulatedEngine
        return kind(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(2, engine=engine) as network:
        faults = network.gateway.faults
        for _ in range(40):
            await ask(network)
            if faults.counts[Fault.NOT_BY_RULE]:
                break
        unruly, ruled = (network.members[number].chain.account for number in (1, 2))
        assert faults.is_faulty(unruly)
        assert not faults.is_faulty(ruled)
        given = len(network.members[1].store.receipts(limit=99))
        for _ in range(5):
            await ask(network)
        assert len(network.members[1].store.receipts(limit=99)) == given


async def test_an_engine_outside_the_rule_is_written_down_once_and_not_for_each_of_its_answers(
    autojump_clock: object,
) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        faults = network.gateway.faults
        await ask(network)
        written_at = trio.current_time()
        for _ in range(2):
            assert faults.is_faulty(network.members[1].chain.account)
            await ask(network)
        assert trio.current_time() - written_at < BURST_SECONDS
        assert faults.counts[Fault.NOT_BY_RULE] == 1


async def test_what_the_user_asked_for_outside_the_rule_is_no_fault_of_an_engine(autojump_clock: object) -> None:
    def engine(number: int) -> Engine:
        return Unruly(NODE, MODEL_ID, "honest", 0.0, number)

    async with serving_network(1, engine=engine) as network:
        await ask(network, replace(CHAT, sampling=SamplingParameters(presence_penalty_milli=500)))
        assert not network.gateway.faults.counts[Fault.NOT_BY_RULE]
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_within_rule


async def test_an_answer_begun_by_the_rule_is_not_gone_on_with_by_an_engine_outside_it(autojump_clock: object) -> None:
    def engines(number: int) -> list[Engine]:
        ruled = DiesEarly(NODE, MODEL_ID, "honest", 0.0, number)
        ruled.other = Unruly(NodeId("node-2"), None, "honest", 0.0, number)
        return [ruled, ruled.other]

    async with serving_network(1, engine=engines) as network:
        _, parts = await ask(network)  # asked anew, of an executor that says so in its opening
        assert len(ids_of(parts)) == 50
        (signed,) = network.members[1].store.receipts(limit=9)
        assert not signed.receipt.is_verifiable
