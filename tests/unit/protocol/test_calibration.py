"""Calibration: what the registry holds of honest differences, and which of it judges a node."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.hardware import describe_gpus, describe_processor
from node.protocol.bands import (
    BANDS_MAX,
    ENGINE_CHARACTERS_MAX,
    ENTROPY_Z_MILLI_LIMIT,
    HARDWARE_CHARACTERS_MAX,
    MILLION,
    MODEL_ID_CHARACTERS_MAX,
    POC_DISTANCE_LIMIT,
    UINT32_MAX,
)
from node.protocol.calibration import (
    ANY_HARDWARE,
    CALIBRATION_BYTES_MAX,
    Calibration,
    CalibrationError,
    HonestBand,
    band_of,
    calibration_bytes,
    default_band,
    hardware_class,
    hardware_kind,
    is_measured,
    parse_calibration,
    widest_of,
)
from node.protocol.codec import from_value, to_value
from node.protocol.identifiers import ModelId
from node.protocol.nonces import VECTOR_DIMENSIONS, VECTOR_SCALE, quantise, squared_distance
from tests.builders import TINY, model


def band(hardware: str = ANY_HARDWARE, *, engine: str = "vllm", poc_distance_max: int = 5) -> HonestBand:
    """A band told from others by its distance."""
    return HonestBand(engine, hardware, poc_distance_max, 1, 2, 3, 4, 5)


def calibration(*bands: HonestBand, version: int = 1) -> Calibration:
    """A calibration of TINY."""
    return Calibration(TINY, version, bands)


def test_a_calibration_comes_back_from_the_registry_as_it_was_set() -> None:
    known = calibration(band(), band("nvidia h200", poc_distance_max=9))
    assert parse_calibration(calibration_bytes(known)) == known


def test_the_largest_calibration_fits_into_what_the_contract_takes() -> None:
    bands = tuple(
        HonestBand(
            "e" * ENGINE_CHARACTERS_MAX,
            f"{number:02}" + "h" * (HARDWARE_CHARACTERS_MAX - 2),
            POC_DISTANCE_LIMIT,
            MILLION,
            MILLION,
            MILLION,
            MILLION,
            ENTROPY_Z_MILLI_LIMIT,
        )
        for number in range(BANDS_MAX)
    )
    largest = Calibration(ModelId("m" * MODEL_ID_CHARACTERS_MAX), UINT32_MAX, bands)
    assert len(calibration_bytes(largest)) <= CALIBRATION_BYTES_MAX
    assert parse_calibration(calibration_bytes(largest)) == largest


@given(st.binary(max_size=200))
def test_bytes_that_are_no_calibration_are_refused_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(CalibrationError):
        parse_calibration(data)


def test_more_bytes_than_the_contract_takes_are_refused_unread() -> None:
    with pytest.raises(CalibrationError, match="at most 4096 bytes"):
        parse_calibration(bytes(CALIBRATION_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "field",
    [
        "poc_distance_max",
        "poc_mismatch_per_million",
        "margin_micro_mean_max",
        "token_mismatch_per_million",
        "distance_micro_mean_max",
        "entropy_z_milli_max",
    ],
)
@pytest.mark.parametrize("value", [-1, 2**40])
def test_each_figure_is_checked(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        from_value(HonestBand, {**to_value(band()), field: value})


@pytest.mark.parametrize("engine", ["", "VLLM", "vllm>=0.32", "x" * 13])
def test_an_engine_is_a_short_name(engine: str) -> None:
    with pytest.raises(ValueError, match="engine"):
        band(engine=engine)


@pytest.mark.parametrize("hardware", ["NVIDIA H200", "1x nvidia h200", " h200", "h" * 49, "b, a"])
def test_a_band_names_its_hardware_as_a_class(hardware: str) -> None:
    with pytest.raises(ValueError, match="hardware"):
        band(hardware)


def test_the_bands_of_a_calibration_have_one_order_and_no_doubles() -> None:
    for bands in ((), (band("b"), band("a")), (band("a"), band("a")), tuple(band(f"{n:02}") for n in range(17))):
        with pytest.raises(ValueError, match="bands"):
            calibration(*bands)


def test_a_calibration_of_no_model_or_version_is_refused() -> None:
    for model_id, version in (("", 1), ("UPPER", 1), ("tiny", 0), ("tiny", 2**32)):
        with pytest.raises(ValueError, match=r"model id|version"):
            Calibration(ModelId(model_id), version, (band(),))


@given(st.text(max_size=200))
def test_any_text_has_a_class_which_is_a_class_itself(text: str) -> None:
    known = hardware_class(text)
    assert len(known) <= HARDWARE_CHARACTERS_MAX
    assert hardware_class(known) == known


@pytest.mark.parametrize(
    "text", ["2x", "2x 3x a", "0x a", "02x A", "9" * 47 + "x foo", "2x " + "b" * 60, "0" * 42 + " cores of"]
)
def test_odd_texts_have_a_class_which_is_a_class_itself(text: str) -> None:
    known = hardware_class(text)
    assert len(known) <= HARDWARE_CHARACTERS_MAX
    assert hardware_class(known) == known


def test_how_many_gpus_there_are_counts_and_how_many_cores_does_not() -> None:
    assert hardware_class(describe_gpus(["NVIDIA H200"])) == "nvidia h200"
    assert hardware_class(describe_gpus(["NVIDIA H200"] * 8)) == "8x nvidia h200"
    assert hardware_kind(describe_gpus(["NVIDIA H200"] * 8)) == "nvidia h200"
    assert hardware_class(describe_gpus(["NVIDIA L4", "NVIDIA H200"])) == "nvidia h200, nvidia l4"
    assert hardware_class(describe_gpus(["NVIDIA L4"] * 2 + ["NVIDIA H200"])) == "2x nvidia l4, nvidia h200"
    assert hardware_class(describe_processor("model name : AMD EPYC 9654\n", 16)) == "amd epyc 9654"


def test_several_gpus_have_a_band_of_their_own_if_the_owner_measured_them() -> None:
    one, two = band("nvidia h200", poc_distance_max=9), band("2x nvidia h200", poc_distance_max=20)
    known = calibration(two, one)
    assert band_of(known, model(), "1x NVIDIA H200") is one
    assert band_of(known, model(), "2x NVIDIA H200") is two
    assert band_of(known, model(), "4x NVIDIA H200") is one


FIGURES = tuple(field.name for field in fields(HonestBand) if field.name.endswith(("max", "million")))


@st.composite
def any_bands(draw: st.DrawFn) -> Calibration:
    names = draw(st.sets(st.sampled_from(["a", "b", "2x a", "c"]), min_size=1))
    figures = st.integers(0, 1_000_000)
    made = (HonestBand("vllm", name, *(draw(figures) for _ in FIGURES), draw(st.booleans())) for name in sorted(names))
    return calibration(*made)


@given(any_bands(), st.integers(0, 2_000_000))
def test_who_names_hardware_that_no_band_is_for_gains_in_no_figure(known: Calibration, registered: int) -> None:
    record = replace(model(), poc_distance_max=registered)
    found, default = band_of(known, record, "1x moon"), default_band(record)
    for name in FIGURES:
        assert getattr(found, name) == min(max(getattr(band, name) for band in known.bands), getattr(default, name))
    assert found.knows_winners == all(band.knows_winners for band in known.bands)
    assert not is_measured(known, record, "1x moon")
    assert all(is_measured(known, record, f"1x {band.hardware}") for band in known.bands)


def test_the_owner_says_by_a_band_for_the_rest_that_it_may_be_wider() -> None:
    rest = replace(default_band(model()), poc_distance_max=5_000_000)
    known = calibration(rest, band("nvidia h200", poc_distance_max=9))
    assert band_of(known, model(), "1x moon") is rest
    assert is_measured(known, model(), "1x moon")
    assert is_measured(None, model(), "1x moon")


def test_the_widest_of_no_bands_or_of_several_engines_is_none() -> None:
    for bands in ((), (band(), band(engine="sglang"))):
        with pytest.raises(ValueError, match="one engine"):
            widest_of(bands)


def test_a_node_is_judged_by_its_class_then_by_any_then_by_the_default() -> None:
    h200, rest = band("nvidia h200", poc_distance_max=9), band(poc_distance_max=5)
    known = calibration(rest, h200)
    assert band_of(known, model(), "4x NVIDIA H200") is h200
    assert band_of(known, model(), "1x NVIDIA L4") is rest
    assert band_of(None, model(), "4x NVIDIA H200") == default_band(model())


def test_a_band_of_another_engine_judges_nobody() -> None:
    assert band_of(calibration(band(engine="sglang")), model(), "cpu") == default_band(model())


def test_a_calibration_of_another_version_or_model_counts_as_none() -> None:
    assert band_of(calibration(band(), version=2), model(), "cpu") == default_band(model())
    assert band_of(calibration(band()), model(ModelId("other")), "cpu") == default_band(model(ModelId("other")))


def test_a_model_without_calibration_is_judged_by_its_registered_distance() -> None:
    assert default_band(model()).poc_distance_max == model().poc_distance_max
    boundless = replace(model(), poc_distance_max=2**64 - 1, model_args=("--engine", "no range at all"))
    assert default_band(boundless).poc_distance_max == POC_DISTANCE_LIMIT


def test_no_two_vectors_are_farther_apart_than_the_limit() -> None:
    logprobs = [-float(index) for index in range(VECTOR_DIMENSIONS)]
    distance = squared_distance(quantise(logprobs), quantise([-value for value in logprobs]))
    assert (2 * VECTOR_SCALE - VECTOR_DIMENSIONS) ** 2 < distance <= POC_DISTANCE_LIMIT
