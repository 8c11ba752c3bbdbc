"""Seeds on their way: neither end chooses them, they outlive crashes, and an answer keeps its seed over fail-over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID, PARAMETERS
from node.ports import CallFailedError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.codec import from_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32, RequestId
from node.protocol.sampling import SamplingParameters
from node.protocol.seeds import (
    SeedShare,
    SeedShareError,
    check_share,
    commitment_of,
    is_honest,
    make_share,
    share_digest,
)
from node.protocol.signatures import sign
from node.services import seeding
from node.services.attempt import AnswerSummary
from node.services.faults import load_evidence
from node.services.frames import METHOD, InferenceRequest, Opening, Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError
from node.services.seeding import AnswerSeed, SeedBook, UnknownCommitmentError, seed_of, seed_of_opening
from node.services.share_checks import SHARES_MAX, RefutedShare, ShareBook
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of
from tests.unit.services.serving_network import GATEWAY, NODE, ServingNetwork, honest_engine, serving_network

CHAT = ChatRequest(MODEL_ID, Prompt((Turn("user", "what is a quern"),)), max_tokens=50)
PAYER, FIRST, SECOND = account(1), account(2), account(3)


class Epochs:
    """An epoch that a test moves."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> EpochNumber:
        return EpochNumber(self.number)


def book_on(store: Books, epochs: Epochs) -> SeedBook:
    return SeedBook(store, epochs)


def store() -> Books:
    return Books(Database(":memory:"), FIRST)


def request(**changes: object) -> InferenceRequest:
    return replace(
        InferenceRequest(
            request_id=RequestId(b"\x01" * 32),
            model_id=MODEL_ID,
            payer=PAYER,
            executor=FIRST,
            at=0,
            epoch=EpochNumber(0),
            prompt=CHAT.prompt,
            prefix=(),
            max_tokens=5,
            sampling=SamplingParameters(),
            seed=None,
            stop=(),
            logprobs=None,
            response_format="",
        ),
        **changes,  # type: ignore[arg-type]
    )


def sign_first(digest: Hash32) -> bytes:
    return sign(key_of(2), digest)


def is_member(who: Address) -> bool:
    return who in (FIRST, SECOND)


# --- the executor's secrets ---


def test_a_commitment_that_left_the_node_is_answered_for_after_a_crash() -> None:
    kept, epochs = store(), Epochs()
    announced = book_on(kept, epochs).announcement()
    again = book_on(kept, epochs)
    assert again.announcement() == announced
    assert commitment_of(again.secret_of(announced.commitment)) == announced.commitment


def test_a_secret_is_published_only_once_no_request_may_name_it() -> None:
    epochs = Epochs()
    book = book_on(store(), epochs)
    announcements = []
    for number in range(4):
        epochs.number = number
        announcements.append(book.announcement())
    first, second, third, fourth = announcements
    assert len({announcement.commitment for announcement in announcements}) == 4
    assert (first.revealed, second.revealed) == (b"", b"")
    assert commitment_of(third.revealed) == first.commitment
    assert commitment_of(fourth.revealed) == second.commitment
    book.secret_of(third.commitment)  # a request that was on its way when the epoch changed
    for revealed in (first, second):
        with pytest.raises(UnknownCommitmentError):
            book.secret_of(revealed.commitment)


def test_a_reorganisation_at_an_epoch_s_border_draws_no_new_secret() -> None:
    epochs = Epochs()
    book = book_on(store(), epochs)
    epochs.number = 5
    announced = book.announcement()
    epochs.number = 4
    assert book.announcement() == announced


# --- what each end takes ---


def test_both_ends_come_to_the_same_seed() -> None:
    book = book_on(store(), Epochs())
    asked = request(seed_commitment=book.announcement().commitment)
    drawn = seed_of(asked, book, sign_first, is_member)
    assert drawn.share is not None
    assert seed_of_opening(asked, drawn.share) == drawn
    resumed = request(executor=SECOND, seed_share=drawn.share, prefix=(1, 2))
    other = book_on(store(), Epochs())
    assert seed_of(resumed, other, sign_first, is_member) == drawn == seed_of_opening(resumed, drawn.share)


