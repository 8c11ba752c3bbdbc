"""Servers are believed to draw by the rule only if they do; nothing that breaks the rule gets into an engine."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from node.engine.arguments import EngineArgumentsError, merge_model_args, server_command, server_environment
from node.engine.drawing import DrawStyle, Post, draw_fields, find_draw_style
from node.engine.plugin import COMMON_DIRECTORY, DIRECTORY, search_path
from node.ports import EngineFailedError, EngineRefusedError, GenerationRequest
from node.protocol.draws import draw
from node.protocol.sampling import LogitBias, SamplingParameters

SIZE = 200


def server(
    *, plugin: bool = False, noise: Callable[[int], int] = lambda seed: seed, spread: float = 2.0, spoil: str = ""
) -> Post:
    """A stand-in that draws by the rule with the seed that `noise` makes of the one it is given."""

    async def post(path: str, body: dict[str, object]) -> dict[str, Any]:
        assert path == "/v1/completions"
        if "vllm_xargs" in body:
            if plugin:
                raise EngineRefusedError("/v1/completions: quern_draw is not '1 SEED …'")
            if spoil == "refuses extras":
                raise EngineRefusedError("/v1/completions: extra fields not permitted")
            return {"choices": []}
        seed, temperature, top_k, wanted = (body[key] for key in ("seed", "temperature", "top_k", "max_tokens"))
        assert isinstance(seed, int)
        assert isinstance(wanted, int)
        assert isinstance(top_k, int)
        assert isinstance(temperature, float)
        parameters = SamplingParameters(temperature_milli=round(temperature * 1000), top_k=top_k)
        source = random.Random(1)
        tokens, tops = [], []
        for position in range(wanted):
            logits = [source.gauss(0, spread) for _ in range(SIZE)]
            token = draw(logits, noise(seed), position, parameters)
            likeliest = sorted(range(SIZE), key=lambda other: -logits[other])[:20]
            tokens.append(f"token_id:{token}")
            top = logits[likeliest[0]]
            total = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
            tops.append({f"token_id:{other}": logits[other] - total for other in {*likeliest, token}})
        logprobs: dict[str, object] = {"tokens": tokens, "top_logprobs": tops}
        if spoil == "no logprobs":
            return {"choices": [{"logprobs": None}]}
        if spoil == "texts":
            logprobs["tokens"] = ["a"] * wanted
        if spoil == "not numbers":
            logprobs["top_logprobs"] = [dict.fromkeys(top, "x") for top in tops]
        if spoil == "no choices":
            return {}
        return {"choices": [{"logprobs": logprobs}]}

    return post


async def test_how_a_server_draws_is_found_by_asking() -> None:
    assert await find_draw_style(server(plugin=True)) is DrawStyle.PLUGIN
    assert await find_draw_style(server()) is DrawStyle.SEED
    assert await find_draw_style(server(spoil="refuses extras")) is DrawStyle.SEED
    assert await find_draw_style(server(noise=lambda seed: seed ^ 1)) is DrawStyle.NONE
    assert await find_draw_style(server(noise=lambda seed: seed & 0xFFFFFFFF)) is DrawStyle.NONE


async def test_a_server_that_shows_nothing_is_not_believed() -> None:
    for spoil in ("no logprobs", "texts", "not numbers", "no choices"):
        assert await find_draw_style(server(spoil=spoil)) is DrawStyle.NONE
    # So sure of every token that any noise gives the rule's choices: no proof.
    assert await find_draw_style(server(noise=lambda seed: seed ^ 1, spread=400.0)) is DrawStyle.NONE


async def test_an_engine_that_fails_is_not_taken_for_one_of_another_kind() -> None:
    async def post(path: str, body: dict[str, object]) -> dict[str, Any]:
        raise EngineFailedError("gone")

    with pytest.raises(EngineFailedError):
        await find_draw_style(post)


def test_a_request_says_everything_that_a_model_s_own_defaults_could_change() -> None:
    sampling = SamplingParameters(temperature_milli=700, top_k=5, top_p_milli=900, min_p_milli=10)
    by_seed = draw_fields(sampling, 2**63 - 1, DrawStyle.SEED)
    by_plugin = draw_fields(sampling, 2**63 - 1, DrawStyle.PLUGIN)
    for fields in (by_seed, by_plugin):
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"):
            assert name in fields
    assert by_plugin["vllm_xargs"] == {"quern_draw": f"1 {2**63 - 1} 700 5 900 10"}
    assert by_plugin["temperature"] == 0
    assert (by_seed["seed"], by_seed["temperature"]) == (2**63 - 1, 0.7)
    assert "vllm_xargs" not in draw_fields(SamplingParameters(temperature_milli=0), 5, DrawStyle.PLUGIN)


@pytest.mark.parametrize(
    "breaks",
    [
        {"sampling": SamplingParameters(presence_penalty_milli=1)},
        {"sampling": SamplingParameters(frequency_penalty_milli=1)},
        {"sampling": SamplingParameters(repetition_penalty_milli=1001)},
        {"sampling": SamplingParameters(logit_bias=(LogitBias(1, 5),))},
        {"response_format": '{"type": "json_object"}'},
    ],
)
def test_what_breaks_the_rule_marks_the_request(breaks: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"sampling": SamplingParameters(), **breaks}
    request = GenerationRequest((1,), 1, seed=1, stop=(), priority=0, **fields)
    assert not request.is_verifiable


@pytest.mark.parametrize(
    "option",
    [
        "--speculative-config", "--use-fp64-gumbel", "--logits-processors", "--logprobs-mode", "--max-logprobs",
        "--enable-chunked-prefill", "--generation-config", "--override-generation-config",
    ],
)  # fmt: skip
def test_neither_registry_nor_operator_can_change_how_tokens_are_drawn(option: str) -> None:
    for registry, operator in (((option, "x"), ()), ((), (option, "x"))):
        with pytest.raises(EngineArgumentsError, match="not allowed"):
            merge_model_args(registry, operator)


def test_each_flavour_of_the_engine_is_pinned_to_its_runner() -> None:
    on_cpu = server_environment(on_cpu=True, kv_cache_gib=1)
    assert on_cpu["VLLM_USE_V2_MODEL_RUNNER"] == "0"
    on_gpu = server_environment(on_cpu=False, kv_cache_gib=1)
    assert on_gpu["VLLM_USE_V2_MODEL_RUNNER"] == "1"
    command = server_command(Path("python"), Path("s"), Path("m"), "tiny", (), on_cpu=True)
    assert command[command.index("--max-logprobs") + 1] == "64"
    assert "quern_sampling:QuernDraws" in (DIRECTORY / "quern_sampling-1.dist-info" / "entry_points.txt").read_text()


def test_the_plug_in_that_draws_is_found_on_cpus_alone_and_what_the_operator_names_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert search_path(on_cpu=True) == f"{DIRECTORY}:{COMMON_DIRECTORY}"
    assert search_path(on_cpu=False) == str(COMMON_DIRECTORY)
    monkeypatch.setenv("PYTHONPATH", "/own/modules")
    assert server_environment(on_cpu=False, kv_cache_gib=1)["PYTHONPATH"] == f"{COMMON_DIRECTORY}:/own/modules"
