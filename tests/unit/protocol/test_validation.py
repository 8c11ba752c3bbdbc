"""Verdicts on samples: by the rule that held when mining began."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.calibration.bands import POC_DISTANCE_LEAST
from node.protocol.calibration import Calibration, calibration_bytes, default_band
from node.protocol.events import ModelCalibrated, ModelRecorded
from node.protocol.identifiers import NodeId
from node.protocol.validation import (
    UNRELATED_DISTANCE,
    SampleRule,
    judge,
    mismatches_of,
    rules_of,
    unrelated_among,
)
from node.protocol.verdicts import Verdict
from tests.builders import NODE, PARAMETERS, TINY, account, commit, model, registered, state_of

RULE = SampleRule(distance_max=100, mismatch_per_million=1000, reject_mismatches=3, sample_size=64)


def test_a_distance_above_the_limit_is_a_mismatch() -> None:
    assert mismatches_of((4, 7, 9), (100, 101, 0), RULE) == (7,)


def test_mismatches_decide_from_the_line_on() -> None:
    assert judge(64, 4, RULE) is Verdict.VALID
    assert judge(64, 5, RULE) is Verdict.INVALID


def test_fewer_than_the_network_forgives_never_reject() -> None:
    strict = replace(RULE, mismatch_per_million=0)
    assert judge(64, 2, strict) is Verdict.VALID
    assert judge(64, 3, strict) is Verdict.INVALID


@given(st.integers(1, 10))
def test_a_tiny_batch_cannot_be_all_wrong_and_pass(count: int) -> None:
    assert judge(count, count, RULE) is Verdict.INVALID
    assert judge(count, 0, RULE) is Verdict.VALID


@given(st.integers(1, 200), st.integers(0, 200), st.integers(10, 10_000))
def test_one_more_mismatch_never_turns_invalid_into_valid(sampled: int, mismatches: int, per_million: int) -> None:
    rule = replace(RULE, mismatch_per_million=per_million)
    if mismatches < sampled and judge(sampled, mismatches, rule) is Verdict.INVALID:
        assert judge(sampled, mismatches + 1, rule) is Verdict.INVALID


def test_no_evidence_is_no_verdict() -> None:
    assert judge(0, 0, RULE) is Verdict.ABSTAIN


def test_a_calibration_of_the_node_s_hardware_is_the_rule() -> None:
    band = replace(default_band(model()), hardware="cpu", poc_distance_max=777, poc_mismatch_per_million=50)
    data = calibration_bytes(Calibration(TINY, 1, (band,)))
    state = state_of(ModelRecorded(model()), *registered(1), ModelCalibrated(TINY, 1, data))
    (rule,) = rules_of({(account(1), NODE): commit(1, 50).commit}, state, PARAMETERS).values()
    assert (rule.distance_max, rule.mismatch_per_million) == (777, 50)


def test_only_models_that_were_active_when_mining_began_have_a_rule() -> None:
    batches = {(account(1), NODE): commit(1, 50).commit}
    active = state_of(ModelRecorded(model()), *registered(1))
    (rule,) = rules_of(batches, active, PARAMETERS).values()
    assert (rule.distance_max, rule.sample_size) == (1_000_000, PARAMETERS.poc_sample_size)
    assert rules_of(batches, state_of(*registered(1)), PARAMETERS) == {}
    assert rules_of(batches, state_of(ModelRecorded(model(active=False)), *registered(1)), PARAMETERS) == {}


def test_a_node_that_was_not_registered_when_the_seed_became_known_has_no_rule() -> None:
    """Its name would be chosen with the seed at hand, and its hardware would be whatever it likes."""
    before = state_of(ModelRecorded(model()), *registered(1))
    late = {(account(1), NodeId("late")): commit(1, 100, node_id=NodeId("late")).commit}
    assert rules_of(late, before, PARAMETERS) == {}
    stranger = {(account(2), NODE): commit(2, 100).commit}
    assert rules_of(stranger, before, PARAMETERS) == {}
    with_both = state_of(ModelRecorded(model()), *registered(1, (NODE, TINY), (NodeId("late"), TINY)))
    assert rules_of(late, with_both, PARAMETERS).keys() == late.keys()


DATA = Path(__file__).resolve().parents[3] / "benchmarks" / "soundness" / "data"
NONCES: dict[str, list[int]] = json.loads((DATA / "nonces.json").read_text())
VECTORS: dict[str, dict[str, list[int]]] = json.loads((DATA / "embeddings.json").read_text())
NARROW = replace(RULE, distance_max=POC_DISTANCE_LEAST, sample_size=512)
ROUNDED = ("avx2", "fp32", "kv-fp8", "int8", "fp8", "int4")
HALF_GUESSED = "half of the prompt computed, half guessed"
OF_ANOTHER_PROMPT = "copied, shared, replayed, precomputed or permuted"


@pytest.mark.parametrize("name", ROUNDED)
def test_no_machine_that_only_rounds_otherwise_gives_an_unrelated_vector(name: str) -> None:
    """Not even by the narrowest band that `quern calibrate` writes, which single precision misses every time."""
    distances = NONCES[name] + VECTORS.get(name, {}).get("nonces", [])
    assert unrelated_among(distances, NARROW) == 0
    assert len(mismatches_of(range(512), NONCES["fp32"], NARROW)) == 512


@pytest.mark.parametrize(
    "name", ["other-model", "small-model", "guessed by a table of tokens", HALF_GUESSED, OF_ANOTHER_PROMPT]
)
def test_vectors_of_another_prompt_or_model_are_all_unrelated(name: str) -> None:
    distances = NONCES[name] + VECTORS.get(name, {}).get("nonces", [])
    assert unrelated_among(distances, NARROW) == len(distances) > 0


def test_what_the_rule_lets_pass_is_never_called_unrelated() -> None:
    wide = replace(RULE, distance_max=2 * UNRELATED_DISTANCE)
    assert unrelated_among((UNRELATED_DISTANCE + 1, wide.distance_max, wide.distance_max + 1), wide) == 1
    assert unrelated_among((UNRELATED_DISTANCE, UNRELATED_DISTANCE + 1), RULE) == 1
