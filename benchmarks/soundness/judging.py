"""What an auditor measures of a claimed answer, token by token, with the functions of node/protocol/audits.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.soundness.claims import DECLARED, Claim
from benchmarks.soundness.models import VOCABULARY_SIZE
from node.protocol.audits import (
    DISTANCE_CLIP_MICRO,
    MARGIN_CLIP_MICRO,
    MILLION,
    MISMATCH_MICRO_MIN,
    ClaimedLogprobs,
    token_distance_micro,
    token_surprise,
)
from node.protocol.draws import Prefill, token_margins
from node.protocol.findings import AuditFigures

CANDIDATES = 50
"""As audits ask for."""


@dataclass(frozen=True, slots=True)
class TokenFigures:
    """Of one answer, one number for each token, in millionths."""

    margins: tuple[int, ...]
    """draws.py: 0 for the rule's choice, at most 1."""
    distances: tuple[int, ...]
    """Of claimed log-probabilities."""
    surprises: tuple[int, ...]
    """Entropy plus log-probability, in nats."""
    variances: tuple[int, ...]
    """Of the surprise, under the model."""

    def sums(self, first: int, end: int, *, forged: bool = False) -> AuditFigures:
        """Return what an auditor notes of the tokens from `first` to before `end`.

        With `forged`, the executor claimed exactly what the auditor finds: its log-probabilities tell nothing.
        """
        margins = [min(MARGIN_CLIP_MICRO, value) for value in self.margins[first:end]]
        count = len(margins)
        distances = [min(DISTANCE_CLIP_MICRO, value) for value in self.distances[first:end]]
        return AuditFigures(
            tokens=count,
            mismatches=sum(margin >= MISMATCH_MICRO_MIN for margin in margins),
            margin_micro=sum(margins),
            claimed=count,
            distance_micro=0 if forged else sum(distances),
            surprise_micro=sum(self.surprises[first:end]),
            variance_micro=sum(self.variances[first:end]),
        )


def judge(claim: Claim, prefills: Sequence[Prefill]) -> TokenFigures:
    """Return what one prefill by an auditor tells of a claim."""
    margins = token_margins(len(claim.prompt), claim.tokens, prefills, claim.seed, DECLARED, VOCABULARY_SIZE)
    surprises = [
        token_surprise(token, prefill, DECLARED) for token, prefill in zip(claim.tokens, prefills, strict=True)
    ]
    distances = [
        token_distance_micro(_claimed(token, top), prefill)
        for token, top, prefill in zip(claim.tokens, claim.tops, prefills, strict=True)
    ]
    return TokenFigures(
        tuple(round(value * MILLION) for value in margins),
        tuple(distances),
        tuple(round(surprise * MILLION) for surprise, _ in surprises),
        tuple(round(variance * MILLION) for _, variance in surprises),
    )


def _claimed(token: int, top: Mapping[int, float]) -> ClaimedLogprobs:
    alternatives = tuple((other, round(value * MILLION)) for other, value in top.items())
    return ClaimedLogprobs(token, dict(alternatives).get(token, 0), alternatives)
