"""The engine port on real vLLM with the tiny model: what it says is deterministic, what dies comes back."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.engine.adapter import EngineNode
from node.engine.running import EngineEnvironment
from node.engine.states import NodeState
from node.ml_nodes import default_engine_python
from node.models.validation import validate_model
from node.ports import ChatMessage, EngineFailedError, EngineRefusedError, GenerationRequest
from node.protocol.identifiers import Hash32, NodeId
from node.protocol.nonces import nonce_prompt, quantise, squared_distance
from node.protocol.sampling import SamplingParameters
from node.protocol.tails import TAIL_DIFFERENCE_MAX, judge_tails
from node.protocol.verdicts import Verdict
from node.services.recomputing import recompute
from tests.builders import account
from tests.integration.engine.shared import MODEL, TINY_MODEL

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]


@asynccontextmanager
async def ready_engine(directory: Path) -> AsyncIterator[EngineNode]:
    engine = EngineNode(NodeId("node-1"), EngineEnvironment(default_engine_python()), directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        engine.load(MODEL, TINY_MODEL)
        with trio.fail_after(200):
            await engine.until_ready()
        yield engine
        nursery.cancel_scope.cancel()


def request(prompt_ids: tuple[int, ...], max_tokens: int, seed: int = 1) -> GenerationRequest:
    return GenerationRequest(prompt_ids, max_tokens, SamplingParameters(700), seed, (), 0)


async def generate(engine: EngineNode, wanted: GenerationRequest) -> tuple[list[int], str, str]:
    tokens: list[int] = []
    text, reason = "", ""
    async with engine.generate(wanted) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
            text += chunk.text
            reason = chunk.finish_reason or reason
    return tokens, text, reason


async def logprob_vectors(engine: EngineNode, count: int, batch: int) -> list[bytes]:
    prompts = [
        nonce_prompt(Hash32(bytes(32)), account(1), NodeId("n"), nonce, engine.vocabulary_size)
        for nonce in range(count)
    ]
    vectors: list[bytes] = []
    for start in range(0, count, batch):
        answers = await engine.prompt_logprobs(prompts[start : start + batch], priority=10)
        vectors += [quantise(answer) for answer in answers]
    return vectors


async def tails_leave_the_nonces_as_they_were(engine: EngineNode, vectors: list[bytes]) -> None:
    """A validator's own continuation changes nothing before it, and says the same whoever computes it."""
    seed, key = Hash32(bytes(32)), (account(1), NodeId("n"))
    nonces = range(len(vectors))
    one = await recompute(engine, MODEL, key, nonces, seed, Hash32(b"s" * 32), account(2))
    assert max(squared_distance(*pair) for pair in zip(vectors, one.vectors, strict=True)) <= MODEL.poc_distance_max
    again = [(await recompute(engine, MODEL, key, [n], seed, Hash32(b"s" * 32), account(2))).tails[0] for n in nonces]
    assert max(abs(a - b) for a, b in zip(one.tails, again, strict=True)) <= TAIL_DIFFERENCE_MAX
    other = (await recompute(engine, MODEL, key, nonces, seed, Hash32(b"s" * 32), account(3))).tails
    # those of somebody else
    assert judge_tails(account(2), MODEL.model_id, other, one.tails).verdict is Verdict.INVALID


def test_the_tiny_model_may_be_published() -> None:
    assert validate_model(TINY_MODEL).context_length == 2048


async def test_an_engine_serves_proves_and_comes_back(tmp_path: Path) -> None:
    others = server_pids(os.getpid())  # the one that other tests share
    async with ready_engine(tmp_path) as engine:
        prompt = await engine.render_chat([ChatMessage("user", "What does Python say about lambda?")])
        assert all(0 <= token < engine.vocabulary_size for token in prompt)

        tokens, text, reason = await generate(engine, request(prompt, 40))
        assert text
        assert reason in ("stop", "length")
        assert (await generate(engine, request(prompt, 40)))[0] == tokens  # a seed fixes the answer

        with pytest.raises(EngineRefusedError):
            await generate(engine, request(prompt, 1_000_000))

        async with engine.generate(request(prompt, 2000, seed=3)) as chunks:  # left early: aborted
            async for _ in chunks:
                break

        singly = await logprob_vectors(engine, 16, 1)
        together = await logprob_vectors(engine, 16, 16)
        assert max(squared_distance(*pair) for pair in zip(singly, together, strict=True)) <= MODEL.poc_distance_max
        await tails_leave_the_nonces_as_they_were(engine, together)

        (pid,) = set(server_pids(os.getpid())) - set(others)
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        with trio.fail_after(20):
            while engine.state is NodeState.SERVING:
                await trio.sleep(0.1)
        with pytest.raises(EngineFailedError):
            await engine.render_chat([ChatMessage("user", "hello")])
        with trio.fail_after(200):
            await engine.until_ready()
        again = await logprob_vectors(engine, 16, 16)
        assert max(squared_distance(*pair) for pair in zip(together, again, strict=True)) <= MODEL.poc_distance_max
    assert set(server_pids(os.getpid())) <= set(others)


def server_pids(parent: int) -> list[int]:
    """Launchers that this process started and that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(status[1]) == parent and status[0] != "Z" and b"launcher.py" in command:
                found.append(int(entry.name))
    return found


async def test_an_engine_that_cannot_start_says_so_and_is_tried_again(tmp_path: Path) -> None:
    engine = EngineNode(NodeId("node-1"), EngineEnvironment(default_engine_python()), tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        engine.load(MODEL, tmp_path / "absent")
        with trio.fail_after(120):
            while engine.state is not NodeState.FAILED:
                await trio.sleep(0.1)
        engine.unload()
        assert engine.model_id is None
        nursery.cancel_scope.cancel()
