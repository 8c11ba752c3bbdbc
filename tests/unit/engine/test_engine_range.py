"""Engine and versions are part of a model's record, judged alike by every node, and never passed on to vLLM."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.arguments import (
    EngineArgumentsError,
    merge_model_args,
    model_arguments,
    registry_arguments,
    server_command,
)
from node.engine.hardware import describe_gpus, describe_processor, detect_hardware
from node.engine.startup import PHASE_FIRST, START_MARK, phase_of
from node.protocol.engines import (
    ENGINE_RANGE_DEFAULT,
    EngineRange,
    EngineRangeError,
    engine_range_of,
    parse_engine_range,
)
from tests.builders import model

numbers = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize(
    ("text", "version", "inside"),
    [
        ("vllm", "0.1", True),
        ("vllm>=0.32,<0.33", "0.32.0", True),
        ("vllm>=0.32,<0.33", "0.32.0+cpu", True),
        ("vllm>=0.32,<0.33", "0.32.7rc1", True),
        ("vllm>=0.32,<0.33", "0.33.0", False),
        ("vllm>=0.32,<0.33", "0.4", False),
        ("vllm>=0.32,<0.33", "0.31.99", False),
        ("vllm<1", "0.99", True),
        ("vllm>=1", "0.99", False),
        ("vllm>=0.32", "dev", False),
        ("other>=0", "0.32", False),
    ],
)
def test_versions_are_compared_number_by_number(text: str, version: str, inside: bool) -> None:
    reason = parse_engine_range(text).why_not("vllm", version)
    assert (reason is None) is inside
    if reason is not None:
        assert version in reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        ">=1",
        "vllm>=",
        "vllm>=1,<1",
        "vllm>=2,<1.9",
        "vllm==1",
        "Vllm",
        "vllm>=1;rm",
        "vllm" * 40,
        "vllm>=1.2.3.4.5",
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(EngineRangeError):
        parse_engine_range(text)


@given(numbers, numbers)
def test_a_range_reads_as_it_is_written(first: tuple[int, ...], end: tuple[int, ...]) -> None:
    if (*first, *(0,) * (4 - len(first))) < (*end, *(0,) * (4 - len(end))):
        allowed = EngineRange("vllm", first, end)
        assert parse_engine_range(str(allowed)) == allowed
        assert allowed.why_not("vllm", ".".join(map(str, first))) is None
        assert allowed.why_not("vllm", ".".join(map(str, end))) is not None


def test_a_model_names_its_range_among_its_arguments_and_vllm_never_sees_it() -> None:
    record = replace(model(), model_args=("--engine", "vllm>=0.40,<0.41", "--max-model-len", "512"))
    assert engine_range_of(record.model_args) == EngineRange("vllm", (0, 40), (0, 41))
    assert engine_range_of(("--engine=vllm<2",)) == EngineRange("vllm", None, (2,))
    assert engine_range_of(model().model_args) == ENGINE_RANGE_DEFAULT
    merged = merge_model_args(registry_arguments(record), ())
    arguments = model_arguments(merged, 512, on_cpu=True)
    command = server_command(Path("p"), Path("s"), Path("m"), "tiny", arguments, on_cpu=True)
    assert "--engine" not in command
    with pytest.raises(EngineArgumentsError, match="no range"):
        merge_model_args(("--engine", "2.0"), ())
    with pytest.raises(EngineArgumentsError, match="not allowed"):
        merge_model_args((), ("--engine", "vllm"))


def test_a_prefill_that_would_be_split_on_a_cpu_is_refused_before_it_ends_the_engine() -> None:
    with pytest.raises(EngineArgumentsError, match="prefills must fit whole"):
        model_arguments(("--max-num-batched-tokens", "512"), 2048, on_cpu=True)
    with pytest.raises(EngineArgumentsError, match="prefills must fit whole"):
        model_arguments(("--max-model-len", "4k", "--max-num-batched-tokens", "3999"), 2048, on_cpu=True)
    assert model_arguments(("--max-num-batched-tokens", "2k"), 2000, on_cpu=True)
    assert model_arguments(("--max-num-batched-tokens", "512"), 2048, on_cpu=False)  # there it is harmless


@pytest.mark.parametrize("option", ["--enable-chunked-prefill", "--no-enable-chunked-prefill", "--enforce-eager"])
def test_no_operator_can_split_prefills_by_an_option(option: str) -> None:
    with pytest.raises(EngineArgumentsError, match="not allowed"):
        merge_model_args((), (option,))


def test_a_server_reads_as_many_tokens_as_the_network_promises() -> None:
    arguments = model_arguments((), 32768, on_cpu=True)
    command = server_command(Path("p"), Path("s"), Path("m"), "tiny", arguments, on_cpu=True)
    assert command[command.index("--max-model-len") + 1] == "32768"
    assert command[command.index("--max-num-batched-tokens") + 1] == "32768"


@pytest.mark.parametrize("value", ["", "abc", "-1", "0", "1e3", "9" * 40, "٣"])
def test_a_length_that_is_no_number_is_refused_by_name(value: str) -> None:
    with pytest.raises(EngineArgumentsError, match="--max-model-len"):
        server_command(Path("p"), Path("s"), Path("m"), "tiny", (f"--max-model-len={value}",), on_cpu=True)


def test_hardware_is_told_in_words_that_do_not_change_from_start_to_start() -> None:
    assert describe_gpus(["NVIDIA  H200", "NVIDIA L4", "NVIDIA H200"]) == "2x NVIDIA H200, 1x NVIDIA L4"
    assert describe_processor("processor: 0\nmodel name\t: AMD  EPYC 9B14\n", 16) == "AMD EPYC 9B14, 16 cores"
    assert describe_processor("", 4) == "cpu, 4 cores"
    assert describe_gpus([]) == ""
    assert detect_hardware(on_cpu=True) == detect_hardware(on_cpu=True) != ""


def test_the_phase_of_a_start_is_that_of_the_newest_start() -> None:
    first = f"{START_MARK}\nINFO Application startup complete.\n"
    assert phase_of(first) == "waiting for its first token"
    assert phase_of(first + START_MARK + "\n") == PHASE_FIRST
    assert phase_of(first + START_MARK + "\nStarting to load model /m\n") == "loading weights"
    log = START_MARK + "\nStarting to load model\nLoading weights took 3 s\nCapturing CUDA graphs: 40%"
    assert phase_of(log) == "capturing CUDA graphs"
