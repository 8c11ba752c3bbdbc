"""The OpenAI face: its own SDK is the judge of whether answers and errors have the right shape."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import openai
import pytest
import trio

from node.api.openai import BODY_BYTES_MAX, make_app, parse_completion
from node.api.server import ApiPortError, bind_api, serve_api
from node.protocol.identifiers import RequestId
from node.protocol.records import ModelRecord
from node.services.attempt import AnswerPart, AnswerSummary
from node.services.gateway import Answer, ChatRequest, GatewayError
from node.services.groups import sole_error
from tests.builders import model

Result = TypeVar("Result")
TEXTS = ("Stones ", "grind – ", "flour.")


class CannedGateway:
    """Stands in for the gateway: answers TEXTS, or fails where it is told to."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []
        self.fail_at_once: GatewayError | None = None
        self.fail_after: GatewayError | None = None
        self.endless = False
        self.left = trio.Event()

    def models(self) -> tuple[ModelRecord, ...]:
        return (model(),)

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        self.asked.append(chat)
        if self.fail_at_once is not None:
            raise self.fail_at_once
        send, receive = trio.open_memory_channel[AnswerPart](100)
        summary = AnswerSummary(RequestId(bytes(32)), chat.model_id)
        answer = Answer(summary, receive)
        try:
            with sole_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._produce, send, answer)
                    yield answer
                    nursery.cancel_scope.cancel()
        finally:
            self.left.set()

    async def _produce(self, send: trio.MemorySendChannel[AnswerPart], answer: Answer) -> None:
        async with send:
            for text in TEXTS:
                await send.send(AnswerPart(text, (1,)))
            while self.endless:
                await send.send(AnswerPart("on ", (2,)))
                await trio.sleep(0.01)
            answer.error = self.fail_after
            answer.summary.finish_reason = "stop"
            answer.summary.prompt_tokens, answer.summary.output_tokens = 4, 3


@asynccontextmanager
async def served() -> AsyncIterator[tuple[CannedGateway, str]]:
    gateway = CannedGateway()
    listener = bind_api("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_api, make_app(gateway, lambda: 1_800_000_000), listener)  # type: ignore[arg-type]
        yield gateway, url
        nursery.cancel_scope.cancel()
    listener.close()


async def with_sdk(url: str, use: Callable[[openai.OpenAI], Result]) -> Result:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=20)
    return await trio.to_thread.run_sync(use, client)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "What is a quern?"}], **options
    )


async def test_a_whole_answer_has_text_reason_and_usage() -> None:
    async with served() as (gateway, url):
        completion = await with_sdk(
            url, lambda client: ask(client, max_tokens=9, temperature=0.25, top_p=0.5, seed=3, stop="x")
        )
        assert completion.choices[0].message.content == "".join(TEXTS)
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage.total_tokens == 7
        (chat,) = gateway.asked
        sampling = chat.sampling
        assert (chat.max_tokens, sampling.temperature_milli, sampling.top_p_milli, chat.seed) == (9, 250, 500, 3)
        assert chat.stop == ("x",)
        assert chat.prompt.turns[0].content == "What is a quern?"


async def test_a_stream_arrives_in_pieces_and_ends_with_usage_when_asked_for() -> None:
    async with served() as (_, url):

        def use(client: openai.OpenAI) -> list[Any]:
            return list(ask(client, stream=True, stream_options={"include_usage": True}))

        chunks = await with_sdk(url, use)
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert texts == list(TEXTS)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens == 3


async def test_the_models_are_those_of_the_epoch() -> None:
    async with served() as (_, url):
        models = await with_sdk(url, lambda client: [entry.id for entry in client.models.list()])
        assert models == ["tiny"]


@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [
        ("model-not-found", 404, openai.NotFoundError),
        ("too-long", 400, openai.BadRequestError),
        ("no-executor", 503, openai.InternalServerError),
        ("payment", 402, openai.APIStatusError),
        ("failed", 502, openai.InternalServerError),
    ],
)
async def test_failures_raise_what_the_sdk_knows(code: str, status: int, raised: type[openai.APIStatusError]) -> None:
    async with served() as (gateway, url):
        gateway.fail_at_once = GatewayError(code, "what happened and what to do")
        with pytest.raises(raised, match="what happened") as caught:
            await with_sdk(url, ask)
        assert caught.value.status_code == status


async def test_a_stream_that_fails_in_its_middle_ends_with_an_error_not_with_done() -> None:
    async with served() as (gateway, url):
        gateway.fail_after = GatewayError("failed", "no executor gave a complete answer")
        with pytest.raises(openai.APIError, match="no executor"):
            await with_sdk(url, lambda client: list(ask(client, stream=True)))


async def test_a_client_that_goes_away_ends_the_answer() -> None:
    async with served() as (gateway, url):
        gateway.endless = True
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with httpx.AsyncClient() as client:
            async with client.stream("POST", f"{url}/chat/completions", json=body) as response:
                async for _ in response.aiter_lines():
                    break
            with trio.fail_after(10):
                await gateway.left.wait()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not JSON"),
        (b"[]", "body"),
        (b"[" * 400_000, "not JSON"),
        (b'{"model": "tiny"}', "messages"),
        (b'{"model": "tiny", "messages": []}', "messages"),
        (b'{"model": "tiny", "messages": [{"role": "robot", "content": "x"}]}', "role"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "tools": [1]}', "tools: this parameter"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": 2}', "n:"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temperature": 9}', "temperature"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(body: bytes, named: str) -> None:
    with pytest.raises(GatewayError, match=named) as caught:
        parse_completion(body)
    assert caught.value.code == "bad-request"


async def test_a_body_over_the_limit_is_refused() -> None:
    async with served() as (gateway, url), httpx.AsyncClient() as client:
        reply = await client.post(f"{url}/chat/completions", content=b" " * (BODY_BYTES_MAX + 1))
        assert reply.status_code == 400
        assert "over" in reply.json()["error"]["message"]
        assert gateway.asked == []


async def test_an_unknown_path_has_an_error_body() -> None:
    async with served() as (_, url), httpx.AsyncClient() as client:
        reply = await client.get(f"{url}/embeddings")
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_a_port_in_use_is_named() -> None:
    listener = bind_api("127.0.0.1", 0)
    with pytest.raises(ApiPortError, match="in use"):
        bind_api("127.0.0.1", listener.getsockname()[1])
    listener.close()
