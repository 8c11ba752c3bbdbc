"""The OpenAI SDK and LangChain against a gateway, an executor and real vLLM: what they get is what the engine made."""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import openai
import pytest
import trio
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict, SecretStr

from netsim.scenario import MODEL, MODEL_ID, PARAMETERS
from node.api.keys import KeyBook, KeyLimits, add_api_key, read_api_keys
from node.api.openai import make_app
from node.api.openai.gatekeeper import Gatekeeper
from node.protocol.pricing import price
from node.store.database import Database
from node.store.key_spending import KeySpending
from tests.integration.engine.shared import SharedServer
from tests.unit.api.canned_gateway import on_a_socket
from tests.unit.services.serving_network import ServingNetwork, serving_network

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
Result = TypeVar("Result")
NOW = 1_800_000_000
QUESTION: list[Any] = [{"role": "user", "content": "What does Python say about lambda?"}]
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "enum": ["Rome", "Oslo"]}, "sunny": {"type": "boolean"}},
    "required": ["place", "sunny"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}


class Weather(BaseModel):
    """The weather of a place."""

    model_config = ConfigDict(extra="forbid")  # or the model may go on with more fields than its tokens last for
    place: Literal["Rome", "Oslo"]
    sunny: bool


@dataclass
class User:
    """A user with a key."""

    url: str
    key: str
    network: ServingNetwork
    spending: KeySpending
    key_id: str

    async def use(self, call: Callable[[openai.OpenAI], Result]) -> Result:
        client = openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=120)
        return await trio.to_thread.run_sync(call, client)

    def settled(self) -> bool:
        return self.spending.total(self.key_id).amount == self.network.paid_by_gateway()


@asynccontextmanager
async def user(server: SharedServer, directory: Path) -> AsyncIterator[User]:
    keys, spending = directory / "api.keys", KeySpending(Database(":memory:"))
    key = add_api_key(keys, "user", KeyLimits(total_amount_max=10**30), at=NOW)
    (stored,) = read_api_keys(keys) or ()
    gatekeeper = Gatekeeper(
        KeyBook(keys),
        spending,
        lambda model: price(0, 1, model, PARAMETERS.unit_price),
        is_open=False,
        wall_clock=lambda: NOW,
        clock=trio.current_time,
    )
    async with (
        server.joined(directory, MODEL) as engine,
        serving_network(1, engine=lambda _: engine) as network,
        on_a_socket(make_app(network.gateway, lambda: NOW, gatekeeper)) as url,
    ):
        network.gateway._random_bytes = secrets.token_bytes  # the simulated network's own are always the same
        yield User(url, key, network, spending, stored.key_id)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    options = {"max_tokens": 24, "temperature": 0, "messages": QUESTION, **options}
    return client.chat.completions.create(model=MODEL_ID, **options)


async def test_what_users_get_is_what_the_engine_made(shared_server: SharedServer, tmp_path: Path) -> None:
    async with user(shared_server, tmp_path) as someone:
        await answers_are_whole_streamed_and_counted(someone)
        await likelihoods_are_those_of_the_tokens(someone)
        await formats_and_calls_hold(someone)
        await completions_go_on_where_the_text_ends(someone)
        await faults_are_the_user_s(someone)
        assert someone.settled()


async def answers_are_whole_streamed_and_counted(someone: User) -> None:
    whole = await someone.use(ask)
    text = whole.choices[0].message.content
    assert text
    assert whole.usage.completion_tokens <= 24
    chunks = await someone.use(lambda c: list(ask(c, stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-1].usage == whole.usage

    stop = text[len(text) // 2 :][:3]
    cut = await someone.use(lambda c: ask(c, stop=stop))
    assert text.startswith(cut.choices[0].message.content)
    assert stop not in cut.choices[0].message.content
    assert cut.choices[0].finish_reason == "stop"

    several = await someone.use(lambda c: ask(c, n=3, seed=7, temperature=1))
    again = await someone.use(lambda c: ask(c, n=3, seed=7, temperature=1))
    texts = [choice.message.content for choice in several.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    assert several.usage.prompt_tokens == 3 * whole.usage.prompt_tokens


async def likelihoods_are_those_of_the_tokens(someone: User) -> None:
    answer = await someone.use(lambda c: ask(c, logprobs=True, top_logprobs=3))
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens
    written = b"".join(bytes(entry.bytes) for entry in told).decode()
    assert written.startswith(answer.choices[0].message.content)
    for entry in told:
        assert entry.logprob <= 0
        assert entry.logprob == max(other.logprob for other in entry.top_logprobs)  # at temperature 0
    plain = await someone.use(ask)
    assert plain.choices[0].message.content == answer.choices[0].message.content


async def formats_and_calls_hold(someone: User) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    made = await someone.use(lambda c: ask(c, response_format=response_format, max_tokens=100))
    Weather.model_validate_json(made.choices[0].message.content)

    named = {"type": "function", "function": {"name": "weather"}}
    options: dict[str, Any] = {"tools": [WEATHER], "max_tokens": 100, "temperature": 1}
    for choice in (named, "required"):
        whole = await someone.use(lambda c, choice=choice: ask(c, tool_choice=choice, seed=1, **options))  # type: ignore[misc]
        assert whole.choices[0].message.tool_calls
        for call in whole.choices[0].message.tool_calls:
            assert call.function.name == "weather"
            Weather.model_validate_json(call.function.arguments)
    chunks = await someone.use(lambda c: list(ask(c, tool_choice="required", seed=1, stream=True, **options)))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls
    assert all(json.loads(call.function.arguments).keys() == {"place", "sunny"} for call in calls)

    chain = ChatOpenAI(
        base_url=someone.url, api_key=SecretStr(someone.key), model=MODEL_ID, max_retries=0, max_tokens=100
    )
    for method in ("json_schema", "function_calling"):
        structured = chain.with_structured_output(Weather, method=method)
        assert isinstance(await trio.to_thread.run_sync(structured.invoke, "How is the weather?"), Weather)


async def completions_go_on_where_the_text_ends(someone: User) -> None:
    def use(client: openai.OpenAI) -> Any:
        make = client.completions.create
        options: dict[str, Any] = {"model": MODEL_ID, "max_tokens": 12, "temperature": 0}
        return make(prompt="def f(x):", echo=True, **options), make(prompt=[5, 6, 7], logprobs=2, **options)

    echoed, tokens = await someone.use(use)
    assert echoed.choices[0].text.startswith("def f(x):")
    assert len(echoed.choices[0].text) > len("def f(x):")
    assert tokens.usage.prompt_tokens == 3
    likely = tokens.choices[0].logprobs
    assert len(likely.tokens) == len(likely.token_logprobs) == tokens.usage.completion_tokens


async def faults_are_the_user_s(someone: User) -> None:
    long: list[Any] = [{"role": "user", "content": "lambda " * 2_000}]
    with pytest.raises(openai.BadRequestError) as caught:
        await someone.use(lambda c: ask(c, messages=long))
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        await someone.use(lambda c: c.completions.create(model=MODEL_ID, prompt=[10**6], max_tokens=1))
    with pytest.raises(openai.NotFoundError):
        await someone.use(lambda c: c.chat.completions.create(model="other", messages=QUESTION))
