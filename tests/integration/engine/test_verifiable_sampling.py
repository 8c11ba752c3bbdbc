"""Draws on real vLLM: the plug-in follows the rule token by token, alone and in any company, and deceives no check."""

import json
import math
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.engine.adapter import EngineNode
from node.engine.arguments import server_command, server_environment
from node.engine.client import EngineClient
from node.engine.drawing import DrawStyle, _draws_by_rule
from node.engine.endpoint import local_endpoint
from node.engine.plugin import DIRECTORY
from node.engine.server import run_server, socket_path
from node.engine.transport import Traffic, open_http
from node.ml_nodes import default_engine_python
from node.ports import EngineRefusedError, GenerationRequest
from node.protocol.draws import draw, token_margins
from node.protocol.sampling import LogitBias, SamplingParameters
from tests.integration.engine.shared import TINY_MODEL, SharedServer
from tests.statistics import EXPECTED_MIN, chi_square, chi_square_limit
from tests.vectors import sampling as vectors

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]
EXACT = 2e-3
"""Logits in bfloat16 and single precision: the check's arithmetic differs from the engine's by no more."""
PARAMETERS = (
    SamplingParameters(temperature_milli=0),
    SamplingParameters(),
    SamplingParameters(temperature_milli=700),
    SamplingParameters(temperature_milli=5),
    SamplingParameters(temperature_milli=1300, top_k=20),
    SamplingParameters(top_p_milli=800),
    SamplingParameters(min_p_milli=50),
    SamplingParameters(temperature_milli=900, top_k=40, top_p_milli=900, min_p_milli=10),
)
TOP = 50
PROMPTS_TRIED_MAX = 200


def prompt(number: int, length: int = 12) -> tuple[int, ...]:
    source = random.Random(number)
    return tuple(source.randrange(3, 2000) for _ in range(length))


def request(number: int, parameters: SamplingParameters, max_tokens: int = 40, **more: object) -> GenerationRequest:
    wanted = GenerationRequest(prompt(number), max_tokens, parameters, 1_000_003 * number, (), 0)
    return replace(wanted, **more)  # type: ignore[arg-type]


async def tokens_of(engine: EngineNode | EngineClient, wanted: GenerationRequest) -> tuple[int, ...]:
    tokens: list[int] = []
    async with engine.generate(wanted) as chunks:
        async for chunk in chunks:
            tokens.extend(chunk.token_ids)
    return tuple(tokens)


