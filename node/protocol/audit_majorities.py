"""What most of those say who looked at an answer, so that no single one moves it beyond what others found.

Auditors of a draw count by their seats, which were drawn by weight: by weight itself it would count twice, and one that
is heavy would decide alone. What everybody with the model judges again counts by weight.

An abstention says nothing of the executor, or that it handed nothing over, or that there is nothing to judge, as
everybody sees.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from node.protocol.audit_evidence import NO_ROOM, NO_TOKENS, OTHER_VERSION, PRIVATE
from node.protocol.audit_votes import NO_DIGEST
from node.protocol.audits import Gains, gains
from node.protocol.calibration import HonestBand
from node.protocol.findings import AuditVote
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.verdicts import Verdict

Said = TypeVar("Said")

BandOf = Callable[[Address, NodeId, ModelId], HonestBand]
WITHHELD = "withheld"
"""The executor handed over nothing, or not what it had committed to."""
DRAWN_AGAIN = "drawn-again"
"""A draw that falls on an answer which a lower number has, too: it is judged there."""
NOT_DRAWN = "not-drawn"
"""Of an accused answer that no draw from its executor's book fell on: somebody chose it, or made it up. It counts as
what was not shown (`is_unshown`), against hearing it; a cheat's friends that name such answers wipe out nothing."""
NOTHING_TO_JUDGE = frozenset({PRIVATE, NO_TOKENS, NO_ROOM, OTHER_VERSION, "outside-rule", DRAWN_AGAIN})
"""Reasons of abstentions that everybody sees in the receipt or in the book: votes against any judgement."""
NO_MODEL = "no-model"
ENGINE_FAILED = "engine-failed"
UNDONE = frozenset({"no-time", ENGINE_FAILED})
"""Reasons of abstentions that say that the auditor did not do what it had to."""
EXCUSED = UNDONE | {NO_MODEL} | NOTHING_TO_JUDGE
"""Reasons of abstentions that say nothing of the executor."""
JUDGES_MIN = 2
"""Who must agree to look: where a model has fewer others, one could clear all its friends, or ruin its only rival. And
who must be asked, for what nobody was shown to count as withheld."""
Votes = Mapping[tuple[Address, int, Hash32], Mapping[Address, AuditVote]]
"""By executor and draw (the digest is then all zeros), or REJUDGED and digest; then by validator."""


def digest_of_most(votes: Mapping[Address, AuditVote], seats: Mapping[Address, int]) -> Hash32 | None:
    """Return the receipt that a draw fell on and that was judged: most seats name it, of those that name any.

    Who was shown it names it, whether it has the model or not. None if no receipt is so named, if nobody judged it, or
    if those who did have fewer seats than who was shown nothing, or no more than who says that nothing is to be judged.
    """
    by_digest: dict[Hash32, int] = {}
    for voter, vote in votes.items():
        if vote.receipt_digest != NO_DIGEST:
            by_digest[vote.receipt_digest] = by_digest.get(vote.receipt_digest, 0) + seats.get(voter, 0)
    digest = max(by_digest, key=lambda named: by_digest[named], default=None)
    if digest is None or 2 * by_digest[digest] <= sum(by_digest.values()):
        return None
    judging = missing = nothing_to_judge = 0
    for voter, vote in votes.items():
        if is_judged(vote):
            judging += seats.get(voter, 0) if vote.receipt_digest == digest else 0
        elif vote.reason in NOTHING_TO_JUDGE:
            nothing_to_judge += seats.get(voter, 0)
        elif is_unshown(vote):
            missing += seats.get(voter, 0)
    return digest if judging >= missing and judging > nothing_to_judge else None


