"""What LangChain's users do every day works unchanged against a gateway."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

import trio
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.unit.api.canned_gateway import PROMPT_TOKENS, TEXTS, served

Result = TypeVar("Result")
WHOLE = "".join(TEXTS)


class Place(BaseModel):
    """A place."""

    name: str


@tool
def weather(place: str) -> str:
    """The weather of a place."""
    return f"rain in {place}"


def chat(url: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=SecretStr("none"), model="tiny", max_retries=0, **options)


async def in_thread(use: Callable[[], Result]) -> Result:
    return await trio.to_thread.run_sync(use)


async def test_invoke_stream_and_batch() -> None:
    async with served() as face:
        model = chat(face.url, temperature=0.5, max_tokens=64, seed=1)
        answer = await in_thread(lambda: model.invoke("What is a quern?"))
        assert answer.content == WHOLE
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_tokens"] == PROMPT_TOKENS
        assert answer.response_metadata["finish_reason"] == "stop"

        pieces = await in_thread(lambda: list(model.stream("What is a quern?")))
        assert "".join(str(piece.content) for piece in pieces) == WHOLE
        assert len(pieces) > len(TEXTS)

        answers = await in_thread(lambda: model.batch(["one", "two", "three"]))
        assert [each.content for each in answers] == [WHOLE] * 3
        asked = [entry.prompt.turns[-1].content for entry in face.gateway.asked[-3:]]
        assert sorted(asked) == ["one", "three", "two"]


async def test_a_stream_tells_its_usage_and_the_async_calls_work() -> None:
    async with served() as face:
        model = chat(face.url, stream_usage=True)

        async def use() -> tuple[str, AIMessageChunk]:
            whole = await model.ainvoke("hi")
            gathered = None
            async for piece in model.astream("hi"):
                gathered = piece if gathered is None else gathered + piece
            assert isinstance(gathered, AIMessageChunk)
            return str(whole.content), gathered

        text, gathered = await in_thread(lambda: asyncio.run(use()))
        assert text == gathered.content == WHOLE
        assert gathered.usage_metadata is not None
        assert gathered.usage_metadata["output_tokens"] == 3


async def test_bound_tools_are_called_and_their_answers_go_back() -> None:
    async with served() as face:
        face.gateway.texts = ['<tool_call>{"name": "weather", "arguments": {"place": "Ávila"}}</tool_call>']
        model = chat(face.url).bind_tools([weather])
        asked = [HumanMessage("How is the weather in Ávila?")]
        answer = await in_thread(lambda: model.invoke(asked))
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"place": "Ávila"})

        def stream() -> AIMessageChunk:
            gathered = None
            for piece in model.stream(asked):
                gathered = piece if gathered is None else gathered + piece
            assert isinstance(gathered, AIMessageChunk)
            return gathered

        assert (await in_thread(stream)).tool_calls[0]["args"] == {"place": "Ávila"}

        face.gateway.texts = ["It rains."]
        returned = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        final = await in_thread(lambda: model.invoke([*asked, answer, returned]))
        assert final.content == "It rains."
        turns = face.gateway.asked[-1].prompt.turns
        assert json.loads(turns[1].tool_calls)[0]["id"] == turns[2].tool_call_id
        assert turns[2].content == "rain in Ávila"


async def test_structured_output_by_schema_by_call_and_by_json_mode() -> None:
    async with served() as face:
        face.gateway.texts = ['{"name": ', '"Ávila"}']
        for method in ("json_schema", "function_calling", "json_mode"):
            model = chat(face.url).with_structured_output(Place, method=method)
            assert await in_thread(lambda model=model: model.invoke("Where?")) == Place(name="Ávila"), method  # type: ignore[misc]


async def test_completions_and_embeddings() -> None:
    async with served() as face:
        completion = OpenAI(base_url=face.url, api_key=SecretStr("none"), model="tiny", max_retries=0)
        assert await in_thread(lambda: completion.invoke("A quern ")) == WHOLE
        assert [part async for part in _texts(face.url)] == [WHOLE, WHOLE]

        vectors = OpenAIEmbeddings(
            base_url=face.url, api_key=SecretStr("none"), model="tiny", check_embedding_ctx_length=False
        )
        assert await in_thread(lambda: vectors.embed_query("a text")) == [1.0, -2.0]
        assert len(await in_thread(lambda: vectors.embed_documents(["one", "two"]))) == 2


async def _texts(url: str) -> Any:
    completion = OpenAI(base_url=url, api_key=SecretStr("none"), model="tiny", max_retries=0)
    result = await in_thread(lambda: completion.generate(["one", "two"]))
    for generation in result.generations:
        yield generation[0].text
