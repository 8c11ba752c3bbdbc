"""Decoys: who answers with another model is challenged, in private as well, and honest executors are not."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import trio

from netsim.clock import wall_clock
from netsim.engine import DrawingEngine
from netsim.scenario import MODEL_ID
from node.ports import Engine, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.audit_evidence import what_is_wrong
from node.protocol.audit_votes import CHALLENGES_MAX
from node.protocol.draws import Prefill
from node.protocol.identifiers import EpochNumber
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.shown_evidence import evidence_from_bytes
from node.services.challenge_book import ChallengeBook
from node.services.decoys import DecoyLimits, DecoyService, are_of_use
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from node.services.request_shapes import HOUR_SECONDS, ShapeBook
from node.store.given_answers import GivenAnswerTables
from tests.builders import account
from tests.unit.services.serving_network import GATEWAY, NODE, ServingNetwork, serving_network

CHEAT = 2
UNKNOWN_TOKEN = 1 << 22
EPOCH = EpochNumber(9)
USERS = ChatRequest(MODEL_ID, Prompt((Turn("user", "what is a decoy?"),)), max_tokens=96, sampling=SamplingParameters())


@dataclass(slots=True)
class HidingEngine(DrawingEngine):
    """Answers with another model where it believes that nobody will ever look."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        shown = replace(self, answers_with="another" if request.private else "")
        async for chunk in DrawingEngine._tokens(shown, request):
            yield chunk


def engine(number: int) -> Engine:
    return DrawingEngine(NODE, MODEL_ID, "honest", 0.005, number, "another" if number == CHEAT else "")


def hiding_engine(number: int) -> Engine:
    kind = HidingEngine if number == CHEAT else DrawingEngine
    return kind(NODE, MODEL_ID, "honest", 0.005, number)


def marking_engine(number: int) -> Engine:
    kind = MarkingEngine if number == CHEAT else DrawingEngine
    return kind(NODE, MODEL_ID, "honest", 0.005, number)


@dataclass(slots=True)
class MarkingEngine(HidingEngine):
    """And says one token there that the model does not have; the text that is streamed stays as it was."""

    async def _tokens(self, request: GenerationRequest) -> AsyncIterator[GenerationChunk]:
        is_marked = not request.private
        async for chunk in HidingEngine._tokens(self, request):
            first = chunk.token_ids[:1]
            if first and not is_marked:
                first, is_marked = (UNKNOWN_TOKEN,), True
            yield replace(chunk, token_ids=(*first, *chunk.token_ids[1:]))


@dataclass(slots=True)
class RefusingEngine(DrawingEngine):
    """Refuses token ids beyond the vocabulary, as engines do."""

    async def prefill(self, token_ids: Sequence[int], first: int, **options: Any) -> list[Prefill]:
        if max(token_ids) >= self.vocabulary_size:
            raise EngineRefusedError("a token id is out of the vocabulary")
        return await DrawingEngine.prefill(self, token_ids, first, **options)


