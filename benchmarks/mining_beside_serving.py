"""What users feel of mining: python -m benchmarks.mining_beside_serving [MODEL_DIRECTORY]

One vLLM server as the daemon starts it. Users stream answers one after the other, each anew, with and without
MiningService beside them, in turns in one run. Printed are users' tokens a second, the time to the first token and the
gaps between tokens, and how many nonces are mined beside users and alone. Mining has a lower priority: a step that has
begun is finished, and users' requests are in the next one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, cast

import trio

from benchmarks.engine_server import model_directory, open_server
from benchmarks.nonces import CONTEXT_TOKENS, MODEL, MinedEngine, StillChain
from node.engine.client import EngineClient
from node.engine.identity import read_vocabulary_size
from node.ports import Chain, Engine, GenerationChunk, GenerationRequest
from node.protocol.identifiers import BlockNumber, Hash32
from node.protocol.sampling import SamplingParameters
from node.services.broker import Broker
from node.services.brokered import BrokeredEngine
from node.services.mining import Batch, MiningService

USERS = (1, 8)
ROUNDS = 3
ROUND_SECONDS = 8.0
ANSWER_TOKENS = 100
PROMPT_TOKENS = 60
NONCES_MAX = 1_000_000
"""More than are mined in a round."""


class ServingEngine(MinedEngine):
    """An ML node that answers as well."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """As node.ports.Engine has it."""
        return self.client.generate(request)


@dataclass(slots=True)
class Felt:
    """What users felt, in seconds."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    nonces: int = 0


async def ask(engine: Engine, number: int, felt: Felt) -> None:
    """Stream one answer; each number has a prompt of its own, which no cache knows."""
    prompt = tuple(5 + (number * 7919 + place * 31) % 1000 for place in range(PROMPT_TOKENS))
    request = GenerationRequest(prompt, ANSWER_TOKENS, SamplingParameters(700), number, (), 0)
    last = began = trio.current_time()
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            now = trio.current_time()
            (felt.gaps if last > began else felt.first).append(now - last)
            felt.tokens += len(chunk.token_ids)
            last = now


async def feel(engine: Engine, seed: int, users: int, felt: Felt, *, mining: bool) -> None:
    """Add a round to what is felt."""
    nobody: Any = None
    service = MiningService(cast(Chain, StillChain()), nobody, engine, nobody, nonces_max=NONCES_MAX)

    async def stream(user: int) -> None:
        number = seed * 1_000_000 + user * 10_000
        while True:
            await ask(engine, number, felt)
            number += 1

    async with trio.open_nursery() as nursery:
        for user in range(users):
            nursery.start_soon(stream, user)
        if mining:
            nursery.start_soon(service._compute, Batch(), Hash32(seed.to_bytes(32)), MODEL, BlockNumber(1))
        await trio.sleep(ROUND_SECONDS)
        nursery.cancel_scope.cancel()
    felt.seconds += ROUND_SECONDS
    felt.nonces += service.progress.nonces


def told(name: str, felt: Felt) -> str:
    """Return a line about what was felt."""
    nonces = f", {felt.nonces / felt.seconds:5.0f} nonces/s" if felt.nonces else ""
    if not felt.tokens:
        return f"{name:24}{nonces.lstrip(',')}"
    return (
        f"{name:24} {felt.tokens / felt.seconds:6.0f} tokens/s, first token {_milliseconds(felt.first)}, "
        f"gap {_milliseconds(felt.gaps)}{nonces}"
    )


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{median(seconds) * 1e3:5.1f} ms (p95 {quantiles(seconds, n=20)[-1] * 1e3:5.1f})"


async def measure(engine: Engine) -> None:
    """Print all lines."""
    seed = 1
    alone = Felt()
    for users in USERS:
        without, beside = Felt(), Felt()
        await feel(engine, seed, users, Felt(), mining=True)  # warms up
        for _ in range(ROUNDS):
            for felt, mining in ((without, False), (beside, True)):
                seed += 1
                await feel(engine, seed, users, felt, mining=mining)
        print(told(f"{users} users", without), flush=True)
        print(told(f"{users} users and mining", beside), flush=True)
    for _ in range(ROUNDS):
        seed += 1
        await feel(engine, seed, 0, alone, mining=True)
    print(told("mining alone", alone), flush=True)


async def main() -> None:
    """Start the server and measure."""
    model = model_directory()
    async with open_server(model, MODEL, CONTEXT_TOKENS) as server:
        client = EngineClient(server.http, MODEL)
        await client.prepare()
        engine = cast(Engine, ServingEngine(client, read_vocabulary_size(model)))
        await measure(BrokeredEngine(engine, Broker([engine], {engine.node_id: max(USERS)})))


if __name__ == "__main__":
    trio.run(main)
