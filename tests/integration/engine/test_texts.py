"""Log-probabilities without the texts of tokens, on real vLLM: the same numbers, and texts for who wants them."""

from typing import Any

import pytest

from node.engine.client import EngineClient
from node.engine.drawing import WITHOUT_TEXTS
from node.engine.transport import Traffic, open_http
from tests.integration.engine.shared import MODEL, SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
PROMPTS = [[5 + 7 * number + place for place in range(40)] for number in range(4)]


async def test_who_wants_numbers_alone_is_told_the_same_numbers(shared_server: SharedServer) -> None:
    async with open_http(shared_server.endpoint, Traffic()) as http:
        client = EngineClient(http, MODEL.model_id)

        async def told(**more: object) -> list[Any]:
            body = {"prompt": PROMPTS, "max_tokens": 4, "temperature": 0, "prompt_logprobs": 3, **more}
            return list((await client._post("/v1/completions", body))["choices"])

        with_texts, without = await told(), await told(vllm_xargs=WITHOUT_TEXTS)
        assert all(entry["decoded_token"] for entry in entries_of(with_texts))
        assert [entry["decoded_token"] for entry in entries_of(without)] == [None] * len(entries_of(with_texts))
        assert [(entry["logprob"], entry["rank"]) for entry in entries_of(without)] == [
            (pytest.approx(entry["logprob"], abs=1e-3), entry["rank"]) for entry in entries_of(with_texts)
        ]
        assert [choice["text"] for choice in without] == [choice["text"] for choice in with_texts] != [""] * 4


def entries_of(choices: list[Any]) -> list[Any]:
    """All entries of all places, by token: ranks of near ties may swap, but not here."""
    return [
        entry for choice in choices for place in choice["prompt_logprobs"][1:] for _, entry in sorted(place.items())
    ]
