"""Decoys: who answers with another model is challenged, honest executors are not, and nobody can foresee them."""

import random

import pytest
import trio

from netsim.engine import DrawingEngine
from netsim.scenario import MODEL_ID
from node.ports import Engine
from node.protocol.audit_evidence import AuditEvidence, what_is_wrong
from node.protocol.audit_votes import CHALLENGES_MAX
from node.protocol.codec import from_bytes
from node.protocol.pricing import receipt_digest
from node.services.decoys import DecoyService
from node.store.given_answers import GivenAnswerTables
from tests.builders import account
from tests.unit.services.serving_network import GATEWAY, NODE, ServingNetwork, serving_network

CHEAT = 2


def engine(number: int) -> Engine:
    return DrawingEngine(NODE, MODEL_ID, "honest", 0.005, number, "another" if number == CHEAT else "")


def decoys_of(network: ServingNetwork, *, seconds_between: float = 60.0) -> DecoyService:
    member = network.members[GATEWAY]
    own = DrawingEngine(NODE, MODEL_ID, "honest", 0.005, GATEWAY)
    given = GivenAnswerTables(member.store.database, member.chain.account)
    return DecoyService(
        member.chain,
        member.store,
        member.epochs,
        network.gateway.ask,
        [own],
        given,
        seconds_between=seconds_between,
        source=random.Random(7),
    )


async def test_answers_of_another_model_are_challenged_with_their_evidence_and_no_others(
    autojump_clock: object,
) -> None:
    async with serving_network(3, engine=engine) as network:
        decoys = decoys_of(network, seconds_between=40.0)
        member = network.members[GATEWAY]
        random_bytes = random.Random(3).randbytes
        network.gateway._random_bytes = random_bytes  # else every request has the same id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(decoys.run)
            await trio.sleep(1200)
            nursery.cancel_scope.cancel()
        executors = {signed.receipt.executor for signed in member.store.receipts(limit=100)}
        assert {account(n) for n in (1, 2, 3)} <= executors
        challenges = decoys.take()
        assert 0 < len(challenges) <= CHALLENGES_MAX
        assert {signed.receipt.executor for signed in challenges} == {account(CHEAT)}
        digests = [receipt_digest(signed.receipt) for signed in challenges]
        assert digests == sorted(digests)
        data = GivenAnswerTables(member.store.database, member.chain.account).kept(digests[0])
        assert data is not None
        assert what_is_wrong(from_bytes(AuditEvidence, data), account(CHEAT), digests[0], None) == ""


async def test_without_an_engine_that_can_check_nothing_is_asked(autojump_clock: object) -> None:
    async with serving_network(1, engine=engine) as network:
        member = network.members[GATEWAY]
        given = GivenAnswerTables(member.store.database, member.chain.account)
        decoys = DecoyService(
            member.chain, member.store, member.epochs, network.gateway.ask, [object()], given,
            seconds_between=1.0, source=random.Random(1),
        )  # fmt: skip
        with trio.move_on_after(300):
            await decoys.run()
        assert member.store.receipts(limit=9) == ()
        assert decoys.take() == ()


@pytest.mark.parametrize("number", [1, 3])
async def test_questions_differ_and_look_like_text(autojump_clock: object, number: int) -> None:
    async with serving_network(1, engine=engine) as network:
        decoys = decoys_of(network)
        own = DrawingEngine(NODE, MODEL_ID, "honest", 0.0, number)
        questions = {await decoys._question(own) for _ in range(5)}
        assert len(questions) == 5
        assert all(8 <= len(question.split()) <= 96 for question in questions)
