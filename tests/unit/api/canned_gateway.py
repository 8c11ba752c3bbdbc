"""A gateway without a network, and the whole OpenAI API over it on a real socket."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from starlette.applications import Starlette

from node.api.keys import KeyBook
from node.api.openai import make_app
from node.api.openai.gatekeeper import Gatekeeper
from node.api.server import bind_api, serve_api
from node.protocol.identifiers import ModelId, RequestId
from node.protocol.records import ModelRecord
from node.services.attempt import AnswerPart, AnswerSummary
from node.services.embedding import Embeddings
from node.services.embedding_frames import EmbeddingInput
from node.services.gateway import Answer, ChatRequest, GatewayError
from node.services.groups import sole_error
from node.services.outlet import Outlet
from node.store.database import Database
from node.store.key_spending import KeySpending
from tests.builders import model

NOW = 1_800_000_000
TEXTS = ("Stones ", "grind – ", "flour.")
TOKEN_PRICE = 10
PROMPT_TOKENS = 4


class CannedGateway:
    """Stands in for the gateway: answers `texts`, or fails where it is told to."""

    def __init__(self) -> None:
        self.asked: list[ChatRequest] = []
        self.embedded: list[Sequence[EmbeddingInput]] = []
        self.embedded_privately: list[bool] = []
        self.texts: Sequence[str] = TEXTS
        self.parts: Sequence[AnswerPart] | None = None
        """In place of texts, where tokens matter."""
        self.reason = "stop"
        self.fail_at_once: GatewayError | None = None
        self.fail_first: list[GatewayError] = []
        """Failures of the first requests; the ones after them are answered."""
        self.fail_after: GatewayError | None = None
        self.endless = False
        self.given = 0
        """Parts of an endless answer that somebody took."""
        self.silence_seconds = 0.0
        self.pause_seconds = 0.0
        """Before each part."""
        self.left = trio.Event()
        self.running = 0

    def models(self) -> tuple[ModelRecord, ...]:
        return (model(),)

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        self.asked.append(chat)
        if self.fail_first:
            raise self.fail_first.pop(0)
        if self.fail_at_once is not None:
            raise self.fail_at_once
        summary = AnswerSummary(RequestId(len(self.asked).to_bytes(32)), chat.model_id)
        outlet = Outlet(4)
        answer = Answer(summary, outlet)
        self.running += 1
        try:
            with sole_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._produce, outlet, answer)
                    yield answer
                    nursery.cancel_scope.cancel()
        finally:
            self.running -= 1
            self.left.set()

    async def _produce(self, outlet: Outlet, answer: Answer) -> None:
        async def give(part: AnswerPart) -> None:
            await trio.sleep(self.pause_seconds)
            if not outlet.give_now(part):
                await outlet.give(part)

        summary = answer.summary
        try:
            await trio.sleep(self.silence_seconds)
            for part in self.parts or [AnswerPart(text, (1,)) for text in self.texts]:
                await give(part)
                summary.output_tokens += len(part.token_ids)
            while self.endless:
                await give(AnswerPart("on and on " * 100, (2,)))
                self.given += 1
            answer.error = self.fail_after
            summary.finish_reason = self.reason
            summary.prompt_tokens = PROMPT_TOKENS
            summary.price = TOKEN_PRICE * (PROMPT_TOKENS + summary.output_tokens)
        finally:
            outlet.close()

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        self.embedded.append(inputs)
        self.embedded_privately.append(private)
        if self.fail_at_once is not None:
            raise self.fail_at_once
        vector = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"  # 1.0, -2.0
        return Embeddings(model_id, (vector,) * len(inputs), 3 * len(inputs), 3 * len(inputs) * TOKEN_PRICE)


@dataclass
class Wall:
    """A clock on the wall that a test turns."""

    now: int = NOW

    def __call__(self) -> int:
        return self.now


@dataclass
class Face:
    """A served API and its parts."""

    gateway: CannedGateway
    url: str
    database: Database
    spending: KeySpending
    wall: Wall = field(default_factory=Wall)


def make_gatekeeper(keys_file: Path | None, spending: KeySpending, wall: Wall, *, is_open: bool = True) -> Gatekeeper:
    """Let in by the keys of a file; without one, whoever comes."""
    book = KeyBook(keys_file or Path("/nonexistent/keys"))
    return Gatekeeper(book, spending, lambda _: TOKEN_PRICE, is_open=is_open, wall_clock=wall, clock=trio.current_time)


@asynccontextmanager
async def served(
    keys_file: Path | None = None,
    *,
    is_open: bool = True,
    cors_origins: Sequence[str] = (),
    database: Database | None = None,
) -> AsyncIterator[Face]:
    """Serve the API over a canned gateway."""
    gateway, books, wall = CannedGateway(), database or Database(":memory:"), Wall()
    spending = KeySpending(books)
    gatekeeper = make_gatekeeper(keys_file, spending, wall, is_open=is_open)
    app = make_app(gateway, wall, gatekeeper, vectors=gateway, cors_origins=cors_origins)
    async with on_a_socket(app) as url:
        yield Face(gateway, url, books, spending, wall)


@asynccontextmanager
async def on_a_socket(app: Starlette) -> AsyncIterator[str]:
    """Serve an application on a free port of this machine; yields the base URL of OpenAI's clients."""
    listener = bind_api("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_api, app, listener)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        nursery.cancel_scope.cancel()
    listener.close()
