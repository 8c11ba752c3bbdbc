"""A server is asked for the rule's winners only if it was found to tell them, and only where one can count."""

import math
import random
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from node.engine.client import EngineClient
from node.engine.columns import read_prefills
from node.engine.drawing import Post
from node.engine.winners import are_winners, finds_winners, winner_fields
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.draws import Drawn, draw
from node.protocol.sampling import SamplingParameters

SIZE = 200
FREE = Drawn(7, SamplingParameters())


def entries_of(prompt: Sequence[int], top: int, drawn: Drawn | None, first: int) -> list[dict[str, Any] | None]:
    """As vLLM tells of a prompt: the token with its true rank, then the likeliest, or the winner for the last."""
    found: list[dict[str, Any] | None] = [None]
    for place, token in list(enumerate(prompt))[1:]:
        source = random.Random(f"{place}/{prompt[:place]}")
        logits = [source.gauss(0, 2) for _ in range(SIZE)]
        total = math.log(math.fsum(math.exp(logit) for logit in logits))
        order = sorted(range(SIZE), key=lambda other: -logits[other])
        columns = [(token, order.index(token) + 1), *((other, at + 1) for at, other in enumerate(order[:top]))]
        if drawn is not None and place >= first:
            columns[-1] = (draw(logits, drawn.seed, place - 1, drawn.parameters), top)
        found.append({str(other): {"logprob": logits[other] - total, "rank": rank} for other, rank in columns})
    return found


def server(*, knows: bool = True, refuses: bool = False, seed_off: int = 0, asked: list[Any] | None = None) -> Post:
    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/completions"
        if asked is not None:
            asked.append(body)
        drawn, first = None, 0
        asks = body.get("vllm_xargs", {})
        if "quern_draw" in asks:
            raise EngineRefusedError("quern_draw is not '1 SEED …'")
        if "quern_winners" in asks:
            if refuses:
                raise EngineRefusedError("extra fields not permitted")
            version, seed, *numbers, first = map(int, asks["quern_winners"].split())
            assert version == 1
            parameters = SamplingParameters(*(numbers[at] for at in (0, 2, 1, 3)))
            drawn = Drawn(seed + seed_off, parameters) if knows else None
        return {"choices": [{"prompt_logprobs": entries_of(body["prompt"], body["prompt_logprobs"], drawn, first)}]}

    return post


async def test_a_server_that_tells_winners_is_found_by_asking() -> None:
    assert await finds_winners(server())
    assert not await finds_winners(server(knows=False))  # it has never heard of the field
    assert not await finds_winners(server(refuses=True))
    assert not await finds_winners(server(seed_off=1))  # of another draw


async def test_an_engine_that_fails_is_not_taken_for_one_without_winners() -> None:
    async def post(path: str, body: dict[str, object]) -> dict[str, Any]:
        raise EngineFailedError("gone")

    with pytest.raises(EngineFailedError):
        await finds_winners(post)


def test_of_what_has_no_winner_nothing_is_believed() -> None:
    prompt = (0,) * 33
    plain = {"choices": [{"prompt_logprobs": entries_of(prompt, 20, None, 1)}]}
    assert not are_winners(read_prefills(plain, prompt, 1, 20))


def test_the_winner_is_the_token_of_the_last_rank_whatever_else_has_it() -> None:
    def read(entry: dict[str, tuple[float, int]]) -> tuple[int | None, dict[int, float]]:
        told = {key: {"logprob": logprob, "rank": rank} for key, (logprob, rank) in entry.items()}
        (found,) = read_prefills({"choices": [{"prompt_logprobs": [None, told]}]}, [5, 1], 1, 2, winners=True)
        assert found.top_count == 2
        return found.winner, dict(found.logprobs)

    far = {"1": (-9.0, 77), "2": (-0.5, 1), "3": (-1.0, 2), "8": (-7.0, 3)}
    assert read(far) == (8, {1: -9.0, 2: -0.5, 3: -1.0, 8: -7.0})
    assert read({"1": (-5.0, 3), "2": (-0.5, 1), "3": (-1.0, 2), "8": (-7.0, 3)})[0] == 8  # its true rank is the same
    assert read({"1": (-9.0, 3), "2": (-0.5, 1), "3": (-1.0, 2)})[0] == 1  # the token itself wins
    assert read({"1": (-9.0, 77), "2": (-0.5, 3), "3": (-1.0, 2)})[0] == 2  # one of the likeliest wins
    for broken in (
        {"1": (-9.0, 77), "2": (-0.5, 1), "3": (-1.0, 2)},
        {"1": (-9.0, 77), "2": (-0.5, 3), "3": (-1.0, 3)},
    ):
        with pytest.raises(EngineFailedError):
            read(broken)


def client_of(post: Post) -> EngineClient:
    client = EngineClient(httpx.AsyncClient(), "tiny")
    client._post = post  # type: ignore[method-assign]
    return client


async def test_winners_are_asked_for_where_they_can_count_and_told_beside_what_is_told_anyway() -> None:
    asked: list[Any] = []
    client = client_of(server(asked=asked))
    assert await client.tells_winners()
    asked.clear()
    prompt = (4, 9, 11, 3, 150)
    (without,) = await client.prefill(prompt, 4, top=50, priority=3)
    (known,) = await client.prefill(prompt, 4, top=50, priority=3, drawn=FREE)
    assert asked[0]["vllm_xargs"] == {"quern_columns": 4}
    assert asked[1] == asked[0] | winner_fields(FREE, 4, 50)
    assert asked[1]["vllm_xargs"] == {"quern_columns": 4, "quern_winners": "1 7 1000 0 1000 0 4"}
    assert (asked[0]["prompt_logprobs"], asked[1]["prompt_logprobs"], asked[1]["priority"]) == (50, 51, 3)
    assert without.winner is None
    assert known.winner is not None
    assert {**without.logprobs, known.winner: known.logprobs[known.winner]} == known.logprobs
    assert known.top_count == without.top_count == 50
    for parameters in (
        SamplingParameters(temperature_milli=0),
        SamplingParameters(top_k=20),
        SamplingParameters(top_p_milli=900),
    ):
        asked.clear()
        await client.prefill(prompt, 4, top=50, priority=3, drawn=Drawn(7, parameters))
        assert "quern_winners" not in asked[0]["vllm_xargs"]


async def test_an_engine_without_winners_is_asked_as_ever() -> None:
    asked: list[Any] = []
    client = client_of(server(knows=False, asked=asked))
    assert not await client.tells_winners()
    asked.clear()
    (found,) = await client.prefill((4, 9, 11), 2, top=50, priority=3, drawn=FREE)
    assert found.winner is None
    assert [("quern_winners" in body["vllm_xargs"], body["prompt_logprobs"]) for body in asked] == [(False, 50)]
