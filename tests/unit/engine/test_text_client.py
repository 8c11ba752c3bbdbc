"""Servers that only take and give text: counted in pieces, refused what they lack, ML nodes where that suffices."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from netsim.scenario import MODEL_ID
from node.engine.adapter import EngineNode
from node.engine.endpoint import parse_endpoint
from node.engine.text_client import TextApi, TextClient, identify_text_server
from node.engine.text_pieces import (
    PIECES_END,
    PieceWriter,
    conversation_pieces,
    from_pieces,
    read_prompt,
    text_pieces,
    to_pieces,
)
from node.ports import ChatMessage, EngineFailedError, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import SamplingParameters
from node.services.checks import TOKEN_ID_MAX
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest
from node.services.local_chat import LocalChat
from node.settings.sections.engines import EngineSettings
from tests.builders import model
from tests.unit.conformance.stand_ins import MODEL, MinerStandIn, VllmStandIn, running
from tests.unit.services.serving_network import NODE, serving_network

GREEDY = SamplingParameters(temperature_milli=0)
QUESTION = ChatMessage("user", "What is a quern? – Grüße")


def request(pieces: Sequence[int], max_tokens: int = 100, **fields: object) -> GenerationRequest:
    wanted = GenerationRequest(tuple(pieces), max_tokens, GREEDY, 1, (), 0)
    return replace(wanted, **fields)  # type: ignore[arg-type]


async def generate(client: TextClient, wanted: GenerationRequest) -> tuple[list[int], str, str | None]:
    tokens: list[int] = []
    text, reason = "", None
    async with client.generate(wanted) as chunks:
        async for chunk in chunks:
            tokens += chunk.token_ids
            text += chunk.text
            reason = chunk.finish_reason
    return tokens, text, reason


@asynccontextmanager
async def client_of(stand_in: MinerStandIn | VllmStandIn) -> AsyncIterator[TextClient]:
    api = TextApi.MINER if isinstance(stand_in, MinerStandIn) else TextApi.OPENAI
    async with running(stand_in) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        yield TextClient(http, MODEL, api)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_pieces_have_exactly_one_reading(data: bytes) -> None:
    pieces = to_pieces(data)
    assert from_pieces(pieces) == data
    assert all(0 < piece < PIECES_END for piece in pieces)
    assert -(-len(data) // 3) <= len(pieces) <= -(-len(data) // 2)


def test_plain_text_has_a_third_as_many_pieces_as_letters() -> None:
    assert len(to_pieces(b"a quern is a hand mill")) == 8
    assert PIECES_END <= TOKEN_ID_MAX


@settings(deadline=None)
@given(st.integers(-5, 2 * PIECES_END))
def test_a_number_is_a_piece_or_refused(token: int) -> None:
    try:
        data = from_pieces([token])
    except ValueError:
        return
    assert to_pieces(data) == (token,)


@settings(deadline=None)
@given(st.text(max_size=60), st.lists(st.integers(0, 60), max_size=6), st.integers(1, 100))
def test_an_answer_has_the_same_pieces_however_it_is_cut_on_its_way(text: str, cuts: list[int], most: int) -> None:
    writer = PieceWriter(most)
    pieces: tuple[int, ...] = ()
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    for start, end in itertools.pairwise(edges):
        pieces += writer.add(text[start:end])
    pieces += writer.end()
    assert pieces == to_pieces(text.encode("utf-8", "replace"))[:most]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=20)), min_size=1))
def test_a_conversation_comes_back_from_its_pieces(turns: list[tuple[str, str]]) -> None:
    messages = tuple(ChatMessage(role, text.encode("utf-8", "replace").decode()) for role, text in turns)
    assert read_prompt(conversation_pieces(messages)).messages == messages
    assert read_prompt(text_pieces("Once")).text == "Once"


@pytest.mark.parametrize(
    "token_ids", [(), (1, 2, 3), (PIECES_END,), to_pieces(b"X"), to_pieces(b"C{"), to_pieces(b'C[["user"]]')]
)
def test_a_prompt_that_is_none_of_ours_is_refused(token_ids: tuple[int, ...]) -> None:
    with pytest.raises(EngineRefusedError, match="reads text only"):
        read_prompt(token_ids)


def test_what_another_node_wrote_is_not_gone_on_with() -> None:
    with pytest.raises(EngineRefusedError):
        read_prompt((*conversation_pieces([QUESTION]), *to_pieces(b"It is a")))


async def test_a_miner_server_s_answer_is_cut_into_pieces_that_say_all_of_it() -> None:
    stand_in = MinerStandIn()
    async with client_of(stand_in) as client:
        tokens, text, reason = await generate(client, request(await client.render_chat([QUESTION])))
    assert (text, reason) == (f"You asked: {QUESTION.content}", "stop")
    assert from_pieces(tokens).decode() == text
    assert stand_in.asked == [{"prompt": QUESTION.content, "temperature": 0.0, "max_tokens": 100}]


async def test_an_answer_is_no_longer_than_was_asked_for() -> None:
    async with client_of(MinerStandIn()) as client:
        tokens, text, reason = await generate(client, request(text_pieces("–" * 30), 6))
    assert (len(tokens), reason) == (6, "length")
    assert text == "You asked: –"  # three pieces of three letters, three of two bytes; half a dash is not shown


@pytest.mark.parametrize(("most", "reason"), [(8, "length"), (9, "length"), (10, "stop")])
async def test_an_answer_that_had_to_be_cut_says_so(most: int, reason: str) -> None:
    async with client_of(MinerStandIn()) as client:
        tokens, _, told = await generate(client, request(text_pieces("0123456789abcdef."), most))
    assert (len(tokens), told) == (most, reason)


async def test_a_stop_text_ends_a_whole_answer() -> None:
    async with client_of(MinerStandIn()) as client:
        _, text, reason = await generate(client, request(text_pieces("a END b"), stop=("END",)))
    assert (text, reason) == ("You asked: a ", "stop")


async def test_a_conversation_reaches_a_miner_server_as_one_text() -> None:
    stand_in = MinerStandIn()
    messages = [ChatMessage("system", "Be short."), QUESTION]
    async with client_of(stand_in) as client:
        await generate(client, request(await client.render_chat(messages)))
    assert stand_in.asked[0]["prompt"] == f"system: Be short.\n\nuser: {QUESTION.content}\n\nassistant:"


async def test_an_openai_server_streams_into_pieces_and_is_told_the_parameters() -> None:
    stand_in = VllmStandIn(frozenset({"openai only"}))
    async with client_of(stand_in) as client:
        wanted = request(await client.render_chat([QUESTION]), 20, stop=("x",), seed=7)
        tokens, text, reason = await generate(client, wanted)
    assert (len(text), reason) == (20, "stop")
    assert from_pieces(tokens).decode() == text
    (asked,) = stand_in.chats
    assert (asked["seed"], asked["stop"], asked["temperature"]) == (7, ["x"], 0.0)
    assert asked["messages"] == [{"role": "user", "content": QUESTION.content}]


async def test_a_stream_that_ends_without_a_reason_is_a_failure() -> None:
    async with client_of(VllmStandIn(frozenset({"openai only", "breaks off"}))) as client:
        with pytest.raises(EngineFailedError, match="broke off"):
            await generate(client, request(conversation_pieces([QUESTION])))


@pytest.mark.parametrize(
    ("api", "fields", "named"),
    [
        (TextApi.MINER, {"sampling": SamplingParameters(0, top_p_milli=500)}, "top_p"),
        (TextApi.MINER, {"response_format": '{"type": "json_object"}'}, "response_format"),
        (TextApi.OPENAI, {"sampling": SamplingParameters(0, top_k=5)}, "top_k"),
        (TextApi.OPENAI, {"sampling": SamplingParameters(0, repetition_penalty_milli=1100)}, "repetition_penalty"),
        (TextApi.OPENAI, {"logprobs": 1}, "logprobs"),
    ],
)
async def test_what_a_server_does_not_have_is_refused_by_name(
    api: TextApi, fields: dict[str, object], named: str
) -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:1") as http:
        client = TextClient(http, MODEL, api)
        with pytest.raises(EngineRefusedError, match=named):
            await generate(client, request(text_pieces("x"), **fields))
        with pytest.raises(EngineRefusedError, match="tools"):
            await client.render_chat([QUESTION], "[{}]")
        with pytest.raises(EngineRefusedError, match="log-probabilities"):
            await client.prompt_logprobs([[1]], priority=0)


async def test_a_server_of_another_model_is_told_what_to_change() -> None:
    async with running(MinerStandIn()) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await identify_text_server(http, MODEL, TextApi.MINER)
        with pytest.raises(EngineFailedError, match="not tiny"):
            await identify_text_server(http, "tiny", TextApi.MINER)
    async with running(VllmStandIn()) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await identify_text_server(http, MODEL, TextApi.OPENAI)
        with pytest.raises(EngineFailedError, match="the registry's id"):
            await identify_text_server(http, "tiny", TextApi.OPENAI)


@pytest.mark.parametrize("stand_in", [MinerStandIn(), VllmStandIn(frozenset({"openai only"}))])
async def test_a_container_joins_as_an_ml_node_by_its_url(stand_in: MinerStandIn | VllmStandIn, tmp_path: Path) -> None:
    api = TextApi.MINER if isinstance(stand_in, MinerStandIn) else TextApi.OPENAI
    async with running(stand_in) as url, trio.open_nursery() as nursery:
        engine = EngineNode(NodeId("container"), replace(parse_endpoint(url), api=api.value), tmp_path)
        nursery.start_soon(engine.run)
        engine.load(model(ModelId(MODEL)), tmp_path)
        with trio.fail_after(20):
            await engine.until_ready()
        assert engine.status().engine == f"text only ({api.value})"
        chat = LocalChat([engine], lambda: [ModelId(MODEL)])
        answer = await chat.answer(ModelId(MODEL), "Grind!", temperature_milli=200, max_tokens=8)
        assert (answer.model_id, answer.output_tokens > 0) == (MODEL, True)
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class ContainerEngine:
    """The engine port over a text server without sockets, so that it runs under a virtual clock."""

    client: TextClient
    node_id: NodeId = NODE
    model_id: ModelId | None = MODEL_ID
    vocabulary_size: int = PIECES_END

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        return await self.client.render_chat(messages, tools)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return await self.client.tokenize(text)

    @asynccontextmanager
    async def generate(self, wanted: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async with self.client.generate(wanted) as chunks:
            yield chunks

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        return await self.client.prompt_logprobs(prompts, priority=priority)

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        return await self.client.embed(prompts, priority=priority)


async def test_a_network_of_containers_answers_a_gateway_and_is_paid(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stand_in = MinerStandIn()
    transport = httpx.ASGITransport(app=stand_in.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://container") as http:
        engine = ContainerEngine(TextClient(http, MODEL, TextApi.MINER))
        async with serving_network(1, engine=lambda _: engine) as network:
            chat = ChatRequest(MODEL_ID, Prompt((Turn("user", "What is a quern?"),)), 40, GREEDY)
            async with network.gateway.ask(chat) as answer:
                text = "".join([part.text async for part in answer])
            assert text == "You asked: What is a quern?"
            assert answer.summary.finish_reason == "stop"
            assert answer.summary.output_tokens == len(to_pieces(text.encode()))
            assert 0 < network.paid_to(1) <= network.paid_by_gateway()


def test_another_api_needs_a_server_of_one_s_own() -> None:
    wanted = {"node_id": "a", "model_id": "tiny"}
    assert EngineSettings(**wanted, url="http://10.0.0.7:3000", api="miner").api == "miner"
    with pytest.raises(ValidationError, match="starts vLLM only"):
        EngineSettings(**wanted, api="miner")
