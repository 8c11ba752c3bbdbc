"""Whom the quorum should punish for what, as an epoch's evidence has it. The Slashing contract says what it costs.

A verdict of **fraud** rests on a sample of nonces of which nearly all are unrelated to the model's, as no honest
machine gives them, whatever its kind and an owner's band (`UNRELATED_DISTANCE`), or on answers that audits proved not
to be the model's. A batch that is merely rejected earns nothing, and that is all; so do nodes with a model whose
answers were proven false by too little weight for fraud.

**Downtime** is the absence of a member for a whole epoch: it committed no votes and no batch that was due, and the
median of the others never saw it. A member whose registration ended has left, and is not punished.
"""

from collections.abc import Mapping, Sequence, Set

from node.protocol.appeals import NARROWLY_PROVEN
from node.protocol.findings import SCORE_FULL, AuditOutcome, NodeFate, NodeOutcome, ParticipantScore, PenaltyDecision
from node.protocol.identifiers import Address
from node.protocol.outcomes import NARROWLY
from node.protocol.records import EpochGroup, VoteBundle
from node.protocol.scores import ABSENCE_FORGIVEN
from node.protocol.verdicts import Offence, Verdict

FAKES_PER_MILLE = 875
"""Of a sample, as much must be unrelated to be fraud. Who made up less than nearly all has lost the batch for it, and
no chance of a few nonces comes near this."""
FAKES_SAMPLE_MIN = 8
"""A smaller sample proves nothing beyond its batch."""
BATCH_OF_FAKES = "batch-of-fakes"
ABSENT = "absent"


def penalties(
    group: EpochGroup,
    registered: Set[Address],
    nodes: Sequence[NodeOutcome],
    audits: Sequence[AuditOutcome],
    scores: Sequence[ParticipantScore],
    bundles: Mapping[Address, VoteBundle],
) -> tuple[PenaltyDecision, ...]:
    """Return the offences that the epoch's evidence proves, ascending by (participant, offence), each once.

    `group` is what a result froze for the epoch (an empty one where none did), `registered` are the participants that
    are registered at the end of the epoch.
    """
    fraud: dict[Address, str] = {}
    for audit in audits:
        if audit.fate is Verdict.INVALID and audit.reason != NARROWLY_PROVEN:
            fraud.setdefault(audit.executor, f"audit-{audit.reason}" if audit.reason else "audit")
    for node in nodes:
        if is_batch_of_fakes(node):
            fraud.setdefault(node.participant, BATCH_OF_FAKES)
    proved = {node.participant for node in nodes}
    unseen = {score.participant for score in scores if _was_never_seen(score)}
    absent = {
        member.participant
        for member in group.members
        if member.participant in unseen & registered
        and member.participant not in proved
        and member.participant not in bundles
    }
    decisions = [PenaltyDecision(account, Offence.FRAUD, reason) for account, reason in fraud.items()]
    decisions += [PenaltyDecision(account, Offence.DOWNTIME, ABSENT) for account in absent]
    return tuple(sorted(decisions, key=lambda decision: (decision.participant.lower(), decision.offence.value)))


def is_batch_of_fakes(node: NodeOutcome) -> bool:
    """Whether a rejected batch's sample is evidence that no honest hardware gives, by whatever band it was rejected."""
    return (
        node.fate is NodeFate.REJECTED
        and node.reason != NARROWLY
        and node.sampled >= FAKES_SAMPLE_MIN
        and 1000 * node.unrelated >= FAKES_PER_MILLE * node.sampled
    )


def fraudulent(decisions: Sequence[PenaltyDecision]) -> frozenset[Address]:
    """Return the participants that are not paid and not in the next group: fraud was proven."""
    return frozenset(decision.participant for decision in decisions if decision.offence is Offence.FRAUD)


def _was_never_seen(score: ParticipantScore) -> bool:
    lost = sum(loss.per_mille for loss in score.availability.losses if loss.reason == "absent")
    return lost >= SCORE_FULL - ABSENCE_FORGIVEN