async def together(engine: EngineNode | EngineClient, requests: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
    answers: list[tuple[int, ...]] = [()] * len(requests)

    async def ask(index: int) -> None:
        answers[index] = await tokens_of(engine, requests[index])

    async with trio.open_nursery() as nursery:
        for index in range(len(requests)):
            nursery.start_soon(ask, index)
    return answers


async def margins_of(
    engine: EngineNode, wanted: GenerationRequest, tokens: tuple[int, ...], **claimed: object
) -> list[float]:
    """Check an answer as anybody with the model would, perhaps believing other parameters or another seed."""
    whole = (*wanted.prompt_ids, *tokens)
    prefills = await engine.prefill(whole, len(wanted.prompt_ids), top=TOP, priority=10)
    said = replace(wanted, **claimed)  # type: ignore[arg-type]
    return token_margins(len(wanted.prompt_ids), tokens, prefills, said.seed, said.sampling, engine.vocabulary_size)


async def test_the_engine_draws_by_the_rule_whatever_else_it_does(shared_server: SharedServer, tmp_path: Path) -> None:
    requests = [request(number, parameters) for number in range(1, 7) for parameters in PARAMETERS]
    async with shared_server.joined(tmp_path) as engine:
        client = engine._ready_client()
        assert await client.draw_style() is DrawStyle.PLUGIN
        assert not await _draws_by_rule(client._post)  # the V1 runner's own sampler has other noise

        singly = [await tokens_of(engine, wanted) for wanted in requests]
        await every_token_is_the_rule_s_choice(engine, requests, singly)
        await company_does_not_matter(engine, requests, singly)
        await wrong_claims_are_found(engine, requests, singly)
        await draws_have_the_model_s_distribution(engine)
        await log_probabilities_are_told(engine)
        await what_is_malformed_is_refused(engine)


async def every_token_is_the_rule_s_choice(
    engine: EngineNode, requests: list[GenerationRequest], answers: list[tuple[int, ...]]
) -> None:
    for wanted, tokens in zip(requests, answers, strict=True):
        assert max(await margins_of(engine, wanted, tokens)) <= EXACT, wanted.sampling
    assert len(set(answers)) > len(answers) // 2  # greedy ones apart, answers differ


async def company_does_not_matter(
    engine: EngineNode, requests: list[GenerationRequest], answers: list[tuple[int, ...]]
) -> None:
    assert await together(engine, requests) == answers
    # In a batch with requests of vLLM's own sampler, which come and go, in another order.
    others = [
        request(100 + number, SamplingParameters(presence_penalty_milli=500), 5 + 3 * number) for number in range(12)
    ]
    mixed = [*others[:6], *reversed(requests), *others[6:]]
    got = await together(engine, mixed)
    assert list(reversed(got[6:-6])) == answers


async def wrong_claims_are_found(
    engine: EngineNode, requests: list[GenerationRequest], answers: list[tuple[int, ...]]
) -> None:
    """Another seed, another temperature, greedy instead: on 6 answers of 40 tokens each."""
    drawn = [pair for pair in zip(requests, answers, strict=True) if pair[0].sampling == SamplingParameters()]

    async def share_off(**claimed: object) -> float:
        margins = [margin for pair in drawn for margin in await margins_of(engine, *pair, **claimed)]
        return sum(margin > 0.05 for margin in margins) / len(margins)

    assert await share_off() == 0
    assert await share_off(seed=1) > 0.2
    assert await share_off(sampling=SamplingParameters(temperature_milli=500)) > 0.05
    assert await share_off(sampling=SamplingParameters(temperature_milli=0)) > 0.2


async def number_of_a_prompt_with_many_answers(engine: EngineNode, draws: int) -> int:
    """After which many tokens are likely enough to be counted: each machine trains a model with other weights."""
    for number in range(1, PROMPTS_TRIED_MAX):
        whole = (*prompt(number), 5)
        (prefill,) = await engine.prefill(whole, len(whole) - 1, top=TOP, priority=10)
        likely = [draws * math.exp(logprob) >= 2 * EXPECTED_MIN for logprob in prefill.logprobs.values()]
        if sum(likely) >= 7:
            return number
    raise AssertionError(f"none of {PROMPTS_TRIED_MAX} prompts leaves the model undecided")


async def draws_have_the_model_s_distribution(engine: EngineNode) -> None:
    """Chi-square of first tokens against the model's own softmax, at two temperatures."""
    draws = 600
    number = await number_of_a_prompt_with_many_answers(engine, draws)
    for temperature in (1000, 1600):
        wanted = request(number, SamplingParameters(temperature_milli=temperature), 1)
        seeds = [replace(wanted, seed=random.Random(number).getrandbits(63)) for number in range(draws)]
        counts: Counter[int] = Counter()
        for start in range(0, draws, 50):
            counts.update(tokens[0] for tokens in await together(engine, seeds[start : start + 50]))
        (prefill,) = await engine.prefill((*wanted.prompt_ids, 5), len(wanted.prompt_ids), top=TOP, priority=10)
        statistic, freedom = chi_square(counts, dict(prefill.logprobs), temperature / 1000, draws)
        assert freedom >= 5
        assert statistic < chi_square_limit(freedom)


async def log_probabilities_are_told(engine: EngineNode) -> None:
    wanted = request(4, SamplingParameters(), 8, logprobs=5)
    told = []
    async with engine.generate(wanted) as chunks:
        async for chunk in chunks:
            assert len(chunk.logprobs) == len(chunk.token_ids)
            told += chunk.logprobs
    tokens = tuple(entry.chosen.token_id for entry in told)
    assert tokens == await tokens_of(engine, replace(wanted, logprobs=None))
    prefills = await engine.prefill((*wanted.prompt_ids, *tokens), len(wanted.prompt_ids), top=TOP, priority=10)
    for entry, prefill in zip(told, prefills, strict=True):
        assert len(entry.alternatives) == 5
        for alternative in (entry.chosen, *entry.alternatives):
            assert abs(alternative.logprob_micro / 1e6 - prefill.logprobs[alternative.token_id]) < 1e-3
    assert any(entry.chosen.text.strip() for entry in told)


async def what_is_malformed_is_refused(engine: EngineNode) -> None:
    post = engine._ready_client()._post
    body = {"prompt": [1, 2], "max_tokens": 1, "temperature": 0}
    for value in (
        "1 5 1000 0 1000", "2 5 1000 0 1000 0", "1 5 0 0 1000 0", "1 -5 1000 0 1000 0", "1 05 1000 0 1000 0",
        "1 5 1000 0 1001 0", "1 5 1000 0 0 0", "1 5 1000 0 1000 1001", f"1 {2**63} 1000 0 1000 0", "1 5 1.0 0 1000 0",
        "1  5 1000 0 1000 0", "1 5 1000 0 1000 0\n", "1 ٥ 1000 0 1000 0", True, 5, 5.0, ["1 5 1000 0 1000 0"],
    ):  # fmt: skip
        with pytest.raises(EngineRefusedError):
            await post("/v1/completions", body | {"vllm_xargs": {"quern_draw": value}})
    good = {"vllm_xargs": {"quern_draw": "1 5 1000 0 1000 0"}}
    await post("/v1/completions", body | good)
    for more in (
        {"temperature": 0.7},
        {"presence_penalty": 0.1},
        {"frequency_penalty": 0.1},
        {"repetition_penalty": 1.1},
        {"logit_bias": {"5": 1}},
        {"bad_words": ["x"]},
        {"allowed_token_ids": [1, 2]},
        {"min_tokens": 1},
        {"structured_outputs": {"regex": "a"}},
    ):
        with pytest.raises(EngineRefusedError):
            await post("/v1/completions", body | good | more)
    biased = request(5, SamplingParameters(logit_bias=(LogitBias(7, 100_000),)), 3)
    assert await tokens_of(engine, biased) == (7, 7, 7)  # served, by vLLM's own sampler


async def test_answers_survive_preemption_and_restart(shared_server: SharedServer, tmp_path: Path) -> None:
    """More tokens at once than the cache holds: vLLM drops requests and begins them again."""
    requests = [request(number, SamplingParameters(), 200, prompt_ids=prompt(number, 110)) for number in range(24)]
    async with small_server(tmp_path) as client:
        crowded = await together(client, requests)
        assert await preemptions(client) > 0
    async with shared_server.joined(tmp_path / "second") as engine:
        before = await preemptions(engine._ready_client())
        assert await together(engine, requests) == crowded
        assert await preemptions(engine._ready_client()) == before, "else it is the same twice"


@asynccontextmanager
async def small_server(directory: Path) -> AsyncIterator[EngineClient]:
    """A server whose cache holds 17 blocks of 128 tokens, as no operator may ask for."""
    python = default_engine_python()
    async with socket_path(directory / "run", "small") as socket:
        command = server_command(python, socket, TINY_MODEL, "tiny", ("--max-model-len", "2048"), on_cpu=True)
        endpoint = local_endpoint(socket)
        async with (
            run_server(
                (*command, "--num-gpu-blocks-override", "17"),
                server_environment(on_cpu=True, kv_cache_gib=1),
                directory / "small.log",
                directory / "small.pgid",
            ) as server,
            open_http(endpoint, Traffic()) as http,
        ):
            with trio.fail_after(300):
                await server.until_ready(http, lambda _: None)
            yield EngineClient(http, "tiny")


async def preemptions(client: EngineClient) -> float:
    text = (await client._client.get("/metrics")).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("vllm:num_preemptions_total"))


