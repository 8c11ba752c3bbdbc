"""Answers of real vLLM that are cut and taken up again: the same tokens and text, wherever the cut was."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.engine.adapter import EngineNode
from node.ports import EngineFailedError, GenerationChunk, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import SamplingParameters
from node.services.broker import Broker
from node.services.brokered import BrokeredEngine
from node.services.generation import Generation
from node.services.groups import sole_error
from tests.integration.engine.shared import SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
TOKENS = 60


class PartOfANode(BrokeredEngine):
    """A real engine under another name, which dies after some tokens if it is told to."""

    name = NodeId("node-1")
    dies_after: int | None = None

    @property
    def node_id(self) -> NodeId:
        return self.name

    @asynccontextmanager
    async def generate(self, request: GenerationRequest) -> AsyncIterator[AsyncIterator[GenerationChunk]]:
        async with self._engine.generate(request) as chunks:
            yield self._cut(chunks)

    async def _cut(self, chunks: AsyncIterator[GenerationChunk]) -> AsyncIterator[GenerationChunk]:
        given = 0
        async for chunk in chunks:
            if self.dies_after is not None and given >= self.dies_after:
                raise EngineFailedError("told to die")
            given += len(chunk.token_ids)
            yield chunk


def broker_of(engine: EngineNode, dies_after: int | None) -> Broker:
    first, second = PartOfANode(engine, Broker([])), PartOfANode(engine, Broker([]))
    first.dies_after, second.name = dies_after, NodeId("node-2")
    return Broker([first, second])


async def read(
    broker: Broker, model_id: ModelId, request: GenerationRequest, *, ahead: int = 1000, pause: float = 0
) -> tuple[list[int], str, Generation]:
    generation = Generation(broker, model_id, "payer", request, ahead_tokens_max=ahead)
    tokens: list[int] = []
    text = ""
    with sole_error():
        async with trio.open_nursery() as nursery:
            await nursery.start(generation.run)
            generation.begin()
            while True:
                piece = await generation.next_piece(8)
                tokens += piece.token_ids
                text += piece.text
                if piece.finish_reason is not None:
                    return tokens, text, generation
                await trio.sleep(pause)
    raise AssertionError("the nursery was left early")


async def test_a_cut_answer_is_the_undisturbed_one(shared_server: SharedServer, tmp_path: Path) -> None:
    async with shared_server.joined(tmp_path) as engine:
        assert engine.model_id is not None
        prompts = [await engine.tokenize(text) for text in ("def greet(name):", 'print("über 漢字 🌾')]
        draws = [SamplingParameters(temperature_milli=2000), SamplingParameters(700), SamplingParameters(0)]
        requests = [
            GenerationRequest(prompt, TOKENS, draw, 11, (), 0)
            for prompt, draw in zip((prompts[1], *prompts), draws, strict=True)
        ]
        for request in requests:
            tokens, text, _ = await read(broker_of(engine, None), engine.model_id, request)
            for dies_after in (1, 7, 20, 33):
                if dies_after >= len(tokens):
                    continue
                again = await read(broker_of(engine, dies_after), engine.model_id, request)
                assert again[:2] == (tokens, text)
                assert again[2].node_ids == ["node-1", "node-2"]
            paused = await read(broker_of(engine, None), engine.model_id, request, ahead=12, pause=0.05)
            assert paused[:2] == (tokens, text)

        # What must be made again from its beginning: a stop text, a penalty.
        tokens, text, _ = await read(broker_of(engine, None), engine.model_id, requests[1])
        stop = text[len(text) // 2 :][:4]
        for request in (
            replace(requests[1], stop=(stop,)),
            replace(requests[1], sampling=SamplingParameters(700, presence_penalty_milli=500)),
        ):
            whole = await read(broker_of(engine, None), engine.model_id, request)
            assert (await read(broker_of(engine, 5), engine.model_id, request))[:2] == whole[:2]
