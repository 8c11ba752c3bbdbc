"""Recomputing nonces: vectors as the prover's, and tails that only who has the model can say."""

import struct
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from node.ports import Engine, EngineFailedError, EngineRefusedError
from node.protocol.identifiers import Hash32
from node.protocol.nonces import PROMPT_TOKENS, VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.tails import tail_of, tail_prompt, tail_tokens, vector_tail
from node.services.reading_ahead import QUESTION_PROMPTS
from node.services.recomputing import SILENCE_SECONDS_MAX, AnswerWatch, ModelGoneError, recompute, while_ready
from tests.builders import NODE, account, model

MODEL_ID = model().model_id
GENERATE, SAMPLE = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)
KEY = (account(2), NODE)
NONCES = range(QUESTION_PROMPTS + 3)
EMBEDDING = replace(model(), model_args=("--runner", "pooling"))


class Reader:
    """An engine whose numbers follow from the prompt; fails where it is told to."""

    vocabulary_size = 1000

    def __init__(self, fails: int = 0) -> None:
        self.asked: list[int] = []
        self._fails = fails

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        assert priority > 0
        self.asked.append(len(prompts))
        if len(self.asked) <= self._fails:
            raise EngineFailedError("not yet")
        return [[-1.0 - (token % 97) / 10 for token in prompt[1:]] for prompt in prompts]

    @property
    def engine(self) -> Engine:
        return cast(Any, self)


def prompt(nonce: int) -> tuple[int, ...]:
    return nonce_prompt(GENERATE, *KEY, nonce, Reader.vocabulary_size)


def numbers(tokens: Sequence[int]) -> list[float]:
    return [-1.0 - (token % 97) / 10 for token in tokens]


VECTORS = tuple(quantise(numbers(prompt(nonce)[1:])) for nonce in NONCES)


async def test_a_prompt_and_its_tail_are_read_in_one_pass() -> None:
    reader = Reader()
    found = await recompute(reader.engine, model(), KEY, NONCES, GENERATE, SAMPLE, account(5))
    assert found.vectors == VECTORS
    own = [tail_tokens(SAMPLE, account(5), *KEY, nonce, 1000) for nonce in NONCES]
    assert found.tails == tuple(tail_of(numbers(tokens)) for tokens in own)
    assert reader.asked == [QUESTION_PROMPTS, 3]


async def test_of_an_embedding_model_the_tail_is_of_the_vector_of_a_prompt_of_the_validator_s_own() -> None:
    reader = Reader()
    found = await recompute(reader.engine, EMBEDDING, KEY, NONCES, GENERATE, SAMPLE, account(5))
    assert found.vectors == VECTORS
    own = [tail_prompt(SAMPLE, account(5), *KEY, nonce, 1000) for nonce in NONCES]
    assert found.tails == tuple(vector_tail(SAMPLE, account(5), quantise(numbers(tokens[1:]))) for tokens in own)
    assert len(set(found.tails)) > len(NONCES) // 2
    alone = await recompute(reader.engine, EMBEDDING, KEY, [7], GENERATE, SAMPLE, account(5))
    assert alone.tails == found.tails[7:8]  # as a checker recomputes it
    other = await recompute(reader.engine, EMBEDDING, KEY, NONCES, GENERATE, SAMPLE, account(6))
    assert other.vectors == VECTORS
    assert other.tails != found.tails


async def test_a_model_that_reads_too_little_for_tails_has_none() -> None:
    short = replace(model(), context_length=PROMPT_TOKENS)
    found = await recompute(Reader().engine, short, KEY, NONCES, GENERATE, SAMPLE, account(5))
    assert (found.vectors, found.tails) == (VECTORS, ())


@pytest.mark.parametrize("kind", [model(), EMBEDDING])
async def test_an_engine_that_fails_is_asked_again_and_nothing_is_lost_or_doubled(
    kind: Any, autojump_clock: object
) -> None:
    found = await recompute(Reader(fails=2).engine, kind, KEY, NONCES, GENERATE, SAMPLE, account(5))
    assert found.vectors == VECTORS
    assert len(found.tails) == len(NONCES)
    assert struct.calcsize(f">{VECTOR_DIMENSIONS}h") == len(found.vectors[0])


