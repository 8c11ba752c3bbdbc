"""Private requests on real vLLM: answered as others are, found in no cache by who guesses, written in no log."""

import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from node.engine.adapter import EngineNode
from node.engine.client import EngineClient
from node.ports import GenerationRequest
from tests.integration.engine.shared import SharedServer
from tests.integration.engine.test_vllm import generate, request

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
PROMPT_TOKENS = 160
"""Ten blocks of vLLM's cache: a hit is seen."""
SEEDS_TRIED_MAX = 40
TEXT_CHARACTERS_MIN = 16


async def cache_hits(client: EngineClient) -> int:
    reply: httpx.Response = await client._client.get("/metrics")
    found = re.search(r"^vllm:prefix_cache_hits_total\{.*\} ([0-9.e+]+)$", reply.text, re.MULTILINE)
    assert found is not None
    return round(float(found[1]))


async def with_an_answer_to_look_for(engine: EngineNode, private: GenerationRequest) -> GenerationRequest:
    """The request with a seed whose answer is too long to be in a log by chance, whatever the model's weights are."""
    for seed in range(SEEDS_TRIED_MAX):
        drawn = replace(private, seed=seed)
        if len((await generate(engine, drawn))[1]) >= TEXT_CHARACTERS_MIN:
            return drawn
    raise AssertionError(f"no answer of {TEXT_CHARACTERS_MIN} characters with {SEEDS_TRIED_MAX} seeds")


async def test_a_private_prompt_is_answered_alike_and_left_in_no_cache_and_no_log(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    async with shared_server.joined(tmp_path) as engine:
        client = engine._ready_client()
        before = await cache_hits(client)
        prompt_ids = await engine.tokenize("a quern grinds and turns " * 40)
        public = request(prompt_ids[:PROMPT_TOKENS], 8)
        hidden = request(tuple(reversed(prompt_ids))[:PROMPT_TOKENS], 24)
        private = await with_an_answer_to_look_for(engine, replace(hidden, private=True))
        once, again = await generate(engine, public), await generate(engine, public)
        assert once == again
        seen = await cache_hits(client)
        assert seen > before, "else this test looks for nothing"
        first = await generate(engine, private)
        guessed = await generate(engine, replace(private, private=False))
        repeated = await generate(engine, private)
        assert first == guessed == repeated, "privacy changes no token"
        assert await cache_hits(client) == seen, "who guesses is not answered faster"
        logs = "".join(
            path.read_text(errors="replace")
            for place in (tmp_path, shared_server.log_path.parent)
            for path in place.rglob("*.log*")
        )
        assert logs, "else this test looks for nothing"
        assert str(list(private.prompt_ids[:8]))[1:-1] not in logs
        assert first[1] not in logs
