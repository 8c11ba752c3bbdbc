"""ML nodes as services see them that use an engine directly: every use goes through the broker, so its load is true."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from node.ports import (
    CallFailedError,
    ChatMessage,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
    Prefiller,
    RuleFollower,
)
from node.protocol.draws import Drawn, Prefill
from node.protocol.identifiers import ModelId, NodeId
from node.services.broker import Broker
from node.services.portions import PORTION_SECONDS, Portion

OWN = "own"
"""Whose requests these are, for the line's fairness: this node's own duties, together one payer among others."""


class BrokeredEngine:
    """`node.ports.Engine`: one ML node. Background work waits for its turn; the rest is as the engine's own."""

    def __init__(self, engine: Engine, broker: Broker) -> None:
        self._engine = engine
        self._broker = broker
        self._portion = Portion()
        self._portion_model: ModelId | None = None
        """What the portions were learned with: of another model nothing is known."""

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""
        return self._engine.node_id

    @property
    def model_id(self) -> ModelId | None:
        """The model that is ready, or None."""
        return self._engine.model_id

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""
        return self._engine.vocabulary_size

    @property
    def draws_by_rule(self) -> bool:
        """Whether its tokens are those of the network's rule."""
        return not isinstance(self._engine, RuleFollower) or self._engine.draws_by_rule

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the chat template and tokenize."""
        return await self._engine.render_chat(messages, tools)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokenize a text as a prompt."""
        return await self._engine.tokenize(text)

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        """Generate, on whichever node has the model and suits best. A refusal of the broker's is a failed engine."""
        model_id = self.model_id
        if model_id is None:
            raise EngineFailedError(f"{self.node_id} has no model ready")
        try:
            async with self._broker.lease(
                model_id, payer=OWN, prompt_ids=request.prompt_ids, max_tokens=request.max_tokens
            ) as lease:

                async def counted(chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
                    async for chunk in chunks:
                        lease.produced(len(chunk.token_ids))
                        yield chunk

                async with lease.engine.generate(request) as chunks:
                    yield counted(chunks)
        except CallFailedError as error:
            raise EngineFailedError(str(error)) from error

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """Log-probabilities of the prompts' tokens, as background work: all at once, or in portions beside users.

        Portions bound what users lose by it, so that for those who wait in line it stands back for one portion's time,
        before the first: a line may last as long as GENERATE does.
        """
        rows: list[list[float]] = []
        while len(rows) < len(prompts):
            patience_seconds = 0.0 if rows else PORTION_SECONDS
            async with self._broker.lease_background(self.node_id, patience_seconds=patience_seconds) as engine:
                left = prompts[len(rows) :]
                if not self._broker.serves_users(self.node_id):
                    return rows + await engine.prompt_logprobs(left, priority=priority)
                if self._portion_model != engine.model_id:
                    self._portion, self._portion_model = Portion(), engine.model_id
                portion = left[: self._portion.next_prompts]
                began = trio.current_time()
                rows += await engine.prompt_logprobs(portion, priority=priority)
                self._portion.took(len(portion), trio.current_time() - began)
        return rows

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """What the model says of tokens that somebody claims, as background work."""
        async with self._broker.lease_background(self.node_id) as engine:
            if not isinstance(engine, Prefiller):
                raise EngineRefusedError(f"{self.node_id} cannot check tokens of others")
            return await engine.prefill(token_ids, first, top=top, priority=priority, drawn=drawn)

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Vectors of the prompts, as background work."""
        async with self._broker.lease_background(self.node_id) as engine:
            return await engine.embed(prompts, priority=priority)


def brokered(engines: Sequence[Engine], broker: Broker) -> list[BrokeredEngine]:
    """Return `engines` as services other than the executor are to use them."""
    return [BrokeredEngine(engine, broker) for engine in engines]
