"""Nonces through the daemon's mining against the same prompts in offline vLLM, in turns in one run.

`python -m benchmarks.nonces [MODEL_DIRECTORY]`: the daemon's side is MiningService with the engine's server over its
socket, prompts and quantised vectors included, as an epoch has it, without chain and network. Both engines are
loaded at once and work in turns, 512 nonces each; the best of each and the processor time of both ends are printed.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import trio

from benchmarks import offline_nonces
from benchmarks.engine_server import model_directory, open_server
from benchmarks.sampling import processor_seconds
from node.engine.arguments import server_environment
from node.engine.client import EngineClient
from node.engine.identity import read_vocabulary_size
from node.ml_nodes import default_engine_python
from node.ports import Chain, Engine, Head
from node.protocol.identifiers import Address, BlockNumber, Hash32, ModelId, NodeId
from node.protocol.nonces import nonce_prompt
from node.services.mining import Batch, MiningService

NONCES = 512
ROUNDS = 4
CONTEXT_TOKENS = 512
MODEL = ModelId("measured")
ACCOUNT = Address("0x" + "11" * 20)
NODE = NodeId("node-1")


class StillChain:
    """A chain on which no block comes while nonces are computed."""

    account = ACCOUNT
    head = Head(BlockNumber(0), BlockNumber(0))

    async def heads(self) -> AsyncIterator[Head]:
        """Yield the head, and no other."""
        yield self.head
        await trio.sleep_forever()


@dataclass(frozen=True, slots=True)
class MinedEngine:
    """What mining needs of an ML node, straight at a server."""

    client: EngineClient
    vocabulary_size: int
    node_id: NodeId = NODE
    model_id: ModelId = MODEL

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """As node.ports.Engine has it."""
        return await self.client.prompt_logprobs(prompts, priority=priority)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one nonce, in seconds."""

    wall: float
    processor: float


async def mined(engine: MinedEngine, seed: Hash32, group: int) -> Cost:
    """Compute NONCES as an epoch does."""
    nobody: Any = None
    service = MiningService(cast(Chain, StillChain()), nobody, cast(Engine, engine), nobody, nonces_max=NONCES)
    own = time.process_time()
    started, used = trio.current_time(), processor_seconds(group)
    batch = Batch()
    await service._compute(batch, seed, MODEL, BlockNumber(1))
    if batch.count != NONCES:
        raise RuntimeError(f"{batch.count} of {NONCES} nonces were computed")
    spent = processor_seconds(group) - used + time.process_time() - own
    return Cost((trio.current_time() - started) / NONCES, spent / NONCES)


class Offline:
    """A process with vLLM alone."""

    def __init__(self, process: trio.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._rest = b""

    async def until_ready(self) -> None:
        """Wait until the model is loaded."""
        await self._line()

    async def compute(self, prompts: Sequence[Sequence[int]]) -> Cost:
        """Compute log-probabilities of prompts."""
        file = self._directory / "prompts.json"
        file.write_text(json.dumps(prompts))
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        await self._process.stdin.send_all(f"{file}\n".encode())
        wall, processor = json.loads(await self._line())
        return Cost(wall / len(prompts), processor / len(prompts))

    async def _line(self) -> str:
        mark = offline_nonces.MARK.encode()
        assert self._process.stdout is not None  # noqa: S101
        while True:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                if line.startswith(mark):
                    return line.removeprefix(mark).decode()
                continue
            data = await self._process.stdout.receive_some()
            if not data:
                raise RuntimeError("offline vLLM ended")
            self._rest += data


@asynccontextmanager
async def run_offline(model: Path, directory: Path) -> AsyncIterator[Offline]:
    """Start vLLM alone, with what the server has."""
    options = {
        "max_model_len": CONTEXT_TOKENS,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 64,
        "enforce_eager": True,
        "enable_chunked_prefill": False,
    }
    process = await trio.lowlevel.open_process(
        [str(default_engine_python()), offline_nonces.__file__, str(model), json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **server_environment(on_cpu=True, kv_cache_gib=1)},
    )
    try:
        yield Offline(process, directory)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def measure(engine: MinedEngine, group: int, offline: Offline) -> None:
    """Print both rates and their ratio."""
    ours: list[Cost] = []
    theirs: list[Cost] = []
    for number in range(ROUNDS + 1):
        seed = Hash32(bytes([number]) * 32)  # prompts are new in each round: nothing is in a cache
        prompts = [nonce_prompt(seed, ACCOUNT, NODE, nonce, engine.vocabulary_size) for nonce in range(NONCES)]
        through, alone = await mined(engine, seed, group), await offline.compute(prompts)
        if number:  # the first round warms up
            ours.append(through)
            theirs.append(alone)
    for name, costs in (("through the daemon's mining", ours), ("offline vLLM", theirs)):
        wall, processor = min(c.wall for c in costs), min(c.processor for c in costs)
        print(f"{name:28} {1 / wall:6.0f} nonces/s, {processor * 1e3:5.2f} ms of processor a nonce")
    wall_ratio = min(c.wall for c in theirs) / min(c.wall for c in ours)
    processor_ratio = min(c.processor for c in theirs) / min(c.processor for c in ours)
    print(f"ratio of rates {wall_ratio:.2f}, by processor time {processor_ratio:.2f}")


async def main() -> None:
    """Start both and measure."""
    model = model_directory()
    with tempfile.TemporaryDirectory() as directory:
        async with (
            run_offline(model, Path(directory)) as offline,  # both load at the same time
            open_server(model, MODEL, CONTEXT_TOKENS) as server,
        ):
            await offline.until_ready()
            engine = MinedEngine(EngineClient(server.http, MODEL), read_vocabulary_size(model))
            await measure(engine, server.group, offline)


if __name__ == "__main__":
    trio.run(main)
