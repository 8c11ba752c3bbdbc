"""What the whole group makes of an accusation: everybody who has the model judges the accused answers again.

The auditors of a draw can be of one mind by bribery or bad luck, so only this proves anything. Fraud takes a third of
all the weight; what fewer prove takes the pay.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from node.protocol.audit_majorities import (
    JUDGES_MIN,
    NOTHING_TO_JUDGE,
    BandOf,
    Votes,
    is_judged,
    is_unshown,
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
    Test,
    accumulate_confirmed,
    gains,
    is_overturned,
    proven_by,
    total_of,
    without_unsaid,
)
from node.protocol.findings import AuditOutcome, AuditVote
from node.protocol.identifiers import Address, ModelId
from node.protocol.records import EpochGroup
from node.protocol.verdicts import Verdict

NARROWLY_PROVEN = "narrowly-proven"
"""Proven, by members with less than a third of all weight, or by bands that convict nobody: it is no fraud, and the
executor's nodes with the model are unpaid."""
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
    confirmed: Gains = NO_EVIDENCE
    """Evidence so far, while it is open."""
    convicting: Gains = NO_EVIDENCE
    """Likewise, by the bands that fraud is proven by: what a third of all weight finds."""
    quiet_epochs: int = 0
    is_settled: bool = False
    """Whether nothing is left of the accusation, nor of the evidence that made it."""


NO_APPEAL = Appeal(None, "")
OVERTURNED = Appeal(Verdict.VALID, "", is_settled=True)


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What one judge found of one answer, by the node that it names."""

    judge: Address
    gained: Gains
    """By the node's band."""
    convicting: Gains
    """By the band that fraud is proven by."""


_Judgements = Sequence[_Judgement]
"""Of one answer."""


def is_heard(
    cast: Mapping[Address, AuditVote], model_id: ModelId, able: Collection[Address], weights: Mapping[Address, int]
) -> bool:
    """Whether the judgements of an answer of a model that was judged again count: not if too few judged it, or no more
    than say that there is nothing to judge, or that they were shown nothing, or not what the receipt commits to, or a
    receipt of another model.

    What is challenged its payer shows to whom it likes; and what is accused may be an answer that never was, which most
    of a draw's auditors made up, or one of another model, which others with this one cannot judge.
    """
    of_able = {voter: vote for voter, vote in cast.items() if voter in able}
    judged = [voter for voter, vote in of_able.items() if _is_judged_as(vote, model_id)]
    against = [
        voter
        for voter, vote in of_able.items()
        if _names_another(vote, model_id)
        or is_unshown(vote)
        or (not is_judged(vote) and vote.reason in NOTHING_TO_JUDGE)
    ]
    weight = weight_of_voters(judged, weights)
    is_enough = len(judged) >= JUDGES_MIN and ABLE_PARTS * weight >= weight_of_voters(able, weights)
    return is_enough and weight > weight_of_voters(against, weights)


def _is_judged_as(vote: AuditVote, model_id: ModelId) -> bool:
    return is_judged(vote) and vote.model_id == model_id


def _names_another(vote: AuditVote, model_id: ModelId) -> bool:
    """Whether a voter saw a receipt, and that it is of another model."""
    return bool(vote.model_id) and vote.model_id != model_id


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
    read, summed, unshown = list[_Judgements](), list[_Judgements](), set[Address]()
    for digest in dict.fromkeys((*accused.accused, *accused.challenged)):
        is_accused = digest in accused.accused
        cast = votes.get((accused.executor, REJUDGED, digest), {})
        of_answer = [
            _judgement(voter, vote, band_of, fraud_band_of)
            for voter, vote in cast.items()
            if voter in able and _is_judged_as(vote, accused.model_id)
        ]
        if is_accused:
            read.append(of_answer)
            unshown.update(voter for voter, vote in cast.items() if voter in able and is_unshown(vote))
        if not is_heard(cast, accused.model_id, able, weights):
            continue
        if is_accused:
            summed.append(of_answer)
        proof = proven_by(_middle(of_answer, weights).gained)
        if proof is not None:  # by itself: whoever paid may have chosen it among many
            finding = [found.judge for found in of_answer if proven_by(found.convicting) is not None]
            if _is_wide(finding, weights):
                return Appeal(Verdict.INVALID, proof.value, is_settled=True)
            is_proven = True
    in_sum = _judge_sum(accused, read, summed, unshown, weights)
    if in_sum.reason == NARROWLY_PROVEN or (is_proven and in_sum.outcome is not Verdict.INVALID):
        # It stays open, as far as it is proven and no farther: who cheats on is unpaid on.
        kept, convicting = (
            tuple(min(bits, CONFIRMED_MICRO_BITS) for bits in bets) for bets in (in_sum.confirmed, in_sum.convicting)
        )
        return replace(in_sum, outcome=Verdict.INVALID, reason=NARROWLY_PROVEN, confirmed=kept, convicting=convicting)
    return in_sum if accused.accused or accused.confirmed else NO_APPEAL


