"""What an auditor measures of a claimed answer, token by token, with the functions of node/protocol/audits.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.soundness.claims import DECLARED, Claim
from benchmarks.soundness.models import VOCABULARY_SIZE
from node.protocol.audits import (
    MILLION,
    MISMATCH_MICRO_MIN,
    ClaimedLogprobs,
    counted_margin_micro,
    token_distance_micro,
    token_surprise,
)
from node.protocol.draws import Prefill, token_margins
from node.protocol.findings import AuditFigures

CANDIDATES = 50
"""As audits ask for."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an auditor's engine says of one place."""

    likeliest: Prefill
    """The CANDIDATES likeliest tokens, and the claimed one."""
    winner: int
    """The rule's choice among all tokens."""
    winner_logprob: float

    def told(self, token: int) -> Prefill:
        """Return what decides on the margin of `token` if the rule's choice is known: no other is a greater rival."""
        known = {token: self.likeliest.logprobs[token], self.winner: self.winner_logprob}
        return Prefill(known, 1, self.winner)


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """Of one answer, one number for each token, in millionths."""

    margins: tuple[int, ...]
    """draws.py: 0 for the rule's choice, at most 1."""
    margins_among_likeliest: tuple[int, ...]
    """The same for an auditor that is not told of the rule's choice where that is unlikely."""
    distances: tuple[int, ...]
    """Of claimed log-probabilities."""
    surprises: tuple[int, ...]
    """Entropy plus log-probability, in nats."""
    variances: tuple[int, ...]
    """Of the surprise, under the model."""

    def sums(self, first: int, end: int, *, winners: bool = True) -> AuditFigures:
        """Return what an auditor notes of the tokens from `first` to before `end`; `winners`: as one that knows the
        rule's choice everywhere.
        """
        margins = (self.margins if winners else self.margins_among_likeliest)[first:end]
        return AuditFigures(
            tokens=len(margins),
            mismatches=sum(margin >= MISMATCH_MICRO_MIN for margin in margins),
            margin_micro=sum(map(counted_margin_micro, margins)),
            claimed=len(margins),
            distance_micro=sum(self.distances[first:end]),
            surprise_micro=sum(self.surprises[first:end]),
            variance_micro=sum(self.variances[first:end]),
        )


def judge(claim: Claim, readings: Sequence[Reading]) -> TokenFigures:
    """Return what one prefill by an auditor tells of a claim."""
    prefills = [reading.likeliest for reading in readings]
    told = [reading.told(token) for token, reading in zip(claim.tokens, readings, strict=True)]
    margins = _margins(claim, 0, told)
    among = list(margins)
    for place, reading in enumerate(readings):
        if reading.winner not in reading.likeliest.logprobs:
            (among[place],) = _margins(claim, place, [reading.likeliest])
    surprises = [
        token_surprise(token, prefill, DECLARED) for token, prefill in zip(claim.tokens, prefills, strict=True)
    ]
    distances = [
        token_distance_micro(_claimed(token, top), prefill)
        for token, top, prefill in zip(claim.tokens, claim.tops, prefills, strict=True)
    ]
    return TokenFigures(
        margins,
        tuple(among),
        tuple(distances),
        tuple(round(surprise * MILLION) for surprise, _ in surprises),
        tuple(round(variance * MILLION) for _, variance in surprises),
    )


def _margins(claim: Claim, first: int, prefills: Sequence[Prefill]) -> tuple[int, ...]:
    """Return the margins of as many tokens as there are `prefills`, from place `first` on."""
    tokens = claim.tokens[first : first + len(prefills)]
    margins = token_margins(len(claim.prompt) + first, tokens, prefills, claim.seed, DECLARED, VOCABULARY_SIZE)
    return tuple(round(margin * MILLION) for margin in margins)


def _claimed(token: int, top: Mapping[int, float]) -> ClaimedLogprobs:
    alternatives = tuple((other, round(value * MILLION)) for other, value in top.items())
    return ClaimedLogprobs(token, dict(alternatives).get(token, 0), alternatives)
