"""Log-probabilities as columns, on real vLLM: the same numbers as one by one, and texts for who wants them."""

import itertools
from typing import Any

import pytest

from node.engine.client import EngineClient
from node.engine.columns import are_columns, columns_from, read_own_logprobs, read_prefills
from node.engine.transport import Traffic, open_http
from node.protocol.draws import Prefill
from tests.integration.engine.shared import MODEL, SharedServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
PROMPTS = [[5 + 7 * number + place for place in range(40)] for number in range(4)]
TOP = 50


async def test_who_wants_numbers_alone_is_told_the_same_numbers(shared_server: SharedServer) -> None:
    async with open_http(shared_server.endpoint, Traffic()) as http:
        client = EngineClient(http, MODEL.model_id)

        async def told(count: int, **more: object) -> list[Any]:
            body = {"prompt": PROMPTS, "max_tokens": 4, "temperature": 0, "prompt_logprobs": count, **more}
            return list((await client._post("/v1/completions", body))["choices"])

        with_texts = await told(TOP)
        assert all(entry["decoded_token"] for choice in with_texts for entry in choice["prompt_logprobs"][1].values())
        for first in (1, 2, 25, 39):
            columns = await told(TOP, vllm_xargs=columns_from(first))
            assert [choice["text"] for choice in columns] == [choice["text"] for choice in with_texts] != [""] * 4
            for prompt, one, other in zip(PROMPTS, columns, with_texts, strict=True):
                assert are_columns(one["prompt_logprobs"])
                found, wanted = (read_prefills({"choices": [told]}, prompt, first, TOP) for told in (one, other))
                assert len(found) == len(prompt) - first
                for place, expected in zip(found, wanted, strict=True):
                    the_same_candidates(place, expected)
        nonces = await told(0, vllm_xargs=columns_from(1))
        for prompt, one, other in zip(PROMPTS, nonces, with_texts, strict=True):
            found_own, wanted_own = (read_own_logprobs(told["prompt_logprobs"], prompt) for told in (one, other))
            assert found_own == pytest.approx(wanted_own, abs=1e-3)
        (beyond,) = (await told(TOP, vllm_xargs=columns_from(1000)))[:1]  # of nothing
        assert read_prefills({"choices": [beyond]}, PROMPTS[0], len(PROMPTS[0]), TOP) == []


def the_same_candidates(found: Prefill, expected: Prefill) -> None:
    """Numbers of another step differ by rounding; near ties at the end may be told or not."""
    assert found.top_count == expected.top_count == TOP
    both = found.logprobs.keys() & expected.logprobs.keys()
    assert len(both) >= TOP - 2
    for token in both:
        assert found.logprobs[token] == pytest.approx(expected.logprobs[token], abs=1e-3)
    ranked = [found.logprobs[token] for token in found.logprobs][1:]
    assert all(one >= other for one, other in itertools.pairwise(ranked))
