"""Real vLLM servers that fail in each way measured of them: a node survives all of it, and says so.

What needs no real server is in tests/unit/engine: arguments that would split a prefill (test_engine_range), processes
that outlive their daemon (test_leftovers), streams that end with [DONE] after a cut (test_transport).
"""

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from node.engine.adapter import EngineNode
from node.engine.endpoint import Endpoint, parse_endpoint
from node.engine.leftovers import members_of
from node.engine.plugin import DIRECTORY
from node.engine.running import EngineEnvironment
from node.engine.states import NodeState
from node.engine.watchdog import Patience
from node.ml_nodes import default_engine_python
from node.ports import ChatMessage, EngineFailedError, GenerationRequest
from node.protocol.identifiers import NodeId
from node.protocol.sampling import LogitBias, SamplingParameters
from scripts.local_network import free_ports
from tests.builders import model
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
TINY_MODEL = ROOT / ".cache" / "tiny-model"
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
MODEL = replace(model(), model_args=("--max-model-len", "2048"), context_length=2048)
PATIENCE = Patience(quiet_seconds=1, idle_seconds=2, answer_seconds=8, prefill_bytes_per_second=2000)
"""The tiny model answers within milliseconds; on a crowded machine within seconds."""
FOUND_SECONDS_MAX = 60
START_SECONDS_MAX = 240
PROMPT = tuple(range(5, 25))
END = 1
"""The tiny model's token for the end of an answer (scripts/make_tiny_model.py)."""


