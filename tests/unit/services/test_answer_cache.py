"""The cache of answers: what the request alone decides is given again, whole and unpaid; nothing else ever is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.identifiers import ModelId, RequestId
from node.protocol.records import ModelRecord
from node.protocol.sampling import SamplingParameters
from node.services.answer_cache import AnswerCache, CachingAsker, KeptAnswer, cache_key, is_deterministic
from node.services.answers import AnswerPart, AnswerSummary
from node.services.asking import AnswerStream
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError
from tests.builders import SOME_CID, TINY, model

GREEDY = SamplingParameters(temperature_milli=0)
CHAT = ChatRequest(TINY, Prompt((Turn("user", "What is a quern?"),)), 9, GREEDY)
TEXTS = ("Stones ", "grind.")


class CannedAnswer:
    """TEXTS, or as much of them as come before a failure."""

    def __init__(self, number: int, failure: GatewayError | None, finish_reason: str) -> None:
        self.summary = AnswerSummary(RequestId(bytes([number]) * 32), TINY)
        self._failure = failure
        self._finish_reason = finish_reason

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        for text in TEXTS:
            self.summary.output_tokens += 1
            self.summary.price += 5
            yield AnswerPart(text, (self.summary.output_tokens,))
        if self._failure is not None:
            raise self._failure
        self.summary.finish_reason = self._finish_reason
        self.summary.prompt_tokens = 4


@dataclass
class CountingGateway:
    """Counts who really asked."""

    asked: list[ChatRequest] = field(default_factory=list)
    failure: GatewayError | None = None
    finish_reason: str = "stop"
    record: ModelRecord = field(default_factory=model)

    def models(self) -> tuple[ModelRecord, ...]:
        return (self.record,)

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[AnswerStream]:
        self.asked.append(chat)
        yield CannedAnswer(len(self.asked), self.failure, self.finish_reason)


async def answer_of(asker: CachingAsker, chat: ChatRequest = CHAT) -> tuple[str, AnswerSummary]:
    async with asker.ask(chat) as answer:
        text = "".join([part.text async for part in answer])
        return text, answer.summary


def made(bytes_max: int = 100_000) -> tuple[CountingGateway, AnswerCache, CachingAsker]:
    gateway, cache = CountingGateway(), AnswerCache(bytes_max)
    return gateway, cache, CachingAsker(gateway, cache)


async def test_an_equal_request_is_answered_again_and_not_paid_again() -> None:
    gateway, cache, asker = made()
    text, first = await answer_of(asker)
    again, second = await answer_of(asker)
    assert text == again == "Stones grind."
    assert len(gateway.asked) == 1
    assert (first.cached, first.price) == (False, 10)
    assert (second.cached, second.price, second.output_tokens, second.prompt_tokens) == (True, 0, 2, 4)
    assert second.request_id == first.request_id  # its receipt is the proof of this answer too
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 1)


@pytest.mark.parametrize(
    "other",
    [
        replace(CHAT, max_tokens=10),
        replace(CHAT, stop=("x",)),
        replace(CHAT, logprobs=2),
        replace(CHAT, response_format='{"type": "json_object"}'),
        replace(CHAT, seed=7),
        replace(CHAT, sampling=SamplingParameters(temperature_milli=0, top_k=3)),
        replace(CHAT, prompt=Prompt((Turn("user", "What is a quern ?"),))),
        replace(CHAT, prompt=Prompt((Turn("system", "What is a quern?"),))),
        replace(CHAT, prompt=Prompt(text="What is a quern?")),
    ],
)
async def test_any_difference_that_decides_the_answer_is_another_request(other: ChatRequest) -> None:
    gateway, _, asker = made()
    await answer_of(asker)
    await answer_of(asker, other)
    assert gateway.asked == [CHAT, other]


async def test_another_version_of_the_model_is_asked_anew() -> None:
    gateway, _, asker = made()
    await answer_of(asker)
    gateway.record = replace(model(), version=2)
    assert not (await answer_of(asker))[1].cached
    gateway.record = replace(model(), cid=type(SOME_CID)("bafkreianother"))
    assert not (await answer_of(asker))[1].cached


async def test_a_random_answer_is_never_kept() -> None:
    gateway, cache, asker = made()
    random = replace(CHAT, sampling=SamplingParameters())
    assert not is_deterministic(random)
    assert is_deterministic(replace(random, seed=0))
    for _ in range(2):
        await answer_of(asker, random)
    assert (len(gateway.asked), len(cache), cache.misses) == (2, 0, 0)


async def test_a_user_s_own_name_for_a_request_is_his_alone() -> None:
    gateway, _, asker = made()
    await answer_of(asker, replace(CHAT, caller_id="mine", user="me"))
    _, repeated = await answer_of(asker, replace(CHAT, caller_id="yours", user="you"))
    assert (len(gateway.asked), repeated.caller_id) == (1, "yours")


async def test_an_answer_that_failed_is_never_given_again() -> None:
    gateway, cache, asker = made()
    gateway.failure = GatewayError("failed", "no executor gave a complete answer")
    with pytest.raises(GatewayError):
        await answer_of(asker)
    gateway.failure, gateway.finish_reason = None, ""  # ended, but nobody says why
    await answer_of(asker)
    assert len(cache) == 0


async def test_an_answer_that_was_left_early_is_never_given_again() -> None:
    gateway, cache, asker = made()
    async with asker.ask(CHAT) as answer:
        async for _ in answer:
            break
    async with asker.ask(CHAT):
        pass
    assert (len(cache), len(gateway.asked)) == (0, 2)


async def test_a_reader_cannot_change_what_the_next_one_gets() -> None:
    _, _, asker = made()
    await answer_of(asker)
    _, summary = await answer_of(asker)
    summary.finish_reason, summary.price = "poisoned", 99
    assert (await answer_of(asker))[1].finish_reason == "stop"


async def test_a_model_that_nobody_knows_is_the_gateway_s_to_refuse() -> None:
    gateway, _, asker = made()
    await answer_of(asker, replace(CHAT, model_id=ModelId("other")))
    assert len(gateway.asked) == 1


async def test_text_that_is_no_unicode_is_a_bad_request() -> None:
    _, _, asker = made()
    with pytest.raises(GatewayError, match="Unicode"):
        await answer_of(asker, replace(CHAT, prompt=Prompt(text="\ud800")))


async def test_one_long_answer_does_not_take_the_whole_cache() -> None:
    gateway, cache, asker = made(bytes_max=100)
    await answer_of(asker)
    await answer_of(asker)
    assert (len(gateway.asked), len(cache), cache.bytes_kept) == (2, 0, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40)), max_size=60))
def test_the_cache_never_holds_more_than_its_limit(puts: list[tuple[int, int]]) -> None:
    cache = AnswerCache(bytes_max=200)
    for number, size in puts:
        key = cache_key(replace(CHAT, seed=number), model())
        cache.put(key, KeptAnswer((), AnswerSummary(RequestId(bytes(32)), TINY), size))
        assert 0 <= cache.bytes_kept <= 200
        if size <= cache.answer_bytes_max:
            assert cache.get(key) is not None


async def test_the_user_s_name_for_a_request_does_not_make_it_another() -> None:
    gateway, _, asker = made()
    await answer_of(asker, replace(CHAT, caller_id="one"))
    await answer_of(asker, replace(CHAT, caller_id="two"))
    assert len(gateway.asked) == 1


async def test_private_answers_are_never_kept() -> None:
    gateway, cache, asker = made()
    await answer_of(asker, replace(CHAT, private=True))
    await answer_of(asker, replace(CHAT, private=True))
    assert (len(gateway.asked), len(cache)) == (2, 0)
