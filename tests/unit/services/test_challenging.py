"""A user has an answer judged: what is handed over, what is not, and why."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from netsim.engine import DrawingEngine
from netsim.scenario import MODEL_ID
from node.control.challenge_methods import ChallengeParams
from node.control.jsonrpc import RpcError
from node.operations.challenges import DaemonChallengeOperations
from node.ports import Engine
from node.protocol.audit_evidence import AuditEvidence, what_is_wrong
from node.protocol.audit_votes import CHALLENGE_EPOCHS_MAX
from node.protocol.identifiers import EpochNumber
from node.protocol.pricing import receipt_digest
from node.protocol.records import GroupMember, SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.services.challenge_book import ChallengeBook
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from node.store.given_answers import GivenAnswerTables
from tests.builders import account
from tests.unit.services.serving_network import GATEWAY, NODE, Member, serving_network

EPOCH = EpochNumber(9)
QUESTION = ChatRequest(MODEL_ID, Prompt((Turn("user", "who is there?"),)), max_tokens=96)


@dataclass
class Bench:
    """A gateway that was answered by another model, and what its operator can do about it."""

    member: Member
    operations: DaemonChallengeOperations
    book: ChallengeBook
    given: GivenAnswerTables

    async def ask(self, chat: ChatRequest) -> SignedReceipt:
        """Return the receipt of the answer to a request."""
        gateway = self.member.gateway
        assert gateway is not None
        async with gateway.ask(chat) as answer:
            async for _ in answer:
                pass
        (signed,) = self.member.store.receipts_of(answer.summary.request_id)
        return signed

    async def challenge(self, signed: SignedReceipt, *, consent: bool = False) -> Any:
        return await self.operations.challenge(ChallengeParams(receipt=name(signed), consent=consent))

    async def refusal(self, signed: SignedReceipt, *, consent: bool = False) -> str:
        """Why it is not challenged; nothing of it is kept to be handed over."""
        with pytest.raises(RpcError) as refused:
            await self.challenge(signed, consent=consent)
        assert self.book.take(EPOCH) == ()
        assert self.given.kept(receipt_digest(signed.receipt)) is None
        return f"{refused.value.message}; {refused.value.remedy}"

    def give_weight(self, *numbers: int, context_length: int = 512, newest: int | None = None) -> None:
        """Have these accounts be the group; `newest` is the epoch of the newest result."""
        result = None if newest is None else SimpleNamespace(epoch=EpochNumber(newest), books=())
        group = self.member.epochs.group()
        members = tuple(GroupMember(account(n), group.members[0].peer_id, 1, ()) for n in numbers)
        models = tuple(replace(model, context_length=context_length) for model in group.models)
        given = replace(group, members=members, models=models)
        weighty = SimpleNamespace(group=lambda: given, newest_result=lambda: result)
        self.operations._epochs = cast(Any, weighty)


def name(signed: SignedReceipt) -> str:
    return signed.receipt.request_id.hex()[:12]


@asynccontextmanager
async def bench(
    answers_with: str = "another", *, seconds: float = 3600.0, has_engine: bool = True
) -> AsyncIterator[Bench]:
    def engine(number: int) -> Engine:
        return DrawingEngine(NODE, MODEL_ID, "honest", 0.005, number, answers_with)

    async with serving_network(1, engine=engine) as network:
        member, gateway = network.members[GATEWAY], network.gateway
        gateway._random_bytes = random.Random(3).randbytes
        gateway.at_hand._seconds = seconds
        given = GivenAnswerTables(member.store.database, member.chain.account)
        book = ChallengeBook(member.store)
        engines = (DrawingEngine(NODE, MODEL_ID, "honest", 0.005, GATEWAY),) if has_engine else ()
        made = Bench(
            member,
            DaemonChallengeOperations(member.chain, member.store, member.epochs, gateway.at_hand, given, book, engines),
            book,
            given,
        )
        made.give_weight(1, GATEWAY)
        yield made


@pytest.mark.parametrize("has_engine", [True, False])
@pytest.mark.parametrize("private", [True, False])
async def test_a_doubted_answer_is_in_the_next_votes_and_its_evidence_is_handed_over(
    autojump_clock: object, private: bool, has_engine: bool
) -> None:
    async with bench(has_engine=has_engine) as made:
        signed = await made.ask(replace(QUESTION, private=private))
        digest = receipt_digest(signed.receipt)
        view = await made.challenge(signed, consent=private)
        assert (view.receipt, view.is_private, view.is_checked) == (digest.hex(), private, has_engine)
        assert made.book.take(EPOCH) == (signed,)
        data = made.given.kept(digest)
        assert data is not None
        assert what_is_wrong(evidence_from_bytes(data), account(1), digest, None) == ""
        with pytest.raises(RpcError, match="already"):
            await made.challenge(signed, consent=private)


async def test_a_private_answer_whose_row_this_node_audited_is_handed_over_with_its_tokens(
    autojump_clock: object,
) -> None:
    async with bench() as made:
        signed = await made.ask(replace(QUESTION, private=True))
        digest = receipt_digest(signed.receipt)
        made.given.keep(digest, evidence_to_bytes(AuditEvidence(signed, None)))
        await made.challenge(signed, consent=True)
        data = made.given.kept(digest)
        assert data is not None
        assert what_is_wrong(evidence_from_bytes(data), account(1), digest, None) == ""


async def test_a_private_answer_is_shown_to_nobody_without_consent_and_stored_nowhere(autojump_clock: object) -> None:
    async with bench() as made:
        signed = await made.ask(replace(QUESTION, private=True))
        assert made.member.store.answer_of(signed.receipt.request_id, signed.receipt.executor) is None
        assert "--consent" in await made.refusal(signed)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
async def test_a_private_answer_is_forgotten_in_time(autojump_clock: object, seconds: float) -> None:
    async with bench(seconds=seconds) as made:
        signed = await made.ask(replace(QUESTION, private=True))
        await trio.sleep(61)
        assert "private_answers_kept_seconds" in await made.refusal(signed, consent=True)


async def test_an_honest_answer_is_shown_to_nobody(autojump_clock: object) -> None:
    async with bench(answers_with="") as made:
        signed = await made.ask(QUESTION)
        assert "nothing is proven by this answer alone" in await made.refusal(signed)


async def test_what_nobody_can_judge_is_refused_with_its_reason(autojump_clock: object) -> None:
    async with bench() as made:
        strange = await made.ask(replace(QUESTION, sampling=SamplingParameters(presence_penalty_milli=500)))
        assert "penalties" in await made.refusal(strange)
        signed = await made.ask(QUESTION)
        made.give_weight(1)
        assert "this node has no weight" in await made.refusal(signed)
        made.give_weight(GATEWAY)
        assert "its executor has no weight" in await made.refusal(signed)
        made.give_weight(1, GATEWAY, context_length=signed.receipt.prompt_tokens + 1)
        assert "fills the context" in await made.refusal(signed)
        made.give_weight(1, GATEWAY)
        changed = made.member.chain.state.numbers_changed
        changed[MODEL_ID] = made.member.chain.schedule.first.genesis_block
        assert "changed how it is run" in await made.refusal(signed)
        changed.clear()
        made.member.store.forget_answers(kept_max=0)
        assert "answers_kept_max" in await made.refusal(signed)


@pytest.mark.parametrize("older", [0, 1])
async def test_an_old_answer_is_refused_where_it_would_count_for_nothing(autojump_clock: object, older: int) -> None:
    async with bench() as made:
        signed = await made.ask(QUESTION)
        made.give_weight(1, GATEWAY, newest=signed.receipt.epoch + CHALLENGE_EPOCHS_MAX + older)
        if older:
            assert "older than 16 epochs" in await made.refusal(signed)
        else:
            await made.challenge(signed)


async def test_a_receipt_has_to_be_named_so_that_it_is_one(autojump_clock: object) -> None:
    async with bench() as made:
        gateway = made.member.gateway
        assert gateway is not None
        gateway._random_bytes = lambda count: bytes([7]) * count
        first = await made.ask(QUESTION)
        with pytest.raises(RpcError, match="begins with ffffffff"):
            await made.operations.challenge(ChallengeParams(receipt="ffffffff"))
        other = replace(first, receipt=replace(first.receipt, at=first.receipt.at + 1))
        made.member.store.save_receipt(other)
        with pytest.raises(RpcError, match="several"):
            await made.challenge(first)
        digest = receipt_digest(first.receipt).hex()
        assert (await made.operations.challenge(ChallengeParams(receipt=digest))).receipt == digest