@asynccontextmanager
async def running(place: EngineEnvironment | Endpoint, directory: Path) -> AsyncIterator[EngineNode]:
    node = EngineNode(NodeId("node-1"), place, directory, patience=PATIENCE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        node.load(MODEL, TINY_MODEL)
        yield node
        nursery.cancel_scope.cancel()


async def ready(node: EngineNode) -> None:
    with trio.fail_after(START_SECONDS_MAX):
        await node.until_ready()


def request(max_tokens: int, *, prompt: tuple[int, ...] = PROMPT, seed: int = 1) -> GenerationRequest:
    return GenerationRequest(prompt, max_tokens, SamplingParameters(1000), seed, (), 0)


async def generate(node: EngineNode, wanted: GenerationRequest) -> list[int]:
    tokens: list[int] = []
    async with node.generate(wanted) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
    return tokens


async def until_it_streams_then(node: EngineNode, strike: Callable[[], None]) -> None:
    """Generate for long, and strike once tokens come; raises what the reader of the stream gets to see.

    The model is kept from ending its answer: on a busy machine a short one is complete before its first token is read.
    Where even a long one is, the next one shows what became of the engine.
    """
    struck = False
    endless = replace(request(1900), sampling=SamplingParameters(1000, logit_bias=(LogitBias(END, -100_000),)))
    while True:
        async with node.generate(endless) as chunks:
            async for _ in chunks:
                if not struck:
                    struck = True
                    strike()


def core_of(group: int) -> int:
    """The process of a server that computes."""
    for pid in members_of(group):
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("the server has no engine core of its own")


@asynccontextmanager
async def server_elsewhere(port: int, log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A vLLM server that somebody else runs: on TCP, with a key, its core in a process of its own."""
    environment = {
        **os.environ,
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_API_KEY": "the-key",
        "PYTHONPATH": str(DIRECTORY),  # its core lives where there are tile registers (docs/operators.md)
    }
    command = [
        str(default_engine_python()), "-m", "vllm.entrypoints.openai.api_server",
        "--host", "127.0.0.1", "--port", str(port), "--model", str(TINY_MODEL), "--served-model-name", MODEL.model_id,
        "--max-model-len", "2048", "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048",
        "--max-num-seqs", "16", "--scheduling-policy", "priority",
    ]  # fmt: skip
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield process
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            if members_of(process.pid):
                os.killpg(process.pid, number)
        await trio.to_thread.run_sync(process.wait)


async def health(port: int) -> int:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/health", timeout=10)).status_code


async def test_a_server_elsewhere_joins_wedges_recovers_and_dies(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    place = parse_endpoint(f"http://127.0.0.1:{port}", "the-key")
    async with server_elsewhere(port, tmp_path / "elsewhere.log") as process, running(place, tmp_path) as node:
        await until(lambda: node.state is NodeState.FAILED, 30)  # it is not there yet
        assert "is the server at" in node.status().remedy
        await ready(node)
        assert node.status().engine.startswith("vllm 0.")
        prompt = await node.render_chat([ChatMessage("user", "What does Python say about lambda?")])
        assert len(await generate(node, request(30, prompt=prompt))) > 0

        # The core is stopped: /health stays good, tokens do not come. Found in bounded time; the server is left alone.
        core = core_of(process.pid)
        with pytest.raises(EngineFailedError):
            with trio.fail_after(FOUND_SECONDS_MAX):
                await until_it_streams_then(node, lambda: os.kill(core, signal.SIGSTOP))
        assert await health(port) == 200
        await until(lambda: "wedged" in node.status().last_error, FOUND_SECONDS_MAX)
        assert node.model_id is None
        os.kill(core, signal.SIGCONT)
        await ready(node)  # by itself

        # The core is killed: the stream ends with an error event and [DONE], the server with status 0.
        with pytest.raises(EngineFailedError):
            with trio.fail_after(FOUND_SECONDS_MAX):
                await until_it_streams_then(node, lambda: os.kill(core, signal.SIGKILL))
        await until(lambda: node.state is NodeState.FAILED, FOUND_SECONDS_MAX)
        await until(lambda: process.poll() is not None, 30)
        assert process.returncode == 0
        assert node.model_id is None
        assert not node.status().given_up


async def test_a_server_of_ours_is_ended_and_started_again_however_it_fails(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    stale = run / "engine-node-1.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(stale))  # as a daemon leaves it that was killed
    async with running(EngineEnvironment(default_engine_python()), tmp_path) as node:
        await until(lambda: node.status().phase not in ("", "starting Python"), START_SECONDS_MAX)  # progress is told
        await ready(node)
        group = int((run / "engine-node-1.pgid").read_text().partition('"group":')[2].partition(",")[0])

        # A seeded request whose prompt fills the model ends an engine that splits its prefill. Ours does not.
        long = tuple(5 + number % 1000 for number in range(2000))
        answers: list[list[int]] = []

        async def ask(seed: int) -> None:
            answers.append(await generate(node, request(8, prompt=long[: 2000 - 100 * seed], seed=seed)))

        async with trio.open_nursery() as nursery:
            for seed in range(6):
                nursery.start_soon(ask, seed)
        assert len(answers) == 6
        assert (node.state, node.restarts) == (NodeState.SERVING, 0)

        # All of it is stopped while it answers: found by the lack of tokens, ended whole, started again.
        def stop() -> None:
            os.killpg(group, signal.SIGSTOP)

        with pytest.raises(EngineFailedError):
            with trio.fail_after(FOUND_SECONDS_MAX):
                await until_it_streams_then(node, stop)
        await until(lambda: node.status().restarts == 1, FOUND_SECONDS_MAX)
        assert members_of(group) == []
        assert "wedged" in node.status().last_error
        await ready(node)

        # The API server is killed: what it leaves is ended (and it comes back, as test_vllm shows).
        group = int((run / "engine-node-1.pgid").read_text().partition('"group":')[2].partition(",")[0])
        victim = max(members_of(group), key=lambda pid: Path(f"/proc/{pid}/statm").read_text().split()[1].rjust(12))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: node.state is NodeState.FAILED, FOUND_SECONDS_MAX)
        assert members_of(group) == []
    assert not stale.exists()
    assert list(run.iterdir()) == []