def test_a_payer_cannot_bring_a_share_of_its_own_making() -> None:
    book = book_on(store(), Epochs())
    own = make_share(bytes(32), RequestId(b"\x01" * 32), PAYER, PAYER, lambda digest: sign(key_of(1), digest))
    with pytest.raises(SeedShareError, match="not from a member"):
        seed_of(request(seed_share=own), book, sign_first, is_member)
    forged = replace(own, executor=SECOND)
    with pytest.raises(SeedShareError, match="signed by"):
        seed_of(request(seed_share=forged), book, sign_first, is_member)
    with pytest.raises(SeedShareError, match="says nothing"):
        seed_of(request(), book, sign_first, is_member)


def test_an_executor_cannot_choose_another_secret_once_it_has_seen_the_request() -> None:
    book = book_on(store(), Epochs())
    asked = request(seed_commitment=book.announcement().commitment)
    drawn = seed_of(asked, book, sign_first, is_member)
    assert drawn.share is not None
    another = make_share(bytes(32), asked.request_id, PAYER, FIRST, sign_first)
    for given in (None, another, replace(drawn.share, share=bytes(32))):
        with pytest.raises(SeedShareError):
            seed_of_opening(asked, given)
    resumed = request(executor=SECOND, seed_share=drawn.share)
    with pytest.raises(SeedShareError, match="another seed"):
        seed_of_opening(resumed, another)


def test_a_seed_comes_from_one_place() -> None:
    for wrong in ({"seed": 1, "seed_commitment": Hash32(bytes(32))}, {"seed_commitment": Hash32(b"short")}):
        with pytest.raises(ValueError, match="seed"):
            request(**wrong)


# --- over the network ---


async def ask(network: ServingNetwork, chat: ChatRequest = CHAT) -> tuple[AnswerSummary, list[int]]:
    tokens: list[int] = []
    async with network.gateway.ask(chat) as answer:
        async for part in answer:
            tokens.extend(part.token_ids)
    return answer.summary, tokens


async def tokens_of(seed: int) -> list[int]:
    """What an undisturbed engine says with that seed."""
    engine = honest_engine(1)
    prompt = await engine.tokenize("user what is a quern")
    drawn = GenerationRequest(prompt, 50, SamplingParameters(), seed, (), 0)
    async with engine.generate(drawn) as chunks:
        return [token async for chunk in chunks for token in chunk.token_ids]