def plugin_choices(batches: list[list[dict[str, object]]]) -> list[list[int]]:
    """What the plug-in chooses, in the engine's own environment but without an engine."""
    script = Path(__file__).with_name("plugin_draws.py")
    done = subprocess.run(
        [str(default_engine_python()), str(script), str(DIRECTORY)],
        input=json.dumps(batches), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[list[int]] = json.loads(done.stdout)
    return found


def test_the_plug_in_gives_the_vectors() -> None:
    """Rows of different parameters in one batch."""
    rows = [row for row in vectors.compute()["draws"] if row["temperatureMilli"]]
    assert plugin_choices([rows]) == [[row["token"] for row in rows]]


def test_the_plug_in_chooses_as_the_reference_for_any_parameters() -> None:
    """Vocabularies of other sizes (beyond 8,192 tokens the edge of top_k is sought otherwise), logits with many
    equals, sharp and flat ones, logits beyond all bounds."""
    source = random.Random(5)
    batches, expected = [], []
    for size, spread, grain in (
        (7, 2.0, 64),
        (300, 0.3, 4),
        (1000, 6.0, 64),
        (2500, 3.0, 2),
        (64, 90.0, 8),
        (9000, 2.0, 64),
    ):
        rows = []
        for _ in range(24):
            row: dict[str, object] = {
                "logits": [round(source.gauss(0, spread) * grain) / grain for _ in range(size)],
                "seed": source.getrandbits(63),
                "position": source.randrange(100_000),
                "temperatureMilli": source.choice((1, 300, 1000, 1000, 1700, 2000)),
                "topK": source.choice((0, 0, 1, 5, 50, size, size + 10)),
                "topPMilli": source.choice((1000, 1000, 999, 900, 300, 1)),
                "minPMilli": source.choice((0, 0, 1, 50, 1000)),
            }
            parameters = SamplingParameters(
                temperature_milli=row["temperatureMilli"],  # type: ignore[arg-type]
                top_k=row["topK"],  # type: ignore[arg-type]
                top_p_milli=row["topPMilli"],  # type: ignore[arg-type]
                min_p_milli=row["minPMilli"],  # type: ignore[arg-type]
            )
            rows.append(row)
            expected.append(draw(row["logits"], row["seed"], row["position"], parameters))  # type: ignore[arg-type]
        batches.append(rows)
    got = [token for tokens in plugin_choices(batches) for token in tokens]
    # Single precision may decide a near tie, or a sum at the edge of top_p, the other way.
    assert sum(one != other for one, other in zip(got, expected, strict=True)) <= 1


def test_the_plug_in_agrees_with_vllm_s_sampler_for_gpus() -> None:
    """One rule for both of vLLM's runners: the GPU's kernels, run in Triton's interpreter."""
    script = Path(__file__).with_name("gpu_sampler.py")
    done = subprocess.run(
        [str(default_engine_python()), str(script), str(DIRECTORY)], capture_output=True, text=True, check=True
    )
    agreed, draws = (int(word) for word in done.stdout.split())
    assert agreed == draws > 30