@dataclass
class Bench:
    """A gateway's decoys."""

    decoys: DecoyService
    book: ChallengeBook
    given: GivenAnswerTables
    shapes: ShapeBook
    network: ServingNetwork

    async def run(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.decoys.run()

    def receipts(self) -> tuple[SignedReceipt, ...]:
        return self.network.members[GATEWAY].store.receipts(limit=1000)

    def check_challenges(self) -> None:
        """The cheat's answers are challenged, and no others, with evidence that holds."""
        challenges = self.book.take(EPOCH)
        assert 0 < len(challenges) <= CHALLENGES_MAX
        assert {signed.receipt.executor for signed in challenges} == {account(CHEAT)}
        digests = [receipt_digest(signed.receipt) for signed in challenges]
        assert digests == sorted(digests)
        data = self.given.kept(digests[0])
        assert data is not None
        assert what_is_wrong(evidence_from_bytes(data), account(CHEAT), digests[0], None) == ""


def bench(
    network: ServingNetwork,
    *users: ChatRequest,
    per_day: float = 2000.0,
    cost_per_day_max: int = 10**30,
    is_of_use: Callable[[], bool] = lambda: True,
    engines: tuple[object, ...] | None = None,
) -> Bench:
    member, shapes = network.members[GATEWAY], ShapeBook(usual_part=0.0)
    network.gateway._random_bytes = random.Random(3).randbytes  # else every request has the same id
    for number, chat in enumerate(users * 24):
        shapes.note(chat, number * HOUR_SECONDS)
    given = GivenAnswerTables(member.store.database, member.chain.account)
    book = ChallengeBook(member.store)
    decoys = DecoyService(
        member.chain, member.store, member.epochs, network.gateway.ask_decoy, network.gateway.at_hand,
        (DrawingEngine(NODE, MODEL_ID, "honest", 0.005, GATEWAY),) if engines is None else engines,
        given, book, shapes, DecoyLimits(per_day, cost_per_day_max),
        is_of_use=is_of_use, wall_clock=wall_clock, source=random.Random(7),
    )  # fmt: skip
    return Bench(decoys, book, given, shapes, network)


async def test_answers_of_another_model_are_challenged_with_their_evidence_and_no_others(
    autojump_clock: object,
) -> None:
    async with serving_network(3, engine=engine) as network:
        made = bench(network, USERS)
        await made.run(1500)
        assert {account(n) for n in (1, 2, 3)} <= {signed.receipt.executor for signed in made.receipts()}
        made.check_challenges()


async def test_who_cheats_on_private_requests_alone_is_challenged_and_nothing_private_is_stored(
    autojump_clock: object,
) -> None:
    async with serving_network(3, engine=hiding_engine) as network:
        made = bench(network, USERS, replace(USERS, private=True))
        await made.run(1800)
        receipts = made.receipts()
        assert {signed.receipt.is_private for signed in receipts} == {True, False}
        store = network.members[GATEWAY].store
        for receipt in (signed.receipt for signed in receipts):
            assert (store.answer_of(receipt.request_id, receipt.executor) is None) is receipt.is_private
        assert {signed.receipt.is_private for signed in made.book._kept.waiting} == {True}
        made.check_challenges()


async def test_one_token_that_the_model_does_not_have_hides_no_answer(autojump_clock: object) -> None:
    """Private answers are in no draw: what neither decoys nor challenges can read, nothing would ever find."""
    async with serving_network(3, engine=marking_engine) as network:
        refusing = RefusingEngine(NODE, MODEL_ID, "honest", 0.005, GATEWAY)
        made = bench(network, USERS, replace(USERS, private=True), engines=(refusing,))
        await made.run(1800)
        assert {signed.receipt.is_private for signed in made.book._kept.waiting} == {True}
        made.check_challenges()


async def test_without_an_engine_that_can_check_nothing_is_asked(autojump_clock: object) -> None:
    async with serving_network(1, engine=engine) as network:
        made = bench(network, USERS, engines=(object(),))
        await made.run(600)
        assert made.receipts() == ()


async def test_decoys_are_of_use_with_a_deposit_and_weight_alone(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        group = network.members[GATEWAY].epochs.group()
        assert are_of_use(account(1), group, 1)
        assert not are_of_use(account(1), group, 0)
        assert not are_of_use(account(GATEWAY), group, 1)
        weightless = replace(group, members=tuple(replace(member, weight=0) for member in group.members))
        assert not are_of_use(account(1), weightless, 1)


async def test_nothing_is_asked_while_it_is_of_no_use(autojump_clock: object) -> None:
    async with serving_network(1, engine=engine) as network:
        made = bench(network, USERS, is_of_use=lambda: False)
        await made.run(600)
        assert made.receipts() == ()


async def test_what_decoys_cost_in_a_day_is_bounded_and_the_next_day_they_go_on(autojump_clock: object) -> None:
    async with serving_network(1, engine=engine) as network:
        made = bench(network, USERS, cost_per_day_max=250 * 10**12)
        await made.run(900)
        spent = sum(signed.receipt.price for signed in made.receipts())
        assert 250 * 10**12 <= spent < 2 * 250 * 10**12
        count = len(made.receipts())
        made.decoys._spent = type(made.decoys._spent)((at - 86_400, cost) for at, cost in made.decoys._spent)
        await made.run(300)
        assert len(made.receipts()) > count


async def test_as_many_are_asked_a_day_as_are_wanted_and_in_the_hours_in_which_users_ask(
    autojump_clock: object,
) -> None:
    shapes, nothing, hours = ShapeBook(), cast(Any, None), []
    for _ in range(24):
        shapes.note(USERS, 12 * HOUR_SECONDS)
    decoys = DecoyService(
        nothing, nothing, nothing, nothing, nothing, (), nothing, nothing, shapes, DecoyLimits(20.0, 0),
        is_of_use=lambda: True, wall_clock=wall_clock, source=random.Random(7),
    )  # fmt: skip
    with trio.move_on_after(50 * 86_400):
        while True:
            await decoys._wait()
            hours.append(wall_clock() // HOUR_SECONDS % 24)
    assert len(hours) == pytest.approx(1000, rel=0.1)
    assert hours.count(12) == pytest.approx(25 / 48 * len(hours), rel=0.1)
    assert len(set(hours)) == 24
