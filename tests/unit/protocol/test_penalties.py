"""Penalties: fraud only on what no honest machine gives, downtime only for a whole epoch's absence."""

import pytest

from node.protocol.findings import AuditOutcome, NodeFate, NodeOutcome, ParticipantScore, PointLoss, ScorePart
from node.protocol.identifiers import EpochNumber
from node.protocol.penalties import fraudulent, penalties
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.verdicts import Offence, Verdict
from tests.builders import NODE, TINY, account, peer

EPOCH = EpochNumber(4)
GROUP = EpochGroup(
    EPOCH,
    tuple(
        GroupMember(account(n), peer(n), 100, (MLNodeSnapshot(NODE, TINY, 100, 1000, (True, False)),))
        for n in sorted((1, 2, 3), key=lambda n: account(n).lower())
    ),
    (),
)
REGISTERED = {account(number) for number in (1, 2, 3)}
FULL = ScorePart(1000)


def batch(number: int, fate: NodeFate, sampled: int, unrelated: int) -> NodeOutcome:
    return NodeOutcome(account(number), NODE, TINY, fate, 1000, sampled, sampled, 0, "mismatches", unrelated)


def score(number: int, presence: int) -> ParticipantScore:
    losses = (PointLoss("absent", 1000 - presence),) if presence < 1000 else ()
    return ParticipantScore(account(number), FULL, FULL, ScorePart(presence, losses), FULL, 1000)


@pytest.mark.parametrize(
    ("fate", "sampled", "unrelated", "is_fraud"),
    [
        (NodeFate.REJECTED, 64, 64, True),
        (NodeFate.REJECTED, 64, 56, True),
        (NodeFate.REJECTED, 64, 55, False),  # not nearly all
        (NodeFate.REJECTED, 512, 0, False),  # honest hardware by too narrow a band: the batch is lost, no more
        (NodeFate.REJECTED, 7, 7, False),  # too small a sample
        (NodeFate.REJECTED, 0, 0, False),  # a file that is wrong as a whole
        (NodeFate.UNDECIDED, 64, 64, False),
        (NodeFate.ACCEPTED, 64, 64, False),
    ],
)
def test_only_a_sample_that_is_nearly_all_unrelated_is_fraud(
    fate: NodeFate, sampled: int, unrelated: int, is_fraud: bool
) -> None:
    decided = penalties(GROUP, REGISTERED, [batch(1, fate, sampled, unrelated)], [], [], {})
    assert fraudulent(decided) == ({account(1)} if is_fraud else set())


def test_an_audit_that_proves_nothing_punishes_nobody() -> None:
    audits = [
        AuditOutcome(account(number), TINY, verdict, 4, 4, 400, reason)
        for number, verdict, reason in (
            (1, Verdict.VALID, ""),
            (2, Verdict.ABSTAIN, "withheld"),
            (3, Verdict.INVALID, "margin"),
        )
    ]
    (decision,) = penalties(GROUP, REGISTERED, [], audits, [], {})
    assert (decision.participant, decision.offence, decision.reason) == (account(3), Offence.FRAUD, "audit-margin")


def test_who_is_caught_twice_is_named_once() -> None:
    audit = AuditOutcome(account(1), TINY, Verdict.INVALID, 4, 0, 400, "margin")
    assert len(penalties(GROUP, REGISTERED, [batch(1, NodeFate.REJECTED, 64, 64)], [audit, audit], [], {})) == 1


def test_downtime_is_a_registered_member_s_absence_in_everything() -> None:
    absent = [score(1, 0), score(2, 1000), score(3, 1000)]
    bundle = VoteBundle(EPOCH, account(1), ())
    (decision,) = penalties(GROUP, REGISTERED, [], [], absent, {})
    assert (decision.participant, decision.offence) == (account(1), Offence.DOWNTIME)
    assert penalties(GROUP, REGISTERED - {account(1)}, [], [], absent, {}) == ()
    assert penalties(GROUP, REGISTERED, [batch(1, NodeFate.UNDECIDED, 0, 0)], [], absent, {}) == ()
    assert penalties(GROUP, REGISTERED, [], [], absent, {account(1): bundle}) == ()
    assert penalties(GROUP, REGISTERED, [], [], [score(1, 100)], {}) == ()
    assert penalties(EpochGroup(EPOCH, (), ()), REGISTERED, [], [], absent, {}) == ()
