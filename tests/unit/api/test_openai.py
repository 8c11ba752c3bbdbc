"""The OpenAI face: its own SDK is the judge of whether answers and errors have the right shape."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import openai
import pytest
import trio
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from node.api.openai.bodies import BODY_BYTES_MAX
from node.api.server import ApiPortError, bind_api
from node.protocol.sampling import LogitBias, TokenAlternative, TokenLogprobs
from node.services.attempt import AnswerPart
from node.services.gateway import GatewayError
from tests.unit.api.canned_gateway import NOW, PROMPT_TOKENS, TEXTS, served

Result = TypeVar("Result")
QUESTION: list[Any] = [{"role": "user", "content": "What is a quern?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"place": "Ávila"}}\n</tool_call>'


async def with_sdk(url: str, use: Callable[[openai.OpenAI], Result], retries: int = 0) -> Result:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=retries, timeout=20)
    return await trio.to_thread.run_sync(use, client)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=options.pop("messages", QUESTION), **options)


async def test_a_whole_answer_has_text_reason_and_usage() -> None:
    async with served() as face:
        completion: ChatCompletion = await with_sdk(
            face.url, lambda client: ask(client, max_tokens=9, temperature=0.25, top_p=0.5, seed=3, stop="x")
        )
        assert completion.choices[0].message.content == "".join(TEXTS)
        assert completion.choices[0].finish_reason == "stop"
        assert completion.object == "chat.completion"
        assert completion.created == NOW
        assert completion.usage is not None
        assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (PROMPT_TOKENS, PROMPT_TOKENS + 3)
        (chat,) = face.gateway.asked
        sampling = chat.sampling
        assert (chat.max_tokens, sampling.temperature_milli, sampling.top_p_milli, chat.seed) == (9, 250, 500, 3)
        assert chat.stop == ("x",)
        assert chat.prompt.turns[0].content == "What is a quern?"


async def test_every_parameter_of_sampling_arrives_vllm_s_own_included() -> None:
    async with served() as face:
        extras = {"top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1}
        await with_sdk(
            face.url,
            lambda client: ask(
                client, frequency_penalty=0.5, presence_penalty=-0.5, logit_bias={"7": -100}, extra_body=extras
            ),
        )
        sampling = face.gateway.asked[0].sampling
        assert (sampling.top_k, sampling.min_p_milli, sampling.repetition_penalty_milli) == (20, 50, 1100)
        assert (sampling.frequency_penalty_milli, sampling.presence_penalty_milli) == (500, -500)
        assert sampling.logit_bias == (LogitBias(7, -100_000),)


async def test_a_request_is_private_if_it_says_so() -> None:
    async with served() as face:
        await with_sdk(face.url, lambda client: ask(client, extra_body={"quern": {"private": True}}))
        await with_sdk(face.url, ask)
        assert [chat.private for chat in face.gateway.asked] == [True, False]


async def test_a_stream_arrives_in_pieces_and_ends_with_usage_when_asked_for() -> None:
    async with served() as face:

        def use(client: openai.OpenAI) -> list[Any]:
            return list(ask(client, stream=True, stream_options={"include_usage": True}))

        chunks = await with_sdk(face.url, use)
        texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
        assert texts == list(TEXTS)
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage.completion_tokens == 3
        assert len({chunk.id for chunk in chunks}) == 1


async def test_the_async_client_streams_too() -> None:
    async with served() as face:

        async def use() -> str:
            async with openai.AsyncOpenAI(base_url=face.url, api_key="none", max_retries=0) as client:
                stream = await client.chat.completions.create(model="tiny", messages=QUESTION, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await trio.to_thread.run_sync(lambda: __import__("asyncio").run(use())) == "".join(TEXTS)


async def test_several_answers_have_their_own_index_and_seed_and_one_sum() -> None:
    async with served() as face:
        completion = await with_sdk(face.url, lambda client: ask(client, n=3, seed=5))
        assert [choice.index for choice in completion.choices] == [0, 1, 2]
        assert {choice.message.content for choice in completion.choices} == {"".join(TEXTS)}
        assert completion.usage.completion_tokens == 9
        assert sorted(chat.seed or 0 for chat in face.gateway.asked) == [5, 6, 7]

        chunks = await with_sdk(face.url, lambda client: list(ask(client, n=2, stream=True)))
        texts = ["", ""]
        for chunk in chunks:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert texts == ["".join(TEXTS)] * 2


def priced(text: str, *, other: str = "x") -> AnswerPart:
    chosen = TokenAlternative(1, text, -250_000)
    return AnswerPart(text, (1,), (TokenLogprobs(chosen, (chosen, TokenAlternative(2, other, -1_500_000))),))


async def test_likelihoods_come_in_both_shapes() -> None:
    async with served() as face:
        face.gateway.parts = [priced("Stö"), priced("ne")]
        chat = await with_sdk(face.url, lambda client: ask(client, logprobs=True, top_logprobs=2))
        first = chat.choices[0].logprobs.content[0]
        assert (first.token, first.logprob, bytes(first.bytes).decode()) == ("Stö", -0.25, "Stö")
        assert [other.token for other in first.top_logprobs] == ["Stö", "x"]
        assert face.gateway.asked[0].logprobs == 2

        chunks = await with_sdk(face.url, lambda client: list(ask(client, logprobs=True, stream=True)))
        told = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
        assert [entry.token for logprobs in told for entry in logprobs.content] == ["Stö", "ne"]
        assert face.gateway.asked[1].logprobs == 0

        text = await with_sdk(face.url, lambda client: client.completions.create(model="tiny", prompt="A ", logprobs=1))
        likely = text.choices[0].logprobs
        assert likely is not None
        assert (likely.tokens, likely.token_logprobs, likely.text_offset) == (["Stö", "ne"], [-0.25, -0.25], [0, 3])
        assert likely.top_logprobs == [{"Stö": -0.25, "x": -1.5}, {"ne": -0.25, "x": -1.5}]


async def test_completions_take_texts_and_tokens_one_or_many() -> None:
    async with served() as face:

        def use(client: openai.OpenAI) -> Any:
            make = client.completions.create
            return (
                make(model="tiny", prompt="A quern ", echo=True),
                make(model="tiny", prompt=[1, 2, 3]),
                make(model="tiny", prompt=["one", "two"], n=2, max_tokens=5),
                make(model="tiny", prompt=[[1, 2], [3]]),
                list(make(model="tiny", prompt="A quern ", echo=True, stream=True)),
            )

        echoed, _, several, _, chunks = await with_sdk(face.url, use)
        assert echoed.choices[0].text == "A quern " + "".join(TEXTS)
        assert echoed.object == "text_completion"
        assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "A quern " + "".join(TEXTS)
        prompts = [chat.prompt for chat in face.gateway.asked]
        assert prompts[1].token_ids == (1, 2, 3)
        assert sorted(prompt.text or "" for prompt in prompts[2:6]) == ["one", "one", "two", "two"]
        assert sorted(prompt.token_ids for prompt in prompts[6:8]) == [(1, 2), (3,)]
        assert [chat.max_tokens for chat in face.gateway.asked[:3]] == [16, 16, 5]


async def test_embeddings_are_numbers_whichever_encoding() -> None:
    async with served() as face:

        def use(client: openai.OpenAI) -> Any:
            make = client.embeddings.create  # asks for base64 by itself, and decodes it
            return (
                make(model="tiny", input="a text"),
                make(model="tiny", input=["one", "two"], encoding_format="float"),
                make(model="tiny", input=[[1, 2], [3]], extra_body={"quern": {"private": True}}),
            )

        one, several, tokens = await with_sdk(face.url, use)
        assert one.data[0].embedding == [1.0, -2.0]
        assert [entry.index for entry in several.data] == [0, 1]
        assert several.data[1].embedding == [1.0, -2.0]
        assert several.usage.total_tokens == 6
        assert [entry.token_ids for entry in face.gateway.embedded[2]] == [(1, 2), (3,)]
        assert len(tokens.data) == 2
        assert face.gateway.embedded_privately == [False, False, True]
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await with_sdk(face.url, lambda client: client.embeddings.create(model="tiny", input="x", dimensions=2))


async def test_a_model_that_writes_is_told_from_one_that_embeds() -> None:
    async with served() as face:
        face.gateway.fail_at_once = GatewayError("bad-request", "/v1/embeddings: Not Found")
        with pytest.raises(openai.BadRequestError, match="it makes no embeddings") as refused:
            await with_sdk(face.url, lambda client: client.embeddings.create(model="tiny", input="x"))
        assert refused.value.param == "model"


async def test_the_models_are_those_of_the_epoch() -> None:
    async with served() as face:
        models = await with_sdk(face.url, lambda client: [entry.id for entry in client.models.list()])
        assert models == ["tiny"]
        assert (await with_sdk(face.url, lambda client: client.models.retrieve("tiny"))).owned_by == "quern"
        with pytest.raises(openai.NotFoundError, match="can be asked: tiny"):
            await with_sdk(face.url, lambda client: client.models.retrieve("some/other"))


async def test_a_call_is_a_call_whole_and_streamed() -> None:
    async with served() as face:
        face.gateway.texts = ["Let me ", "see.\n<tool_", 'call>\n{"name": "weather", "argu', 'ments": {"place"']
        face.gateway.texts = [*face.gateway.texts, ': "Ávila"}}\n</tool', "_call>"]
        completion = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER]))
        choice = completion.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content == "Let me see."
        (call,) = choice.message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"place": "Ávila"})
        assert json.loads(face.gateway.asked[0].prompt.tools) == [WEATHER]

        chunks = await with_sdk(face.url, lambda client: list(ask(client, tools=[WEATHER], stream=True)))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert "".join(delta.content or "" for delta in deltas) == "Let me see."
        (streamed,) = [entry for delta in deltas for entry in delta.tool_calls or ()]
        assert (streamed.index, streamed.function.name) == (0, "weather")
        assert json.loads(streamed.function.arguments) == {"place": "Ávila"}
        assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_conversation_with_calls_goes_back_as_it_came() -> None:
    async with served() as face:
        face.gateway.texts = [CALL_TEXT]

        def use(client: openai.OpenAI) -> None:
            first = ask(client, tools=[WEATHER])
            message = first.choices[0].message
            answer = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
            ask(client, tools=[WEATHER], messages=[*QUESTION, message, answer])
            ask(client, tools=[WEATHER], messages=[*QUESTION, message.model_dump(), answer])

        await with_sdk(face.url, use)
        for chat in face.gateway.asked[1:]:
            _, made, answered = chat.prompt.turns
            (call,) = json.loads(made.tool_calls)
            assert call["function"]["name"] == "weather"
            assert answered.tool_call_id == call["id"]
            assert answered.content == "rain"


async def test_a_demanded_call_is_written_by_the_engine_s_own_hand() -> None:
    async with served() as face:
        face.gateway.texts = ['{"place": ', '"Ávila"}']
        named = {"type": "function", "function": {"name": "weather"}}
        completion = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER], tool_choice=named))
        (call,) = completion.choices[0].message.tool_calls
        assert json.loads(call.function.arguments) == {"place": "Ávila"}
        assert completion.choices[0].finish_reason == "stop"
        wanted = json.loads(face.gateway.asked[0].response_format)
        assert wanted["json_schema"]["schema"] == WEATHER["function"]["parameters"]

        face.gateway.texts = ['[{"name": "weather", "parameters": {"place": "Ávila"}}]']
        completion = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER], tool_choice="required"))
        assert completion.choices[0].message.tool_calls[0].function.name == "weather"
        assert completion.choices[0].finish_reason == "tool_calls"


async def test_without_a_choice_of_tools_the_model_sees_none_and_calls_are_text() -> None:
    async with served() as face:
        face.gateway.texts = [CALL_TEXT]
        completion = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER], tool_choice="none"))
        assert completion.choices[0].message.content == CALL_TEXT
        assert completion.choices[0].message.tool_calls is None
        assert face.gateway.asked[0].prompt.tools == ""


async def test_one_call_at_most_where_no_more_are_wanted() -> None:
    async with served() as face:
        face.gateway.texts = [CALL_TEXT, CALL_TEXT]
        both = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER]))
        one = await with_sdk(face.url, lambda client: ask(client, tools=[WEATHER], parallel_tool_calls=False))
        calls = both.choices[0].message.tool_calls
        assert len({call.id for call in calls}) == 2
        assert len(one.choices[0].message.tool_calls) == 1


async def test_formats_of_answers_arrive_and_parse() -> None:
    class Place(BaseModel):
        name: str

    async with served() as face:
        face.gateway.texts = ['{"name": "Ávila"}']
        await with_sdk(face.url, lambda client: ask(client, response_format={"type": "json_object"}))
        parsed = await with_sdk(
            face.url,
            lambda client: client.chat.completions.parse(model="tiny", messages=QUESTION, response_format=Place),
        )
        await with_sdk(face.url, lambda client: ask(client, response_format={"type": "text"}))
        assert parsed.choices[0].message.parsed == Place(name="Ávila")
        formats = [chat.response_format for chat in face.gateway.asked]
        assert json.loads(formats[0]) == {"type": "json_object"}
        assert json.loads(formats[1])["json_schema"]["schema"]["required"] == ["name"]
        assert formats[2] == ""


@pytest.mark.parametrize(
    ("code", "status", "raised"),
    [
        ("model-not-found", 404, openai.NotFoundError),
        ("too-long", 400, openai.BadRequestError),
        ("bad-request", 400, openai.BadRequestError),
        ("overloaded", 429, openai.RateLimitError),
        ("no-executor", 503, openai.InternalServerError),
        ("payment", 402, openai.APIStatusError),
        ("failed", 502, openai.InternalServerError),
        ("a code of tomorrow", 502, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_raise_what_the_sdk_knows(
    code: str, status: int, raised: type[openai.APIStatusError], stream: bool
) -> None:
    async with served() as face:
        face.gateway.fail_at_once = GatewayError(code, "what happened and what to do", retry_after=2.5)
        with pytest.raises(raised, match="what happened") as caught:
            await with_sdk(face.url, lambda client: ask(client, stream=stream))
        assert caught.value.status_code == status
        assert caught.value.response.headers["retry-after"] == "3"
        if code == "too-long":
            assert caught.value.code == "context_length_exceeded"


async def test_the_sdk_waits_as_it_is_told_and_then_succeeds() -> None:
    async with served() as face:
        face.gateway.fail_first = [GatewayError("overloaded", "all are busy", retry_after=0.05)] * 2
        completion = await with_sdk(face.url, ask, retries=2)
        assert completion.choices[0].message.content == "".join(TEXTS)
        assert len(face.gateway.asked) == 3


async def test_a_stream_that_fails_in_its_middle_ends_with_an_error_not_with_done() -> None:
    async with served() as face:
        face.gateway.fail_after = GatewayError("failed", "no executor gave a complete answer")
        with pytest.raises(openai.APIError, match="no executor"):
            await with_sdk(face.url, lambda client: list(ask(client, stream=True)))
        async with httpx.AsyncClient() as client:
            body = {"model": "tiny", "messages": QUESTION, "stream": True}
            reply = await client.post(f"{face.url}/chat/completions", json=body)
        assert "[DONE]" not in reply.text
        assert reply.text.count('"error"') == 1


async def test_if_one_of_several_answers_fails_all_of_it_is_an_error() -> None:
    async with served() as face:
        face.gateway.fail_first = [GatewayError("no-executor", "nobody is there")]
        with pytest.raises(openai.InternalServerError, match="nobody is there"):
            await with_sdk(face.url, lambda client: ask(client, n=3))
        assert face.gateway.running == 0


async def test_a_request_keeps_its_name_and_tells_those_of_the_network() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        body = {"model": "tiny", "messages": QUESTION, "n": 2}
        named = await client.post(f"{face.url}/chat/completions", json=body, headers={"x-request-id": "mine-1"})
        assert named.headers["x-request-id"] == "mine-1"
        ids = sorted(named.headers["quern-request-id"].split(","))
        assert ids == [number.to_bytes(32).hex() for number in (1, 2)]
        assert {chat.caller_id for chat in face.gateway.asked} == {"mine-1"}
        assert int(named.headers["openai-processing-ms"]) >= 0

        body["stream"] = True
        streamed = await client.post(f"{face.url}/chat/completions", json=body, headers={"x-request-id": "a\tb"})
        assert streamed.headers["x-request-id"].startswith("req_")
        assert len(streamed.headers["quern-request-id"].split(",")) == 2
        assert streamed.headers["content-type"].startswith("text/event-stream")


async def test_a_body_over_the_limit_is_refused() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        reply = await client.post(f"{face.url}/chat/completions", content=b" " * (BODY_BYTES_MAX + 1))
        assert reply.status_code == 413
        assert "over" in reply.json()["error"]["message"]
        assert face.gateway.asked == []


async def test_an_unknown_path_has_an_error_body() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        reply = await client.get(f"{face.url}/assistants")
        assert reply.status_code == 404
        assert reply.json()["error"]["type"] == "invalid_request_error"
        wrong = await client.get(f"{face.url}/chat/completions")
        assert wrong.status_code == 405
        assert "message" in wrong.json()["error"]


async def test_a_port_in_use_is_named() -> None:
    listener = bind_api("127.0.0.1", 0)
    with pytest.raises(ApiPortError, match="in use"):
        bind_api("127.0.0.1", listener.getsockname()[1])
    listener.close()
