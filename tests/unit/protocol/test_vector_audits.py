"""Evidence against vectors: a few that are another's prove it, and no honest machine is convicted by chosen texts."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.audit_bands import bands_of
from node.protocol.audits import (
    NO_EVIDENCE,
    NO_FIGURES,
    accumulate_evidence,
    add_figures,
    gains,
    judge_figures,
    proven_by,
)
from node.protocol.bands import POC_DISTANCE_LIMIT, HonestBand
from node.protocol.calibration import default_band
from node.protocol.sketches import sketch_of
from node.protocol.vector_audits import FAR_DISTANCE_MAX, FAR_TIMES, figures_of, vector_band, vector_figures
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, model
from tests.unit.protocol.test_sketches import vector

TOLERANCE = 100_000
BAND = vector_band(HonestBand("vllm", "", TOLERANCE, 1_000, 1, 2, 3, 4_000))
FAR = FAR_TIMES * TOLERANCE


def verdict_on(*distances: int) -> Verdict:
    return judge_figures(figures_of(distances, TOLERANCE), BAND)[0]


def test_three_vectors_of_another_model_prove_it_and_two_do_not() -> None:
    assert verdict_on(*[FAR] * 3) is Verdict.INVALID
    assert verdict_on(*[FAR] * 2) is Verdict.VALID
    assert verdict_on(*[POC_DISTANCE_LIMIT] * 2) is Verdict.VALID  # one vector says no more than that it is another's
    assert verdict_on() is Verdict.ABSTAIN


def test_one_vector_at_a_time_proves_as_well_over_epochs() -> None:
    evidence = NO_EVIDENCE
    for count in range(1, 4):
        evidence = accumulate_evidence(evidence, gains(figures_of([FAR], TOLERANCE), BAND))
        assert (proven_by(evidence) is not None) is (count == 3)


@given(st.lists(st.integers(0, 128 * TOLERANCE), min_size=1, max_size=200))
def test_texts_at_which_a_machine_is_eleven_times_as_far_off_as_its_band_say_nothing(distances: list[int]) -> None:
    """Who asks chooses the texts, so no choice may ever add up: not of one answer, nor over epochs."""
    gained = gains(figures_of(distances, TOLERANCE), BAND)
    assert accumulate_evidence(NO_EVIDENCE, gained) == NO_EVIDENCE


@given(st.lists(st.integers(0, 2 * FAR), min_size=1, max_size=40), st.integers(0, 2 * FAR))
def test_figures_add_up_and_a_vector_that_is_farther_never_counts_less(distances: list[int], other: int) -> None:
    whole = figures_of(distances, TOLERANCE)
    parts = NO_FIGURES
    for distance in distances:
        parts = add_figures(parts, figures_of([distance], TOLERANCE))
    assert parts == whole
    farther = figures_of([*distances[1:], max(distances[0], other)], TOLERANCE)
    assert farther.margin_micro >= whole.margin_micro
    assert farther.mismatches >= whole.mismatches


@pytest.mark.parametrize("seed", range(3))
def test_sketches_are_held_against_the_auditor_s_own(seed: int) -> None:
    own = [sketch_of(vector(number)) for number in range(seed, seed + 3)]
    honest = [sketch_of(vector(number, noise=0.005)) for number in range(seed, seed + 3)]
    assert vector_figures(honest, own, is_as_long=True, poc_distance_max=TOLERANCE).mismatches == 0
    assert vector_figures(own[::-1], own, is_as_long=True, poc_distance_max=TOLERANCE).mismatches == 2
    assert vector_figures(own, own, is_as_long=False, poc_distance_max=TOLERANCE).mismatches == 3


def test_a_calibration_of_nothing_at_all_still_has_a_line() -> None:
    assert figures_of([0, FAR_TIMES], 0).mismatches == 1


@pytest.mark.parametrize("tolerance", [0, TOLERANCE, FAR_DISTANCE_MAX, POC_DISTANCE_LIMIT])
def test_no_calibration_is_so_wide_that_another_text_s_vector_passes(tolerance: int) -> None:
    another_text_s = 276_870_029  # the least that was measured
    assert figures_of([another_text_s, 0], tolerance).mismatches == 1
    own = [sketch_of(vector(1))]
    assert vector_figures(own, own, is_as_long=False, poc_distance_max=tolerance).mismatches == 1
    assert vector_figures(own, own, is_as_long=True, poc_distance_max=tolerance).mismatches == 0


@pytest.mark.parametrize("arguments", [(), ("--runner", "pooling")])
def test_only_embedding_models_are_judged_by_the_band_of_vectors(arguments: tuple[str, ...]) -> None:
    record = replace(model(), model_args=arguments)
    state = SimpleNamespace(models={TINY: record}, calibrations={}, participants={}, hardware_changed={})
    band = default_band(record)
    found = bands_of(cast(Any, state), None)(account(1), NODE, TINY)
    assert found == (vector_band(band) if arguments else band)
    assert found.poc_distance_max == record.poc_distance_max
