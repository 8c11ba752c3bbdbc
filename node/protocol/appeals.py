"""What the whole group makes of an accusation: everybody who has the model judges the accused answers again.

Five auditors can be of one mind by bribery or bad luck, so only this proves anything. Fraud takes a third of all the
weight; what fewer prove takes the pay.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from node.protocol.audit_majorities import (
    NOTHING_TO_JUDGE,
    BandOf,
    Votes,
    is_judged,
    middle_of,
    strength_of,
    weight_of_voters,
)
from node.protocol.audit_sampling import judges_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import (
    CONFIRMED_MICRO_BITS,
    NO_EVIDENCE,
    OVERTURNED_MICRO_BITS,
    Gains,
    accumulate_confirmed,
    gains,
    is_overturned,
    proven_by,
    total_of,
)
from node.protocol.findings import AuditOutcome, AuditVote
from node.protocol.identifiers import Address, ModelId
from node.protocol.records import EpochGroup
from node.protocol.verdicts import Verdict

NARROWLY_PROVEN = "narrowly-proven"
"""Proven, by members with less than a third of all weight, or by bands that convict nobody: it is no fraud, and the
executor's nodes with the model are unpaid."""
JUDGES_MIN = 2
"""Members who must agree to look: where a model has fewer others, one could ruin the only rival it has."""
ABLE_PARTS = 3
"""Judging again counts if those who did have at least one part in so many of the weight that serves the model: a
handful that is awake at night must not convict."""
FRAUD_PARTS = 3
"""Fraud takes one part in so many of all the weight of the group, the accused's included, that finds it proven. No
cartel below a third convicts alone, however few serve the model."""

QUIET_EPOCHS_MAX = 256
"""So long an accusation is open in which nothing speaks against the node any more, as for want of answers. Then it is
forgotten. It costs an honest executor nothing, and who cheats again later is still accused."""


@dataclass(frozen=True, slots=True)
class Appeal:
    """What the whole group made of an accusation."""

    outcome: Verdict | None
    """VALID overturns it, or forgets it; INVALID confirms it, ABSTAIN leaves it open; None: there was none."""
    reason: str
    """The test that confirms it."""
    confirmed: tuple[int, ...]
    """Evidence so far, while it is open."""
    convicting: tuple[int, ...] = ()
    """Likewise, by the bands that fraud is proven by."""
    is_narrow: bool = False
    """Whether members with less than a third of all weight found a part of it: it proves no fraud."""
    quiet_epochs: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left of the accusation, nor of the evidence that made it."""
        return self.outcome is Verdict.VALID or (self.outcome is Verdict.INVALID and self.reason != NARROWLY_PROVEN)


NO_APPEAL = Appeal(None, "", NO_EVIDENCE)


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What one judge found of one answer, by the node that it names."""

    judge: Address
    gained: Gains
    """By the node's band."""
    convicting: Gains
    """By the band that fraud is proven by."""


_Judgements = Sequence[_Judgement]
"""Of one answer; there are some."""


def heard(
    cast: Mapping[Address, AuditVote], able: Collection[Address], weights: Mapping[Address, int]
) -> list[tuple[Address, AuditVote]]:
    """Return the judgements of an answer that was judged again; none if too few judged it, or no more than say that
    there is nothing to judge."""
    of_able = {voter: vote for voter, vote in cast.items() if voter in able}
    judged = [(voter, vote) for voter, vote in of_able.items() if is_judged(vote)]
    seeing_nothing = [v for v, vote in of_able.items() if not is_judged(vote) and vote.reason in NOTHING_TO_JUDGE]
    weight = weight_of_voters([voter for voter, _ in judged], weights)
    is_enough = len(judged) >= JUDGES_MIN and ABLE_PARTS * weight >= weight_of_voters(able, weights)
    return judged if is_enough and weight > weight_of_voters(seeing_nothing, weights) else []


def judge_again(
    accused: AuditOutcome,
    group: EpochGroup,
    votes: Votes,
    weights: Mapping[Address, int],
    band_of: BandOf,
    fraud_band_of: BandOf,
) -> Appeal:
    """Return what the whole group makes of an accusation. Each answer is held against the band of its own node, and for
    fraud against the other one."""
    able, is_proven = judges_of(accused, group), False
    summed: list[_Judgements] = []
    for digest in dict.fromkeys((*accused.accused, *accused.challenged)):
        judged = heard(votes.get((accused.executor, REJUDGED, digest), {}), able, weights)
        if not judged:
            continue
        of_answer = [_judgement(voter, vote, band_of, fraud_band_of) for voter, vote in judged]
        if digest in accused.accused:
            summed.append(of_answer)
        proof = proven_by(_middle(of_answer, weights).gained)
        if proof is not None:  # by itself: whoever paid may have chosen it among many
            finding = [found.judge for found in of_answer if proven_by(found.convicting) is not None]
            if _is_wide(finding, weights):
                return Appeal(Verdict.INVALID, proof.value, NO_EVIDENCE)
            is_proven = True
    in_sum = _judge_sum(accused, summed, weights)
    if in_sum.reason == NARROWLY_PROVEN or (is_proven and in_sum.outcome is not Verdict.INVALID):
        # It stays open, as far as it is proven and no farther: who cheats on is unpaid on.
        kept, convicting = (
            tuple(min(bits, CONFIRMED_MICRO_BITS) for bits in bets) for bets in (in_sum.confirmed, in_sum.convicting)
        )
        return Appeal(Verdict.INVALID, NARROWLY_PROVEN, kept, convicting, in_sum.is_narrow, in_sum.quiet_epochs)
    return in_sum if accused.accused or accused.confirmed else NO_APPEAL


