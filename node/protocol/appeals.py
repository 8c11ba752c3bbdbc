"""What the whole group makes of an accusation: everybody who has the model judges the accused answers again.

Five auditors can be of one mind by bribery or bad luck, so only this proves anything. Fraud takes a third of all the
weight; what fewer prove takes the pay.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from node.protocol.audit_majorities import NOTHING_TO_JUDGE, Votes, is_judged, middle_of, strength_of, weight_of_voters
from node.protocol.audit_sampling import judges_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import (
    CONFIRMED_MICRO_BITS,
    NO_EVIDENCE,
    NO_FIGURES,
    OVERTURNED_MICRO_BITS,
    accumulate_confirmed,
    add_figures,
    gains,
    is_overturned,
    proven_by,
)
from node.protocol.calibration import HonestBand
from node.protocol.findings import AuditFigures, AuditOutcome, AuditVote
from node.protocol.identifiers import Address, ModelId
from node.protocol.records import EpochGroup
from node.protocol.verdicts import Verdict

NARROWLY_PROVEN = "narrowly-proven"
"""Proven, by members with less than a third of all weight: it is no fraud, and its nodes with the model are unpaid."""
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
forgotten. It costs an honest node nothing; with fewer, 64 nodes could cheat in turns, each until it is accused, which
int8 weights are within four epochs (docs/soundness.md)."""


@dataclass(frozen=True, slots=True)
class Appeal:
    """What the whole group made of an accusation."""

    outcome: Verdict | None
    """VALID overturns it, or forgets it; INVALID confirms it, ABSTAIN leaves it open; None: there was none."""
    reason: str
    """The test that confirms it."""
    confirmed: tuple[int, ...]
    """Evidence so far, while it is open."""
    is_narrow: bool = False
    """Whether members with less than a third of all weight found a part of it: it proves no fraud."""
    is_guessed: bool = False
    """Whether a part of it is by a band that guesses at hardware which nobody measured: likewise."""
    quiet_epochs: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left of the accusation, nor of the evidence that made it."""
        return self.outcome is Verdict.VALID or (self.outcome is Verdict.INVALID and self.reason != NARROWLY_PROVEN)


NO_APPEAL = Appeal(None, "", NO_EVIDENCE)


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
    bands: tuple[HonestBand, HonestBand],
) -> Appeal:
    """Return what the whole group makes of an accusation; `bands` are the node's, and that by which fraud is found."""
    (band, fraud_band), able, is_proven = bands, judges_of(accused, group), False
    summed: list[list[tuple[Address, AuditVote]]] = []
    for digest in (*accused.accused, *accused.challenged):
        judged = heard(votes.get((accused.executor, REJUDGED, digest), {}), able, weights)
        if not judged:
            continue
        if digest in accused.accused:
            summed.append(judged)
        proof = proven_by(gains(_middle_figures(judged, weights, band), band))
        if proof is not None:  # by itself: whoever paid may have chosen it among many
            finding = [voter for voter, vote in judged if proven_by(gains(vote.figures, fraud_band)) is not None]
            if _is_wide(finding, weights):
                return Appeal(Verdict.INVALID, proof.value, NO_EVIDENCE)
            is_proven = True
    in_sum = _judge_sum(accused, summed, weights, bands)
    if in_sum.reason == NARROWLY_PROVEN or (is_proven and in_sum.outcome is not Verdict.INVALID):
        # It stays open, as far as it is proven and no farther: who cheats on is unpaid on.
        kept = tuple(min(bits, CONFIRMED_MICRO_BITS) for bits in in_sum.confirmed)
        return replace(in_sum, outcome=Verdict.INVALID, reason=NARROWLY_PROVEN, confirmed=kept)
    return in_sum if accused.accused or accused.confirmed else NO_APPEAL


