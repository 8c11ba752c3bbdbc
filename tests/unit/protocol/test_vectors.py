"""The rules give what the vectors say; Solidity reads the shared ones too."""

import hashlib
import json

from node.protocol.codec import to_bytes
from node.protocol.records import EpochResult
from tests.vectors import evidence, formation, rewards, rules


def test_the_rules_give_the_pinned_vectors() -> None:
    assert json.loads(json.dumps(rules.compute())) == json.loads(rules.PATH.read_text())


def test_selection_throughput_score_and_pay_are_the_pinned_ones() -> None:
    assert json.loads(json.dumps(rewards.compute())) == json.loads(rewards.PATH.read_text())


def test_evidence_of_audits_and_of_samples_is_the_pinned_one() -> None:
    assert json.loads(json.dumps(evidence.compute())) == json.loads(evidence.PATH.read_text())


def test_a_result_formed_from_a_chain_and_bundles_has_the_pinned_bytes_and_something_in_every_field() -> None:
    """From the file alone, as another implementation would."""
    vector = json.loads(formation.PATH.read_text())
    results = formation.replay(vector)
    told = [epoch["sha256"] for epoch in vector["epochs"]]
    assert [hashlib.sha256(to_bytes(result)).hexdigest() for result in results] == told
    assert to_bytes(results[-1]).hex() == vector["lastBytes"]
    assert formation.lacking(results[-1], results[-2]) == []
    assert all(getattr(results[-1], name) for name in EpochResult.__dataclass_fields__)


def test_the_story_of_the_formed_result_is_the_pinned_one() -> None:
    assert json.loads(json.dumps(formation.compute())) == json.loads(formation.PATH.read_text())