def _judgement(voter: Address, vote: AuditVote, band_of: BandOf, fraud_band_of: BandOf) -> _Judgement:
    answered = vote.executor, vote.node_id, vote.model_id
    band, fraud_band = band_of(*answered), fraud_band_of(*answered)
    gained = gains(vote.figures, band)
    return _Judgement(voter, gained, gained if fraud_band == band else gains(vote.figures, fraud_band))


def _middle(judged: _Judgements, weights: Mapping[Address, int]) -> _Judgement:
    by_judge = [(found.judge, found) for found in judged]
    return middle_of(by_judge, weights, lambda found: (*strength_of(found.gained), *found.convicting))


def _judge_sum(accused: AuditOutcome, judged: Sequence[_Judgements], weights: Mapping[Address, int]) -> Appeal:
    """Return what comes of the judgements of accused answers together, with what was `confirmed` before.

    What few found proves no fraud with a little luck of honest machines on top: once many judge, they begin anew. And
    what few judged is left out beside what many did: friends of a cheat may be shown what nobody else is. What the
    bands of nodes prove takes the pay; fraud is what the bands that convict prove, in a sum of their own.
    """
    if not judged:
        return _left_open(accused, accused.confirmed, accused.convicting, is_narrow=accused.is_narrow)
    wide = [of_answer for of_answer in judged if _is_wide([found.judge for found in of_answer], weights)]
    is_narrow = not wide
    is_anew = accused.is_narrow and bool(wide)
    before = NO_EVIDENCE if is_anew else accused.confirmed
    convicting_before = NO_EVIDENCE if is_anew else accused.convicting
    counted = wide or judged
    middles = [_middle(of_answer, weights) for of_answer in counted]
    gained = total_of(found.gained for found in middles)
    confirmed = accumulate_confirmed(before, gained)
    convicting = accumulate_confirmed(convicting_before, total_of(found.convicting for found in middles))
    # A bet on what it does not say any more, such as log-probabilities, proves nothing anew.
    proof = proven_by(
        tuple(bits if gain > 0 else 0 for bits, gain in zip(confirmed, gained, strict=False)), CONFIRMED_MICRO_BITS
    )
    if proof is None:
        if is_overturned(accused.evidence, confirmed):
            return Appeal(Verdict.VALID, "", NO_EVIDENCE)
        return _left_open(accused, confirmed, convicting, is_narrow=is_narrow)
    found = [judgement for of_answer in counted for judgement in of_answer]
    finding = _finding(before, [(judgement.judge, judgement.gained) for judgement in found])
    convinced = _finding(convicting_before, [(judgement.judge, judgement.convicting) for judgement in found])
    is_narrow = is_narrow or not _is_wide(finding, weights)
    if is_narrow or not _is_wide(convinced, weights):
        return Appeal(Verdict.INVALID, NARROWLY_PROVEN, confirmed, convicting, is_narrow)
    return Appeal(Verdict.INVALID, proof.value, NO_EVIDENCE)


def _finding(before: Gains, found: Iterable[tuple[Address, Gains]]) -> list[Address]:
    """Return which judges find it proven, by what bets gain from their own figures on top of what there was before."""
    of_judges: dict[Address, list[Gains]] = {}
    for judge, gained in found:
        of_judges.setdefault(judge, []).append(gained)
    return [
        judge
        for judge, gained in of_judges.items()
        if proven_by(accumulate_confirmed(before, total_of(gained)), CONFIRMED_MICRO_BITS) is not None
    ]


def _left_open(accused: AuditOutcome, confirmed: Gains, convicting: Gains, *, is_narrow: bool) -> Appeal:
    """Return an accusation that is neither proven nor overturned; forgotten once it was quiet for long: an executor may
    have no answers for ever, or say nothing any more of what it was accused of.
    """
    strongest = max(confirmed, default=0)
    is_spoken_for = strongest >= OVERTURNED_MICRO_BITS and strongest > max(accused.confirmed, default=0)
    quiet_epochs = 0 if is_spoken_for or not confirmed else accused.quiet_epochs + 1
    if quiet_epochs > QUIET_EPOCHS_MAX:
        return Appeal(Verdict.VALID, "", NO_EVIDENCE)
    return Appeal(Verdict.ABSTAIN, "", confirmed, convicting, is_narrow, quiet_epochs)


def _is_wide(voters: Collection[Address], weights: Mapping[Address, int]) -> bool:
    """Whether members with so much weight may convict of fraud."""
    return FRAUD_PARTS * weight_of_voters(voters, weights) >= sum(weights.values())


def narrowly_proven(outcomes: Sequence[AuditOutcome]) -> dict[tuple[Address, ModelId], int]:
    """Return whose answers of which models were proven false without being fraud: these nodes are not paid. And the
    most that they weighed since they gave these answers."""
    return {
        (outcome.executor, outcome.model_id): outcome.weight
        for outcome in outcomes
        if outcome.fate is Verdict.INVALID and outcome.reason == NARROWLY_PROVEN
    }
