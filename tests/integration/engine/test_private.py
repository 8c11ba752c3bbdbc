"""Private requests on real vLLM: answered as others are, found in no cache by who guesses, written in no log."""

import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from node.engine.client import EngineClient
from tests.integration.engine.shared import SharedServer
from tests.integration.engine.test_vllm import generate, request

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
PROMPT_TOKENS = 160
"""Ten blocks of vLLM's cache: a hit is seen."""


async def cache_hits(client: EngineClient) -> int:
    reply: httpx.Response = await client._client.get("/metrics")
    found = re.search(r"^vllm:prefix_cache_hits_total\{.*\} ([0-9.e+]+)$", reply.text, re.MULTILINE)
    assert found is not None
    return round(float(found[1]))


async def test_a_private_prompt_is_answered_alike_and_left_in_no_cache_and_no_log(
    shared_server: SharedServer, tmp_path: Path
) -> None:
    async with shared_server.joined(tmp_path) as engine:
        client = engine._ready_client()
        before = await cache_hits(client)
        prompt_ids = await engine.tokenize("a quern grinds and turns " * 40)
        public = request(prompt_ids[:PROMPT_TOKENS], 8)
        private = replace(request(tuple(reversed(prompt_ids))[:PROMPT_TOKENS], 8), private=True)
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