def _judge_sum(
    accused: AuditOutcome,
    judged: Sequence[Sequence[tuple[Address, AuditVote]]],
    weights: Mapping[Address, int],
    bands: tuple[HonestBand, HonestBand],
) -> Appeal:
    """Return what comes of the judgements of accused answers together, with what was `confirmed` before.

    What few found proves no fraud with a little luck of honest machines on top: once many judge, they begin anew. And
    what few judged is left out beside what many did: friends of a cheat may be shown what nobody else is. What many
    found by a guess does not begin anew, for it takes the pay as it is; of fraud it proves nothing, then or later.
    """
    band, fraud_band = bands
    if not judged:
        return _left_open(accused, accused.confirmed, is_narrow=accused.is_narrow, is_guessed=accused.is_guessed)
    wide = [of_answer for of_answer in judged if _is_wide([voter for voter, _ in of_answer], weights)]
    is_narrow = not wide
    before = NO_EVIDENCE if accused.is_narrow and wide else accused.confirmed
    is_guessed = fraud_band != band or (accused.is_guessed and bool(before))
    together, of_judges = NO_FIGURES, dict[Address, AuditFigures]()
    for of_answer in wide or judged:
        together = add_figures(together, _middle_figures(of_answer, weights, band))
        for voter, vote in of_answer:
            of_judges[voter] = add_figures(of_judges.get(voter, NO_FIGURES), vote.figures)
    gained = gains(together, band)
    confirmed = accumulate_confirmed(before, gained)
    # A bet on what it does not say any more, such as log-probabilities, proves nothing anew.
    proof = proven_by(
        tuple(bits if gain > 0 else 0 for bits, gain in zip(confirmed, gained, strict=False)), CONFIRMED_MICRO_BITS
    )
    if proof is None:
        if is_overturned(accused.evidence, confirmed):
            return Appeal(Verdict.VALID, "", NO_EVIDENCE)
        return _left_open(accused, confirmed, is_narrow=is_narrow, is_guessed=is_guessed)
    is_narrow = is_narrow or not _is_wide(_finding(of_judges, before, band), weights)
    convicting = _finding(of_judges, NO_EVIDENCE if is_guessed else before, fraud_band)
    if is_narrow or not _is_wide(convicting, weights):
        return Appeal(Verdict.INVALID, NARROWLY_PROVEN, confirmed, is_narrow, is_guessed)
    return Appeal(Verdict.INVALID, proof.value, NO_EVIDENCE)


def _finding(of_judges: Mapping[Address, AuditFigures], before: tuple[int, ...], band: HonestBand) -> list[Address]:
    """Return which judges find it proven by a band, by their own figures on top of what was confirmed before."""
    return [
        voter
        for voter, figures in of_judges.items()
        if proven_by(accumulate_confirmed(before, gains(figures, band)), CONFIRMED_MICRO_BITS) is not None
    ]


def _left_open(accused: AuditOutcome, confirmed: tuple[int, ...], *, is_narrow: bool, is_guessed: bool) -> Appeal:
    """Return an accusation that is neither proven nor overturned; forgotten once it was quiet for long: a node may have
    no answers for ever, or say nothing any more of what it was accused of.
    """
    strongest = max(confirmed, default=0)
    is_spoken_for = strongest >= OVERTURNED_MICRO_BITS and strongest > max(accused.confirmed, default=0)
    quiet_epochs = 0 if is_spoken_for or not confirmed else accused.quiet_epochs + 1
    if quiet_epochs > QUIET_EPOCHS_MAX:
        return Appeal(Verdict.VALID, "", NO_EVIDENCE)
    return Appeal(Verdict.ABSTAIN, "", confirmed, is_narrow, is_guessed, quiet_epochs)


def _is_wide(voters: Collection[Address], weights: Mapping[Address, int]) -> bool:
    """Whether members with so much weight may convict of fraud."""
    return FRAUD_PARTS * weight_of_voters(voters, weights) >= sum(weights.values())


def _middle_figures(
    judged: Sequence[tuple[Address, AuditVote]], weights: Mapping[Address, int], band: HonestBand
) -> AuditFigures:
    return middle_of(judged, weights, lambda vote: strength_of(vote, band)).figures


def narrowly_proven(outcomes: Sequence[AuditOutcome]) -> dict[tuple[Address, ModelId], int]:
    """Return whose answers of which models were proven false without being fraud: these nodes are not paid. And the
    most that they weighed since they gave these answers."""
    found: dict[tuple[Address, ModelId], int] = {}
    for outcome in outcomes:
        if outcome.fate is Verdict.INVALID and outcome.reason == NARROWLY_PROVEN:
            key = outcome.executor, outcome.model_id
            found[key] = max(found.get(key, 0), outcome.weight)
    return found