def is_undisputed(votes: Mapping[Address, AuditVote], seats: Mapping[Address, int]) -> bool:
    """Whether what was judged in a draw may speak for the executor, and not only against it.

    A vote's receipt, its node and model, and length are believed, and a friend of the executor can invent them. Honest
    auditors of one draw name one receipt with what it says, read as much of it, and see alike whether there is
    something to judge. So nobody may say anything else: not that it was shown nothing, nor that it had no time for what
    it was shown, for an executor may be slow on purpose. And those who judged are two at least, and have most seats of
    the auditors that have the model: with a rare model a friend is often the only one.
    """
    judged = {voter: vote for voter, vote in votes.items() if is_judged(vote)}
    others = {voter: vote for voter, vote in votes.items() if voter not in judged}
    named = {
        (vote.receipt_digest, vote.node_id, vote.model_id)
        for vote in votes.values()
        if vote.receipt_digest != NO_DIGEST
    }
    lengths = {vote.figures.tokens for vote in judged.values()}
    if len(named) > 1 or len(lengths) > 1 or not all(map(_says_nothing, others.values())):
        return False
    unable = {voter for voter, vote in others.items() if vote.reason == NO_MODEL}
    asked = sum(count for auditor, count in seats.items() if auditor not in unable)
    return len(judged) >= JUDGES_MIN and 2 * weight_of_voters(judged, seats) > asked


def _says_nothing(vote: AuditVote) -> bool:
    """Whether an abstention says nothing at all of the executor, not even that it handed something over."""
    return vote.reason == NO_MODEL or (vote.reason in UNDONE and vote.receipt_digest == NO_DIGEST)


def is_unshown(vote: AuditVote) -> bool:
    """Whether a voter says that it was not shown what the receipt commits to, nor that it was drawn."""
    return not is_judged(vote) and vote.reason not in EXCUSED


def as_many_failed(votes: Mapping[Address, AuditVote], weights: Mapping[Address, int]) -> bool:
    """Whether engines of as much weight failed at an answer as judged it: then it may be one that no engine reads, and
    a friend of its executor's makes figures up."""
    failed = [voter for voter, vote in votes.items() if not is_judged(vote) and vote.reason == ENGINE_FAILED]
    judged = [voter for voter, vote in votes.items() if is_judged(vote)]
    return bool(failed) and weight_of_voters(failed, weights) >= weight_of_voters(judged, weights)


def is_judged(vote: AuditVote) -> bool:
    """Whether it is a judgement of an answer, with figures; else it is an abstention."""
    return vote.verdict is not Verdict.ABSTAIN and vote.receipt_digest != NO_DIGEST


def strength_of(gained: Gains) -> tuple[int, ...]:
    """Return what judgements are ordered by: the strongest of the bets' gains (audits.py), then each."""
    return (max(gained), *gained)


def gains_of_draw(
    judged: Mapping[Address, AuditVote], seats: Mapping[Address, int], band_of: BandOf
) -> tuple[AuditVote, Gains]:
    """Return the judgement in the middle, in the order of its strength, and what an answer gains by it.

    Against the executor what the middle says counts. For it, what all say who judged: one is enough to keep a bet from
    falling farther than it does by that one's figures. So friends clear nobody whom they do not have all seats of.
    """
    gained = {
        voter: gains(vote.figures, band_of(vote.executor, vote.node_id, vote.model_id))
        for voter, vote in judged.items()
    }
    voter, vote = middle_of(
        [(voter, (voter, vote)) for voter, vote in judged.items()],
        seats,
        lambda said: (*strength_of(gained[said[0]]), said[1].node_id, said[1].model_id),
    )
    highest = (max(bits) for bits in zip(*gained.values(), strict=True))
    return vote, tuple(bits if bits > 0 else min(0, most) for bits, most in zip(gained[voter], highest, strict=True))


def middle_of(
    votes: Sequence[tuple[Address, Said]],
    weights: Mapping[Address, int],
    key: Callable[[Said], tuple[int | str, ...]],
) -> Said:
    """Return what is said in the middle by weight, in the order of `key` and then of accounts; of two, the lower."""
    ordered = sorted(votes, key=lambda item: (key(item[1]), item[0].lower()))
    total, so_far = sum(weights.get(voter, 0) for voter, _ in votes), 0
    for voter, vote in ordered:
        so_far += weights.get(voter, 0)
        if 2 * so_far >= total:
            return vote
    return ordered[-1][1]


def weight_of_voters(voters: Collection[Address], weights: Mapping[Address, int]) -> int:
    """Return what voters weigh together; who is no member weighs nothing."""
    return sum(weights.get(voter, 0) for voter in voters)
