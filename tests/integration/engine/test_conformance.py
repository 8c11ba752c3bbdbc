"""`quern conformance` against real vLLM servers: one as the daemon starts it, one as a stranger would; then by URL."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from node.conformance.examine import examine
from node.conformance.findings import Level, Mark, Report
from node.conformance.server import open_server
from node.engine.adapter import EngineNode
from node.engine.endpoint import parse_endpoint
from node.engine.server import run_server
from node.ml_nodes import default_engine_python
from node.ports import ChatMessage, GenerationRequest
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import SamplingParameters
from node.services.local_chat import LocalChat
from tests.builders import model
from tests.integration.engine.shared import TINY_MODEL, SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
STRANGER = ("--enforce-eager", "--max-model-len", "2048", "--no-enable-chunked-prefill", "--max-num-batched-tokens")
"""What somebody starts vLLM with who never heard of Quern; the last wants a number."""


@asynccontextmanager
async def stranger(directory: Path, *more: str) -> AsyncIterator[str]:
    """A vLLM server on TCP; gives its URL once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    command: Sequence[str] = (
        str(default_engine_python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY_MODEL),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), *STRANGER, "2048", *more,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    async with run_server(command, environment, directory / "vllm.log", directory / "vllm.pgid"):
        async with httpx.AsyncClient(trust_env=False) as client:
            with trio.fail_after(200):
                while True:
                    try:
                        if (await client.get(f"{url}/health")).is_success:
                            break
                    except httpx.HTTPError:
                        await trio.sleep(0.5)
        yield url


async def report_on(url: str) -> Report:
    async with open_server(parse_endpoint(url)) as server:
        return await examine(server, "tiny")


async def test_a_stranger_s_vllm_is_told_what_it_lacks_and_then_joins_by_url(tmp_path: Path) -> None:
    async with stranger(tmp_path, "--scheduling-policy", "priority") as url:
        report = await report_on(url)
        found = {check.name: (check.mark, check.message) for check in report.checks}
        wrong = {name: message for name, (mark, message) in found.items() if mark is Mark.WRONG}
        assert wrong == {}
        lacks = {name for name, (mark, _) in found.items() if mark is not Mark.HOLDS}
        assert lacks == {"miner info", "miner chat", "draws"}  # the plug-in that draws is the daemon's
        assert report.level is Level.PROVE
        assert report.server.startswith("vLLM 0.")

        engine = EngineNode(NodeId("remote"), parse_endpoint(url), tmp_path)
        record = replace(model(), model_args=("--max-model-len", "2048"), context_length=2048)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            engine.load(record, TINY_MODEL)
            with trio.fail_after(60):
                await engine.until_ready()
            prompt = await engine.render_chat([ChatMessage("user", "What does Python say about lambda?")])
            request = GenerationRequest(prompt, 8, SamplingParameters(0), 1, (), 0)
            async with engine.generate(request) as chunks:
                tokens = [token async for chunk in chunks for token in chunk.token_ids]
            assert len(tokens) == 8
            (logprobs,) = await engine.prompt_logprobs([[*prompt, *tokens]], priority=10)
            assert len(logprobs) == len(prompt) + 7
            chat = LocalChat([engine], lambda: [ModelId("tiny")])
            answer = await chat.answer(None, "What is lambda?", temperature_milli=0, max_tokens=12)
            assert (answer.model_id, answer.output_tokens <= 12, bool(answer.text)) == ("tiny", True, True)
            nursery.cancel_scope.cancel()


async def test_a_server_as_the_daemon_starts_it_can_do_all_there_is(shared_server: SharedServer) -> None:
    report = await report_on(f"unix:{shared_server.endpoint}")
    lacks = [(check.name, check.message) for check in report.checks if check.mark is not Mark.HOLDS]
    assert [name for name, _ in lacks] == ["miner info", "miner chat"], lacks
    assert report.level is Level.AUDIT
