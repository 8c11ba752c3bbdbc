"""Prompts on chain, over the simulated network: asked, answered by whose turn it is, paid once, never in vain twice."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from netsim.engine import SimulatedEngine
from netsim.scenario import MODEL_ID
from node.ports import ContentUnavailableError, Engine, EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.actions import SubmitPrompt
from node.protocol.canonical import encode
from node.protocol.codec import SLOW_BYTES_MAX, to_bytes, to_value
from node.protocol.events import PromptAnswered, PromptReclaimed
from node.protocol.identifiers import Address, Cid, ModelId, TokenAmount
from node.protocol.sampling import SamplingParameters
from node.protocol.sealed_content import SealedContent
from node.services import prompt_content as module
from node.services.chain_prompts import WRITTEN_KEY, ChainPromptService, WrittenAnswer, WrittenAnswers
from node.services.frames import Prompt, Turn
from node.services.prompt_asks import AskMode, AskState
from node.services.prompt_content import (
    ANSWER_BYTES_MAX,
    AnswerContent,
    PromptContent,
    PromptContentError,
    answer_bytes,
    prompt_bytes,
    read_answer,
    read_prompt,
    read_sealed,
    sealed_bytes,
)
from node.services.prompt_desk import DeskError, PromptDesk, PromptWish
from tests.unit.services.serving_network import GATEWAY, NODE, UNIT, ServingNetwork, serving_network

WISH = PromptWish(AskMode.CHAIN, MODEL_ID, Prompt((Turn("user", "hello there"),)), max_tokens=40)
LIMIT = TokenAmount(40 * UNIT)


def prompt_content(**changes: object) -> PromptContent:
    fields: dict[str, object] = {
        "model_id": MODEL_ID,
        "prompt": WISH.prompt,
        "max_output_tokens": 0,
        "sampling": SamplingParameters(),
        "seed": None,
        "stop": (),
        "response_format": "",
        "salt": bytes(16),
    }
    return PromptContent(**{**fields, **changes})  # type: ignore[arg-type]


async def submit(network: ServingNetwork, data: bytes | Cid, *, model_id: ModelId = MODEL_ID) -> int:
    """Put a prompt with any content on chain, as no honest daemon would; return its id."""
    user = network.members[GATEWAY]
    cid = data if isinstance(data, str) else await user.content.add_bytes(data)
    prompt_id = network.ledger.state.prompts_submitted
    await user.chain.submit(f"any/{prompt_id}", SubmitPrompt(cid, model_id, 40, LIMIT))
    await user.chain.outcome(f"any/{prompt_id}")
    return prompt_id


async def until_ended(network: ServingNetwork, prompt_id: int) -> object:
    with trio.fail_after(600):
        while (ended := network.members[GATEWAY].chain.state.prompts[prompt_id].ended) is None:
            await trio.sleep(1)
    return ended


async def until_over(network: ServingNetwork, prompt_id: int) -> None:
    """Until nobody may answer any more."""
    deadline = network.members[GATEWAY].chain.state.prompts[prompt_id].submitted.deadline_block
    with trio.fail_after(600):
        while network.members[GATEWAY].chain.head.confirmed <= deadline:
            await trio.sleep(1)


def answers_on_chain(network: ServingNetwork, prompt_id: int) -> list[Address]:
    return [
        event.body.executor
        for event in network.ledger.events
        if isinstance(event.body, PromptAnswered) and event.body.prompt_id == prompt_id
    ]


# --- the usual way ----------------------------------------------------------------------------------------------------


async def test_a_prompt_is_answered_as_it_asks_and_paid_once_it_cannot_be_disputed(autojump_clock: object) -> None:
    async with serving_network(2) as network:
        before = {n: network.ledger.balance(member.chain.account) for n, member in network.members.items()}
        ask = await network.desk.hand_in(WISH)
        seen = [ask async for ask in network.desk.changes(ask.ask_id)]
        assert [ask.state for ask in seen] == [AskState.POSTING, AskState.WAITING, AskState.ANSWERED]
        ended = seen[-1]
        content = await network.desk.answer(ended)
        assert ended.output_tokens == len(content.token_ids) > 0
        assert ended.prompt_tokens + ended.output_tokens <= 40
        assert ended.prompt_id is not None
        assert ended.executor is not None
        await until_ended(network, ended.prompt_id)
        changes = {
            member.chain.account: network.ledger.balance(member.chain.account) - before[number]
            for number, member in network.members.items()
        }
        assert changes[network.members[GATEWAY].chain.account] == -ended.price
        assert changes[ended.executor] == ended.price
        assert answers_on_chain(network, ended.prompt_id) == [ended.executor]


async def test_an_answer_is_drawn_with_the_parameters_that_the_prompt_names(autojump_clock: object) -> None:
    seen: list[GenerationRequest] = []

    class Noting(SimulatedEngine):
        @asynccontextmanager
        async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
            seen.append(request)
            async with super().generate(request) as chunks:
                yield chunks

    async with serving_network(1, engine=lambda n: Noting(NODE, MODEL_ID, "honest", 0.0, n)) as network:
        cold = SamplingParameters(temperature_milli=0)
        wish = PromptWish(
            AskMode.CHAIN, MODEL_ID, WISH.prompt, 40, max_output_tokens=5, sampling=cold, seed=7, stop=("END",)
        )
        ended = await network.desk.until_ended((await network.desk.hand_in(wish)).ask_id)
        assert ended.output_tokens == 5
        (request,) = seen
        assert (request.sampling, request.seed, request.stop, request.max_tokens) == (cold, 7, ("END",), 5)


async def test_several_prompts_are_answered_side_by_side_each_once(autojump_clock: object) -> None:
    async with serving_network(3) as network:
        asks = [await network.desk.hand_in(WISH) for _ in range(8)]
        for ask in asks:
            ended = await network.desk.until_ended(ask.ask_id)
            assert ended.state is AskState.ANSWERED
            assert ended.prompt_id is not None
            assert len(answers_on_chain(network, ended.prompt_id)) == 1


# --- who was drawn does not answer ------------------------------------------------------------------------------------


class Dead(SimulatedEngine):
    is_dead = True

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        if self.is_dead:
            raise EngineFailedError("dead")
        async with super().generate(request) as chunks:
            yield chunks


async def test_when_the_drawn_executor_fails_exactly_one_substitute_answers(autojump_clock: object) -> None:
    working: list[int] = []

    class Counting(SimulatedEngine):
        @asynccontextmanager
        async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
            working.append(self.seed)
            async with super().generate(request) as chunks:
                yield chunks

    async with serving_network(4, engine=lambda n: Counting(NODE, MODEL_ID, "honest", 0.0, n)) as network:
        prompt_id = await submit(network, prompt_bytes(prompt_content()))
        drawn = network.members[GATEWAY].chain.state.prompts[prompt_id].submitted.executor
        for member in network.members.values():
            if member.chain.account == drawn:
                assert isinstance(member.engine, SimulatedEngine)
                member.engine.model_id = None
                drawn_number = member.number
        working.clear()
        if answers_on_chain(network, prompt_id):
            pytest.fail("the executor answered before it could be stopped")
        await until_ended(network, prompt_id)
        (executor,) = answers_on_chain(network, prompt_id)
        assert executor != drawn
        assert len(working) == 1, "only one member worked"
        assert drawn_number not in working


async def test_an_executor_whose_engine_fails_tries_again_until_it_can(autojump_clock: object) -> None:
    engines: list[Dead] = []

    def engine(number: int) -> Engine:
        engines.append(Dead(NODE, MODEL_ID, "honest", 0.0, number))
        return engines[-1]

    async with serving_network(1, engine=engine) as network:
        prompt_id = await submit(network, prompt_bytes(prompt_content()))
        await trio.sleep(5)
        assert not answers_on_chain(network, prompt_id)
        engines[0].is_dead = False  # it was restarted
        await until_ended(network, prompt_id)
        assert len(answers_on_chain(network, prompt_id)) == 1


async def test_nobody_answers_and_the_escrow_comes_back(autojump_clock: object) -> None:
    async with serving_network(2, engine=lambda n: Dead(NODE, MODEL_ID, "honest", 0.0, n)) as network:
        account = network.members[GATEWAY].chain.account
        before = network.ledger.balance(account)
        ended = await network.desk.until_ended((await network.desk.hand_in(WISH)).ask_id)
        assert ended.state is AskState.RECLAIMED
        assert network.ledger.balance(account) == before
        with pytest.raises(DeskError, match="nobody answered") as caught:
            await network.desk.answer(ended)
        assert caught.value.code == "not-ready"


# --- contents that cannot be used -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"no map at all",
        encode({"kind": "quern-prompt", "version": 99}),
        encode({"turns": []}),
        prompt_bytes(prompt_content(model_id=ModelId("another"))),
        prompt_bytes(prompt_content(prompt=Prompt((Turn("user", "word " * 60),)))),
        prompt_bytes(prompt_content(prompt=Prompt(token_ids=(1, 1_000_000)))),
        bytes(300 * 1024),
    ],
    ids=["no-map", "version", "empty", "other-model", "too-long", "unknown-token", "too-large"],
)
async def test_a_content_that_cannot_be_used_is_not_answered_and_the_user_can_reclaim(
    data: bytes, autojump_clock: object
) -> None:
    async with serving_network(2) as network:
        prompt_id = await submit(network, data)
        await until_over(network, prompt_id)
        assert not answers_on_chain(network, prompt_id)
        await network.desk.reclaim(prompt_id)
        assert isinstance(await until_ended(network, prompt_id), PromptReclaimed)


async def test_content_that_nobody_has_is_looked_for_until_it_is_there(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        user = network.members[GATEWAY]
        user.content.withhold = True
        prompt_id = await submit(network, prompt_bytes(prompt_content()))
        await trio.sleep(8)
        assert not answers_on_chain(network, prompt_id)
        user.content.withhold = False
        await until_ended(network, prompt_id)
        assert len(answers_on_chain(network, prompt_id)) == 1


async def test_prompts_of_the_first_version_are_still_answered(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        prompt_id = await submit(network, encode({"turns": [{"role": "user", "content": "an old friend"}]}))
        await until_ended(network, prompt_id)
        assert len(answers_on_chain(network, prompt_id)) == 1


def test_contents_come_back_as_they_were_written() -> None:
    content = prompt_content(seed=3, stop=("x",), salt=bytes(range(16)))
    assert read_prompt(prompt_bytes(content), MODEL_ID) == content
    answer = AnswerContent((1, 2), (3,), "c", "stop")
    assert read_answer(answer_bytes(answer)) == answer
    assert read_answer(to_bytes(answer)) == answer, "answers of the first version"
    with pytest.raises(PromptContentError, match="over the limit"):
        read_answer(bytes(ANSWER_BYTES_MAX + 1))
    with pytest.raises(PromptContentError, match="expected"):
        read_answer(prompt_bytes(content))


@pytest.mark.parametrize("size", [10, 2 * SLOW_BYTES_MAX])
def test_long_contents_are_read_as_short_ones_are(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if size > SLOW_BYTES_MAX:
        monkeypatch.setattr(module, "decode", lambda _: pytest.fail("read slowly"))
    content = prompt_content(prompt=Prompt((Turn("user", "x" * size),)))
    assert read_prompt(prompt_bytes(content), MODEL_ID) == content
    first = replace(content, model_id=ModelId(""), salt=b"")
    assert read_prompt(encode({"turns": [{"role": "user", "content": "x" * size}]}), MODEL_ID) == first
    answer = AnswerContent((1, 2) * size, (3,), "c" * size, "stop")
    assert read_answer(answer_bytes(answer)) == answer
    assert read_answer(to_bytes(answer)) == answer, "answers of the first version"
    sealed = SealedContent(bytes(32), (b"key",), bytes(size))
    assert read_sealed(sealed_bytes(sealed)) == sealed
    value = {"kind": "quern-answer", "version": 2, **to_value(answer)}
    for odd, why in (({"kind": "quern-sealed"}, "expected"), ({"version": 3}, "this software reads 2")):
        with pytest.raises(PromptContentError, match=why):
            read_answer(encode({**value, **odd}))
    for read in (read_sealed, lambda data: read_prompt(data, MODEL_ID)):
        with pytest.raises(PromptContentError):
            read(answer_bytes(answer))
        with pytest.raises(PromptContentError):
            read(to_bytes(answer))


@pytest.mark.parametrize("read", [read_answer, read_sealed, lambda data: read_prompt(data, MODEL_ID)])
def test_of_long_contents_nobody_reads_what_nobody_knows(
    read: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "decode", lambda _: pytest.fail("read slowly"))
    odd = [{}] * 2 * SLOW_BYTES_MAX
    for kind in ("quern-answer", "quern-sealed", "quern-prompt"):
        with pytest.raises(PromptContentError):
            read(encode({"kind": kind, "version": 2, "zeal": odd}))
    for data in (encode({"turns": odd}), encode({"token_ids": odd}), encode(odd)):
        with pytest.raises(PromptContentError):
            read(data)


# --- restarts, late and second answers --------------------------------------------------------------------------------


async def test_an_answer_made_before_a_crash_is_submitted_after_it_without_being_made_again(
    autojump_clock: object,
) -> None:
    async with serving_network(1, engine=lambda n: Dead(NODE, MODEL_ID, "honest", 0.0, n)) as network:
        member = network.members[1]
        made = await member.content.add_bytes(answer_bytes(AnswerContent((1, 2), (3, 4, 5), "abc", "stop")))
        prompt_id = network.ledger.state.prompts_submitted
        member.store.put_document(WRITTEN_KEY, to_bytes(WrittenAnswers((WrittenAnswer(prompt_id, made, 2, 3),))))
        assert await submit(network, prompt_bytes(prompt_content())) == prompt_id
        await until_ended(network, prompt_id)
        prompt = network.members[GATEWAY].chain.state.prompts[prompt_id]
        assert prompt.answered is not None
        assert prompt.answered.result_cid == made


async def test_work_stops_and_nothing_is_sent_when_another_answers_first(autojump_clock: object) -> None:
    """The account answers by another way, while a second service of it is still at work."""

    class Slow(SimulatedEngine):
        @asynccontextmanager
        async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
            await trio.sleep(60)
            pytest.fail("the work was not stopped")
            yield  # type: ignore[unreachable]

    async with serving_network(1) as network, trio.open_nursery() as nursery:
        member = network.members[1]
        engine = Slow(NODE, MODEL_ID, "honest", 0.0, 1)
        second = ChainPromptService(member.chain, member.content, member.store, member.presence, [engine])
        nursery.start_soon(second.run)
        prompt_id = await submit(network, prompt_bytes(prompt_content()))
        await until_ended(network, prompt_id)
        await trio.sleep(120)
        assert len(answers_on_chain(network, prompt_id)) == 1
        nursery.cancel_scope.cancel()


async def test_a_desk_finds_its_prompt_again_after_a_restart(autojump_clock: object) -> None:
    async with serving_network(1) as network, trio.open_nursery() as nursery:
        user = network.members[GATEWAY]
        user.content.withhold = True  # nobody can answer before the restart
        ask = await network.desk.hand_in(WISH)
        await trio.sleep(6)
        restarted = PromptDesk(
            user.chain, user.content, user.store, network.desk._chain_asking, user.asking, wall_clock=lambda: 0
        )
        nursery.start_soon(restarted.run)
        user.content.withhold = False
        ended = await restarted.until_ended(ask.ask_id)
        assert ended.state is AskState.ANSWERED
        assert len([e for e in network.ledger.events if isinstance(e.body, PromptAnswered)]) == 1
        assert network.ledger.state.prompts_submitted == 1, "it was submitted once"
        nursery.cancel_scope.cancel()


async def test_an_answer_with_other_counts_than_are_charged_is_told(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        member = network.members[1]
        made = await member.content.add_bytes(answer_bytes(AnswerContent((1, 2), (3,), "c", "stop")))
        prompt_id = network.ledger.state.prompts_submitted
        member.store.put_document(WRITTEN_KEY, to_bytes(WrittenAnswers((WrittenAnswer(prompt_id, made, 2, 30),))))
        ended = await network.desk.until_ended((await network.desk.hand_in(WISH)).ask_id)
        with pytest.raises(DeskError, match="dispute"):
            await network.desk.answer(ended)


async def test_only_ones_own_escrow_is_reclaimed_and_not_before_its_time(autojump_clock: object) -> None:
    async with serving_network(1, engine=lambda n: Dead(NODE, MODEL_ID, "honest", 0.0, n)) as network:
        prompt_id = await submit(network, prompt_bytes(prompt_content()))
        with pytest.raises(DeskError, match="may still be answered"):
            await network.desk.reclaim(prompt_id)
        with pytest.raises(DeskError, match="not one of this account"):
            await network.desk.reclaim(prompt_id + 1)


async def test_a_private_prompt_does_not_go_on_chain(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        with pytest.raises(DeskError, match="cannot be private"):
            await network.desk.hand_in(PromptWish(AskMode.CHAIN, MODEL_ID, WISH.prompt, 40, private=True))


async def test_an_answer_that_nobody_has_says_how_to_dispute_it(autojump_clock: object) -> None:
    async with serving_network(1) as network:
        ended = await network.desk.until_ended((await network.desk.hand_in(WISH)).ask_id)
        network.members[1].content.withhold = True
        with pytest.raises(DeskError, match="quern chain prompts dispute") as caught:
            await network.desk.answer(ended)
        assert isinstance(caught.value.__cause__, ContentUnavailableError)
