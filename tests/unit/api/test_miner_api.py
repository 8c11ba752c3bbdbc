"""The miner API: the Miner Guide's examples are answered in its shapes, and nobody else gets to the engines."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import trio

from node.api.callers import is_loopback
from node.api.faces import compose
from node.api.miner import BODY_BYTES_MAX, MinerApi, NodeFacts, uptime_text
from node.api.server import bind_api, serve_api
from node.ports import ChatMessage, EngineFailedError, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.services import local_chat
from node.services.local_chat import LocalChat
from tests.builders import NODE, TINY, model

KEY = "qk_right"
OTHER_MODEL = ModelId("owner/vision-2b")


@dataclass
class CannedEngine:
    """Answers every chat with the same words, or fails where it is told to."""

    model_id: ModelId | None = TINY
    node_id: NodeId = NODE
    vocabulary_size: int = 100
    failure: Exception | None = None
    breaks_off: bool = False
    hangs: bool = False
    asked: list[GenerationRequest] = field(default_factory=list)
    aborted: int = 0

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        return tuple(range(len(messages[0].content)))

    async def tokenize(self, text: str) -> tuple[int, ...]:
        raise NotImplementedError

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        try:
            yield self._chunks()
        except BaseException:
            self.aborted += 1
            raise

    async def _chunks(self) -> AsyncIterator[GenerationChunk]:
        yield GenerationChunk((1, 2), "Model's ", None)
        if self.hangs:
            await trio.sleep_forever()
        yield GenerationChunk((3,), "answer", None if self.breaks_off else "stop")

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        raise NotImplementedError


@asynccontextmanager
async def miner(*engines: CannedEngine, wanted: tuple[ModelId, ...] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    models = wanted if wanted is not None else tuple(e.model_id for e in engines if e.model_id is not None)
    facts = NodeFacts("1.0.0", lambda: 8130, {ModelId("tiny"): model()}.get)
    chat = LocalChat(engines, lambda: models)
    api = MinerApi(chat, facts, lambda: 1_705_314_600, lambda key: key == KEY)
    listener = bind_api("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        nursery.start_soon(serve_api, compose(api.routes(), None), listener)
        yield client
        nursery.cancel_scope.cancel()
    listener.close()


async def test_the_guide_s_chat_is_answered_in_its_shape() -> None:
    engine = CannedEngine()
    async with miner(engine) as client:
        reply = await client.post(
            "/api/chat", json={"prompt": "Your question here", "temperature": 0.2, "max_tokens": 150}
        )
    assert reply.status_code == 200
    body = reply.json()
    assert body.pop("processing_time") >= 0
    assert body == {"response": "Model's answer", "model": "tiny", "timestamp": "2024-01-15T10:30:00Z"}
    (asked,) = engine.asked
    assert (asked.sampling.temperature_milli, asked.max_tokens) == (200, 150)


async def test_temperature_and_length_may_be_left_out() -> None:
    engine = CannedEngine()
    async with miner(engine) as client:
        assert (await client.post("/api/chat", json={"prompt": "Test question"})).status_code == 200
    (asked,) = engine.asked
    assert (asked.sampling.temperature_milli, asked.max_tokens) == (700, 100)


async def test_health_and_info_are_the_guide_s() -> None:
    async with miner(CannedEngine()) as client:
        health = await client.get("/health")
        assert (health.status_code, health.json()) == (
            200,
            {"status": "healthy", "model_loaded": True, "uptime": "2h 15m 30s"},
        )
        info = (await client.get("/info")).json()
    assert info.pop("models")
    assert info == {
        "model_name": "tiny",
        "model_type": "llm",
        "version": "1.0.0",
        "capabilities": ["text-generation", "chat"],
        "max_context_length": 512,
    }


async def test_each_of_several_models_has_a_route_and_an_unknown_one_is_404() -> None:
    other = CannedEngine(OTHER_MODEL, NodeId("node-2"))
    async with miner(CannedEngine(), other) as client:
        reply = await client.post(f"/api/chat/{OTHER_MODEL}", json={"prompt": "look"})
        assert reply.json()["model"] == OTHER_MODEL
        unknown = await client.post("/api/chat/translation", json={"prompt": "hi"})
        assert unknown.status_code == 404
        assert unknown.json()["error"].startswith("Model not available: translation")
        assert len((await client.get("/info")).json()["models"]) == 2


async def test_a_model_that_is_still_loading_is_not_unknown() -> None:
    async with miner(CannedEngine(model_id=None), wanted=(ModelId("tiny"),)) as client:
        reply = await client.post("/api/chat/tiny", json={"prompt": "hi"})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert (await client.post("/api/chat", json={"prompt": "hi"})).status_code == 503
        health = await client.get("/health")
        assert (health.status_code, health.json()["model_loaded"]) == (503, False)
        assert (await client.get("/info")).json()["model_name"] == "tiny"


async def test_a_node_without_engines_is_healthy_and_says_that_it_serves_nothing() -> None:
    async with miner() as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
        assert (await client.get("/info")).status_code == 404
        assert (await client.get("/nothing")).json()["error"].startswith("there is no such path")


@pytest.mark.parametrize(
    ("failure", "status"), [(EngineFailedError("it died"), 502), (EngineRefusedError("over 512 tokens"), 400)]
)
async def test_an_engine_s_failure_and_its_refusal_are_told_apart(failure: Exception, status: int) -> None:
    async with miner(CannedEngine(failure=failure)) as client:
        reply = await client.post("/api/chat", json={"prompt": "hi"})
    assert reply.status_code == status
    assert str(failure) in reply.json()["error"]


async def test_an_answer_that_breaks_off_is_a_failure_not_an_answer() -> None:
    async with miner(CannedEngine(breaks_off=True)) as client:
        assert (await client.post("/api/chat", json={"prompt": "hi"})).status_code == 502


async def test_a_client_that_goes_away_frees_the_engine() -> None:
    engine = CannedEngine(hangs=True)
    async with miner(engine) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/api/chat", json={"prompt": "hi"}, timeout=0.3)
        with trio.fail_after(10):
            while not engine.aborted:
                await trio.sleep(0.01)


async def test_no_more_answers_are_given_at_once_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_chat, "CHATS_MAX", 1)
    engine = CannedEngine(hangs=True)
    async with miner(engine) as client, trio.open_nursery() as nursery:

        async def occupy() -> None:
            await client.post("/api/chat", json={"prompt": "hi"}, timeout=30)

        nursery.start_soon(occupy)
        with trio.fail_after(10):
            while not engine.asked:
                await trio.sleep(0.01)
        reply = await client.post("/api/chat", json={"prompt": "hi"})
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "5")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "the body"),
        (b"{}", 400, "prompt"),
        (b'{"prompt": ""}', 400, "prompt"),
        (b'{"prompt": 3}', 400, "prompt"),
        (b'{"prompt": "x", "temperature": 9}', 400, "temperature"),
        (b'{"prompt": "x", "temperature": NaN}', 400, "not JSON"),
        (b'{"prompt": "x", "max_tokens": 0}', 400, "max_tokens"),
        (b'{"prompt": "x", "max_tokens": true}', 400, "max_tokens"),
        (b'{"prompt": "x", "stream": true}', 400, "stream: there is no such field"),
        (b" " * (BODY_BYTES_MAX + 1), 413, "over"),
        (b"[" * 200_000, 400, "not JSON"),
    ],
)
async def test_a_body_that_is_not_taken_is_told_by_name(body: bytes, status: int, named: str) -> None:
    engine = CannedEngine()
    async with miner(engine) as client:
        reply = await client.post("/api/chat", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert named in reply.json()["error"]
    assert engine.asked == []


async def test_a_page_in_a_browser_cannot_use_the_engine_with_a_simple_request() -> None:
    async with miner(CannedEngine()) as client:
        reply = await client.post("/api/chat", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert reply.status_code == 415


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("qk_wrong", 401), ("x" * 500, 401), (KEY, 200)])
async def test_a_caller_from_elsewhere_needs_a_key(key: str | None, status: int) -> None:
    chat = LocalChat([CannedEngine()], lambda: [ModelId("tiny")])
    api = MinerApi(chat, NodeFacts("1", lambda: 1, lambda _: None), lambda: 0, lambda given: given == KEY)
    transport = httpx.ASGITransport(app=compose(api.routes(), None), client=("203.0.113.7", 1))
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://miner") as client:
        assert (await client.post("/api/chat", json={"prompt": "hi"}, headers=headers)).status_code == status
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::ffff:8.8.8.8", False),
     ("10.0.0.1", False), ("localhost.evil.example", False), ("", False)],
)  # fmt: skip
def test_only_this_machine_s_own_addresses_are_local(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("host", "free"),
    [("127.0.0.1:8080", True), ("127.0.0.1", True), ("[::1]:8080", True), ("localhost:8080", True), ("LOCALHOST", True),
     ("evil.example:8080", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example", False), ("", False)],
)  # fmt: skip
async def test_a_page_whose_name_leads_here_is_not_local(host: str, free: bool) -> None:
    async with miner(CannedEngine()) as client:
        reply = await client.post("/api/chat", json={"prompt": "hi"}, headers={"Host": host})
        assert (reply.status_code == 200) is free
        keyed = {"Host": host or "miner.example", "Authorization": f"Bearer {KEY}"}
        assert (await client.post("/api/chat", json={"prompt": "hi"}, headers=keyed)).status_code == 200


def test_uptime_is_written_as_the_guide_writes_it() -> None:
    assert uptime_text(8130) == "2h 15m 30s"
    assert uptime_text(0) == "0h 0m 0s"
