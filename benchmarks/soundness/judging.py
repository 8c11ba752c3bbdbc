"""What an auditor measures of a claimed answer: for each token its margin, its distance and its surprise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.soundness.claims import DECLARED, Claim
from benchmarks.soundness.models import VOCABULARY_SIZE
from node.protocol.draws import Prefill, token_margins

CANDIDATES = 50
"""As audits ask for."""
MISSING_FLOOR = -60.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one answer, token by token."""

    margins: tuple[float, ...]
    """draws.py: 0 for the rule's choice, clipped at 1."""
    distances: tuple[float, ...]
    """Mean over the claimed likeliest tokens of min(1, |difference of log-probabilities|)."""
    surprises: tuple[float, ...]
    """-ln p less entropy, in nats: 0 on average for tokens drawn from the model at the declared temperature."""
    variances: tuple[float, ...]
    """Of -ln p under the model."""


def judge(claim: Claim, prefills: Sequence[Prefill]) -> Figures:
    """Return what one prefill by an auditor tells of a claim."""
    margins = token_margins(len(claim.prompt), claim.tokens, prefills, claim.seed, DECLARED, VOCABULARY_SIZE)
    moments = [_moments(prefill) for prefill in prefills]
    surprises = [
        -prefill.logprobs[token] - entropy
        for token, prefill, (entropy, _) in zip(claim.tokens, prefills, moments, strict=True)
    ]
    distances = [distance(top, prefill) for top, prefill in zip(claim.tops, prefills, strict=True)]
    return Figures(tuple(margins), tuple(distances), tuple(surprises), tuple(variance for _, variance in moments))


def distance(claimed: Mapping[int, float], prefill: Prefill) -> float:
    """Return the mean of min(1, |difference|); of a token that the auditor was not told, the least it can be."""
    edge = min(prefill.logprobs.values())
    total = 0.0
    for token, value in claimed.items():
        own = prefill.logprobs.get(token)
        total += min(1.0, max(0.0, value - edge) if own is None else abs(value - own))
    return total / max(1, len(claimed))


def _moments(prefill: Prefill) -> tuple[float, float]:
    """Entropy, and variance of -ln p, at temperature 1. What is not known is taken to be spread evenly."""
    known = [max(value, MISSING_FLOOR) for value in prefill.logprobs.values()]
    rest = max(0.0, 1.0 - math.fsum(math.exp(value) for value in known))
    pairs = [(math.exp(value), value) for value in known]
    if rest > 0:
        pairs.append((rest, math.log(rest / max(1, VOCABULARY_SIZE - len(known)))))
    entropy = -math.fsum(weight * value for weight, value in pairs)
    square = math.fsum(weight * value * value for weight, value in pairs)
    return entropy, max(0.0, square - entropy * entropy)
