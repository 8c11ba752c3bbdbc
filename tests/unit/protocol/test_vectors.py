"""The rules give what the vectors say; Solidity reads the shared ones too."""

import json

from tests.vectors import rewards, rules


def test_the_rules_give_the_pinned_vectors() -> None:
    assert json.loads(json.dumps(rules.compute())) == json.loads(rules.PATH.read_text())


def test_selection_throughput_score_and_pay_are_the_pinned_ones() -> None:
    assert json.loads(json.dumps(rewards.compute())) == json.loads(rewards.PATH.read_text())
