"""The rules give what the vectors say; Solidity reads the shared ones too."""

import json

from tests.vectors import rules


def test_the_rules_give_the_pinned_vectors() -> None:
    assert json.loads(json.dumps(rules.compute())) == json.loads(rules.PATH.read_text())
