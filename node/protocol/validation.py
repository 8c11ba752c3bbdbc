"""From distances to a verdict, and from verdicts to an outcome."""

from collections.abc import Mapping, Sequence
from enum import Enum

from node.protocol.identifiers import Address
from node.protocol.verdicts import Verdict


class BatchOutcome(Enum):
    """What the group makes of a batch."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNDECIDED = "undecided"
    """No majority of those able to judge, or nobody able: no weight this epoch, and no blame."""


def judge(distances: Sequence[int], distance_max: int, reject_mismatches: int) -> Verdict:
    """Return the verdict on a sample: INVALID from `reject_mismatches` distances above `distance_max` on.

    A sample smaller than `reject_mismatches` (a tiny batch) is judged by its majority, so that a batch of a few
    nonces cannot be all wrong and still pass.
    """
    if not distances:
        return Verdict.ABSTAIN
    mismatches = sum(distance > distance_max for distance in distances)
    limit = min(reject_mismatches, len(distances) // 2 + 1)
    return Verdict.INVALID if mismatches >= limit else Verdict.VALID


def tally(votes: Mapping[Address, Verdict], weights: Mapping[Address, int]) -> BatchOutcome:
    """Return the outcome of `votes` (of validators other than the judged participant).

    More than half of the weight of those able to judge decides; abstentions and missing votes are not in the sum
    (requirements B8; lacking a model must never count against the one who has it).
    """
    valid = sum(weights.get(voter, 0) for voter, verdict in votes.items() if verdict is Verdict.VALID)
    invalid = sum(weights.get(voter, 0) for voter, verdict in votes.items() if verdict is Verdict.INVALID)
    able = valid + invalid
    if 2 * valid > able:
        return BatchOutcome.ACCEPTED
    if 2 * invalid > able:
        return BatchOutcome.REJECTED
    return BatchOutcome.UNDECIDED