def _judgement(voter: Address, vote: AuditVote, band_of: BandOf, fraud_band_of: BandOf) -> _Judgement:
    answered = vote.executor, vote.node_id, vote.model_id
    band, fraud_band = band_of(*answered), fraud_band_of(*answered)
    gained = gains(vote.figures, band)
    return _Judgement(voter, gained, gained if fraud_band == band else gains(vote.figures, fraud_band))


def _middle(judged: _Judgements, weights: Mapping[Address, int]) -> _Judgement:
    by_judge = [(found.judge, found) for found in judged]
    return middle_of(by_judge, weights, lambda found: (*strength_of(found.gained), *found.convicting))


def _judge_sum(
    accused: AuditOutcome,
    read: Sequence[_Judgements],
    judged: Sequence[_Judgements],
    unshown: Collection[Address],
    weights: Mapping[Address, int],
) -> Appeal:
    """Return what comes of the judgements of accused answers together, with what was `confirmed` before: of all that
    anybody `read`, and of those that count as `judged`. `unshown` are those who were not shown one of them.

    What the middle of those who judge finds, by the bands of nodes, takes the pay. What few judged is left out beside
    what many did: friends of a cheat may be shown what nobody else is. Fraud is what a third of all weight finds, by
    the bands that convict, in a sum of its own. So no fewer than a third bring an honest node any nearer to it: not to
    wait for a little bad luck on top, nor by choosing which answers count, or which epochs:
    that sum begins anew where no third read any. Unless a third was shown none, else who cheats would choose so.
    """
    if not accused.accused:
        return _left_open(accused, accused.confirmed, accused.convicting)
    of_third = _gains_of_a_third(read, weights)
    if of_third is not None:
        convicting = accumulate_confirmed(accused.convicting, of_third)
    else:
        readers = {found.judge for of_answer in read for found in of_answer}
        convicting = accused.convicting if _is_wide(set(unshown) - readers, weights) else NO_EVIDENCE
    if not judged:
        return _left_open(accused, accused.confirmed, convicting)
    gained = total_of(_middle(of_answer, weights).gained for of_answer in _judged_by_many(judged, weights))
    confirmed = accumulate_confirmed(accused.confirmed, gained)
    proof = _proof(confirmed, gained)
    if proof is None:
        if is_overturned(without_unsaid(accused.evidence, confirmed, gained), confirmed):
            return OVERTURNED
        return _left_open(accused, confirmed, convicting)
    if of_third is None or _proof(convicting, of_third) is None:
        return Appeal(Verdict.INVALID, NARROWLY_PROVEN, confirmed, convicting)
    return Appeal(Verdict.INVALID, proof.value, is_settled=True)


def _proof(confirmed: Gains, gained: Gains) -> Test | None:
    """Return what is proven: a bet on what no answer says any more, such as log-probabilities, proves nothing anew."""
    gaining = tuple(bits if gain > 0 else 0 for bits, gain in zip(confirmed, gained, strict=False))
    return proven_by(gaining, CONFIRMED_MICRO_BITS)


def _judged_by_many(judged: Sequence[_Judgements], weights: Mapping[Address, int]) -> list[_Judgements]:
    """Return the answers but those that were judged by less than half of the weight that judged another."""
    weighed = [(weight_of_voters([found.judge for found in of_answer], weights), of_answer) for of_answer in judged]
    most = max(weight for weight, _ in weighed)
    return [of_answer for weight, of_answer in weighed if 2 * weight >= most]


def _gains_of_a_third(read: Sequence[_Judgements], weights: Mapping[Address, int]) -> Gains | None:
    """Return what each bet gains at least by the own figures of members that may convict of fraud; None if fewer
    read any. Of all that each read: were it of what counts as judged, a majority would choose which that is."""
    of_judges: dict[Address, list[Gains]] = {}
    for of_answer in read:
        for found in of_answer:
            of_judges.setdefault(found.judge, []).append(found.convicting)
    if not _is_wide(of_judges, weights):
        return None
    by_bet = zip(*(total_of(gained) for gained in of_judges.values()), strict=True)
    return tuple(_least_of_a_third(list(zip(bits, of_judges, strict=True)), weights) for bits in by_bet)


def _least_of_a_third(gained: Sequence[tuple[int, Address]], weights: Mapping[Address, int]) -> int:
    """Return the most that members which may convict find at least; there are enough of them."""
    so_far, total = 0, sum(weights.values())
    ordered = sorted(gained, reverse=True)
    for bits, judge in ordered:
        so_far += weights.get(judge, 0)
        if FRAUD_PARTS * so_far >= total:
            return bits
    return ordered[-1][0]


def _left_open(accused: AuditOutcome, confirmed: Gains, convicting: Gains) -> Appeal:
    """Return an accusation that is neither proven nor overturned; forgotten once it was quiet for long: an executor may
    have no answers for ever, or say nothing any more of what it was accused of.
    """
    strongest = max(confirmed, default=0)
    is_spoken_for = strongest >= OVERTURNED_MICRO_BITS and strongest > max(accused.confirmed, default=0)
    quiet_epochs = 0 if is_spoken_for or not confirmed else accused.quiet_epochs + 1
    if quiet_epochs > QUIET_EPOCHS_MAX:
        return OVERTURNED
    return Appeal(Verdict.ABSTAIN, "", confirmed, convicting, quiet_epochs)


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
