"""Verdicts on samples: by the rule that held when mining began."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.calibration import Calibration, calibration_bytes, default_band
from node.protocol.events import ModelCalibrated, ModelRecorded
from node.protocol.validation import SampleRule, judge, mismatches_of, rules_of
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
