"""Arguments from the registry describe a model; they cannot open, read or run anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.arguments import (
    OPERATOR_OPTIONS,
    REGISTRY_OPTIONS,
    EngineArgumentsError,
    merge_model_args,
    registry_arguments,
    server_command,
)
from tests.builders import model


def test_the_registry_wins_over_the_operator_and_both_are_kept() -> None:
    merged = merge_model_args(["--max-model-len", "512"], ["--max-model-len=999", "--tensor-parallel-size", "2"])
    assert merged == ("--max-model-len", "512", "--tensor-parallel-size", "2")


@pytest.mark.parametrize(
    "hostile",
    [
        ["--trust-remote-code"],
        ["--host", "0.0.0.0"],
        ["--model", "/etc"],
        ["--uds=/tmp/x"],
        ["--hf-overrides", "{}"],
        ["--tensor-parallel-size", "64"],
        ["stray"],
        ["--dtype", "x" * 300],
        ["--chat-template", "/etc/passwd"],
    ],
)
def test_hostile_registry_arguments_are_refused_by_name(hostile: list[str]) -> None:
    with pytest.raises(EngineArgumentsError):
        merge_model_args(hostile, [])


@given(st.lists(st.text(max_size=20), max_size=8))
def test_no_list_of_words_passes_that_is_not_allowed(words: list[str]) -> None:
    try:
        merged = merge_model_args(words, [])
    except EngineArgumentsError:
        return
    names = {word for word in merged if word.startswith("--")}
    assert names <= REGISTRY_OPTIONS <= OPERATOR_OPTIONS


def test_prefills_fit_whole_on_cpus() -> None:
    command = server_command(Path("python"), Path("s"), Path("m"), "tiny", ("--max-model-len", "4096"), on_cpu=True)
    assert command[command.index("--max-num-batched-tokens") + 1] == "4096"
    assert "--no-enable-chunked-prefill" in command


def test_the_registrys_quantisation_becomes_options_of_the_engine() -> None:
    record = replace(
        model(), model_args=("--max-model-len", "512"), quantization="fp8", kv_cache_quantization="fp8_e5m2"
    )
    merged = merge_model_args(registry_arguments(record), ("--gpu-memory-utilization", "0.8"))
    pairs = dict(zip(merged[::2], merged[1::2], strict=True))
    assert pairs["--quantization"] == "fp8"
    assert pairs["--kv-cache-dtype"] == "fp8_e5m2"
    assert registry_arguments(model()) == ()