async def made_while(engine: Any, compute: Callable[[Callable[[], bool]], Awaitable[int]]) -> int:
    return await while_ready(engine, MODEL_ID, compute)


async def test_what_is_computed_while_the_model_is_ready_is_returned() -> None:
    async def compute(may_go_on: Callable[[], bool]) -> int:
        assert may_go_on()
        return 7

    assert await made_while(SimpleNamespace(node_id=NODE, model_id=MODEL_ID), compute) == 7


@pytest.mark.parametrize("is_back", [False, True])
async def test_an_engine_that_loses_its_model_is_left_soon_and_nothing_of_it_counts(
    autojump_clock: object, *, is_back: bool
) -> None:
    engine = SimpleNamespace(node_id=NODE, model_id=MODEL_ID)

    async def waits_for_its_server(_: Callable[[], bool]) -> int:
        engine.model_id = None
        await trio.sleep_forever()
        return 0

    async def finds_it_gone(may_go_on: Callable[[], bool]) -> int:
        engine.model_id = None
        assert not may_go_on()
        engine.model_id = MODEL_ID if is_back else None
        return 1  # less than it was to make

    with trio.fail_after(2):
        for compute in (finds_it_gone, waits_for_its_server, finds_it_gone):
            with pytest.raises(ModelGoneError):
                await made_while(engine, compute)


async def test_an_engine_that_is_silent_is_left_and_one_that_is_only_slow_is_not(autojump_clock: object) -> None:
    engine = SimpleNamespace(node_id=NODE, model_id=MODEL_ID)

    async def slow(may_go_on: Callable[[], bool]) -> int:
        for _ in range(10):
            may_go_on()
            await trio.sleep(SILENCE_SECONDS_MAX - 1)
        return 7

    async def silent(may_go_on: Callable[[], bool]) -> int:
        may_go_on()
        await trio.sleep_forever()
        return 0

    assert await made_while(engine, slow) == 7
    with trio.fail_after(SILENCE_SECONDS_MAX + 1), pytest.raises(ModelGoneError):
        await made_while(engine, silent)


async def test_a_refusal_is_told_as_it_was_said() -> None:
    async def refused(_: Callable[[], bool]) -> int:
        raise EngineRefusedError("401")

    with pytest.raises(EngineRefusedError, match="401"):
        await made_while(SimpleNamespace(node_id=NODE, model_id=MODEL_ID), refused)


class Slow:
    """Answers one question after the other, each in half a minute, whoever asked it; or none at all."""

    vocabulary_size, node_id, model_id = Reader.vocabulary_size, NODE, MODEL_ID

    def __init__(self, *, hangs: bool = False) -> None:
        self._turn = trio.Lock()
        self._hangs = hangs

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        async with self._turn:  # first come, first served
            await trio.sleep(SILENCE_SECONDS_MAX / 4 if not self._hangs else float("inf"))
        return await Reader().prompt_logprobs(prompts, priority=priority)


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_engine_that_answers_other_batches_first_does_not_hang(autojump_clock: object, *, hangs: bool) -> None:
    """Four batches with three questions each on their way: the first in line of one waits for eleven others."""
    engine: Any = Slow(hangs=hangs)
    watch, ended = AnswerWatch(), []
    sample = range(5 * QUESTION_PROMPTS)

    async def judge() -> None:
        def compute(may_go_on: Callable[[], bool]) -> Awaitable[Any]:
            return recompute(engine, model(), KEY, sample, GENERATE, SAMPLE, account(5), may_go_on=may_go_on)

        with suppress(ModelGoneError):
            ended.append(len((await while_ready(engine, MODEL_ID, compute, watch)).vectors))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(judge)
    assert ended == ([] if hangs else [len(sample)] * 4)
    assert not hangs or trio.current_time() - began == SILENCE_SECONDS_MAX