async def test_an_answer_s_seed_is_drawn_by_both_and_can_be_proved_later(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        summary, tokens = await ask(network)
        assert summary.seed is not None
        assert summary.seed.share is not None
        executor = network.members[1].executor
        assert executor is not None
        secret = executor.seeds.secret_of(summary.seed.share.commitment)
        assert is_honest(summary.seed.share, secret, summary.request_id, account(100))
        assert tokens == await tokens_of(summary.seed.seed)


async def test_a_user_s_seed_gives_equal_answers_from_any_executor(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        summary, tokens = await ask(network, replace(CHAT, seed=7))
        assert tokens == await tokens_of(7)
        assert summary.seed == AnswerSeed(7, None)


class BreakingEngine(SimulatedEngine):
    """Fails after 20 tokens."""

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        yield self._broken(request)

    async def _broken(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        given = 0
        async for chunk in self._tokens(request):
            if given >= 20:
                raise EngineFailedError("died")
            given += len(chunk.token_ids)
            yield chunk


async def test_an_answer_goes_on_with_the_seed_it_began_with(autojump_clock: object) -> None:
    broken: list[int] = []

    def engine(number: int) -> Engine:
        if not broken or number in broken:
            return BreakingEngine(NODE, MODEL_ID, "honest", 0.0, number)
        return honest_engine(number)

    async with serving_network(2) as network:
        summary, _ = await ask(network)
        broken.extend(n for n in (1, 2) if account(n) in summary.executors)
    async with serving_network(2, engine=engine) as network:
        summary, tokens = await ask(network)
        assert len(summary.executors) == 2
        assert summary.seed is not None
        assert summary.seed.share is not None
        assert summary.seed.share.executor == summary.executors[0]
        check_share(summary.seed.share, summary.request_id, account(100))
        assert tokens == await tokens_of(summary.seed.seed)


async def test_an_executor_that_keeps_its_share_back_is_left(autojump_clock: object) -> None:
    async with serving_network(1) as network:

        async def handle(call):  # type: ignore[no-untyped-def]
            from node.services.frames import opening_bytes  # noqa: PLC0415 - only the liar needs it

            await call.send(opening_bytes(Opening((1, 2, 3), 16, None)))
            raise CallFailedError("engine-failed", "not reached by an honest gateway")

        network.members[1].network._served.clear()
        network.members[1].network.serve(METHOD, handle, concurrency=4)
        with pytest.raises(GatewayError, match="kept its share"):
            await ask(network)
        assert network.paid_by_gateway() == 0


# --- what comes out when secrets are published ---


def given_share(number: int, *, honest: bool, secret: bytes = bytes(32)) -> tuple[InferenceRequest, SeedShare]:
    request_id = RequestId(number.to_bytes(32))
    share = make_share(secret, request_id, PAYER, FIRST, sign_first)
    asked = request(request_id=request_id, seed_commitment=share.commitment)
    return asked, share if honest else replace(share, share=b"\x07" * 32)


def test_published_secrets_settle_shares_once() -> None:
    book = ShareBook()
    for number in range(4):
        book.keep(*given_share(number, honest=number != 2))
    assert list(book.refuted_by(b"")) == list(book.refuted_by(b"\x01" * 32)) == []
    ((given, proof),) = book.refuted_by(bytes(32))
    assert given.request_id == proof.request_id == RequestId((2).to_bytes(32))
    assert not is_honest(proof.share, proof.secret, proof.request_id, proof.payer)
    assert list(book.refuted_by(bytes(32))) == []


def test_shares_remembered_are_bounded() -> None:
    book = ShareBook()
    for number in range(SHARES_MAX + 10):
        asked, share = given_share(1, honest=False, secret=(number % 2).to_bytes(32))
        book.keep(asked, share)
    assert sum(len(list(book.refuted_by(secret.to_bytes(32)))) for secret in (0, 1)) == SHARES_MAX
    assert book._count == 0


async def test_a_made_up_share_becomes_evidence(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(*arguments: Any) -> SeedShare:
        honest = make_share(*arguments)
        request_id, payer, executor, sign_digest = arguments[1:]
        digest = share_digest(request_id, payer, executor, honest.commitment, b"\x07" * 32)
        return replace(honest, share=b"\x07" * 32, signature=sign_digest(digest))

    monkeypatch.setattr(seeding, "make_share", made_up)
    async with serving_network(1) as network:
        await ask(network)  # nobody can tell yet
        store = network.members[GATEWAY].store
        assert load_evidence(store, limit=9) == ()
        epoch_seconds = 2.0 * PARAMETERS.epoch_blocks
        await trio.sleep(2 * epoch_seconds + 60)
        network.gateway._random_bytes = lambda count: b"\x08" * count  # another request id
        await ask(network)
        (evidence,) = load_evidence(store, limit=9)
        assert (evidence.participant, evidence.code) == (account(1), "seed")
        proof = from_bytes(RefutedShare, evidence.frame)
        check_share(proof.share, proof.request_id, proof.payer)
        assert not is_honest(proof.share, proof.secret, proof.request_id, proof.payer)
