"""What a member judges again is the same for all, in an order that nobody chooses."""

from dataclasses import replace

import pytest

from node.protocol import audit_tasks
from node.protocol.audit_tasks import judged_again
from node.protocol.findings import AuditOutcome
from node.protocol.identifiers import Hash32, ModelId
from node.protocol.verdicts import Verdict
from tests.builders import TINY, account
from tests.unit.protocol.audited_group import SEED, previous
from tests.unit.protocol.test_audit_evidence import EXECUTOR


def test_in_which_order_answers_are_judged_again_is_nobody_s_choice_and_the_same_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else an executor would have its heavy true answers judged until time runs out."""
    monkeypatch.setattr(audit_tasks, "judges_of", lambda *_: {account(3)})
    digests = [Hash32(number.to_bytes(32)) for number in range(20)]
    accused = AuditOutcome(
        EXECUTOR, ModelId(TINY), Verdict.ABSTAIN, 0, 0, 0, "",
        accused=tuple(digests[:15]), challenged=tuple(digests[15:]),
    )  # fmt: skip
    result = replace(previous(), audits=(accused,))

    def order(seed: Hash32) -> list[Hash32]:
        return [task.digest for task in judged_again(result, seed, account(3))[accused.executor]]

    assert order(SEED) == order(SEED) != order(Hash32(bytes(32)))
    assert sorted(order(SEED)) == digests
