"""Statistics that tests need: how far counts may lie from a distribution before chance is no excuse."""

import math
from collections.abc import Mapping

EXPECTED_MIN = 8.0
"""Tokens expected less often share one bin: the statistic's distribution holds only for well-filled ones."""
DEVIATIONS = 4.75
"""Standard deviations of the normal distribution: exceeded by chance once in a million."""


def chi_square(
    counts: Mapping[int, int], logprobs: Mapping[int, float], temperature: float, draws: int
) -> tuple[float, int]:
    """Return Pearson's statistic of drawn tokens against known log-probabilities, and its degrees of freedom.

    `logprobs` are of the likeliest tokens at temperature 1. At temperature 1 their probabilities are exact, and all
    other tokens share a bin; at others only ratios between known tokens are known, and other draws are left out.
    """
    weights = {token: math.exp(logprob / temperature) for token, logprob in logprobs.items()}
    known = sum(counts.get(token, 0) for token in weights)
    if temperature == 1.0:
        probabilities, total = dict(weights), draws
    else:
        mass = math.fsum(weights.values())
        probabilities, total = {token: weight / mass for token, weight in weights.items()}, known
    statistic, bins, seen, expected_seen = 0.0, 0, 0, 0.0
    for token, probability in probabilities.items():
        expected = probability * total
        if expected >= EXPECTED_MIN:
            statistic += (counts.get(token, 0) - expected) ** 2 / expected
            bins += 1
            seen += counts.get(token, 0)
            expected_seen += expected
    rest = total - expected_seen
    if rest >= EXPECTED_MIN:
        statistic += (total - seen - rest) ** 2 / rest
        bins += 1
    return statistic, bins - 1


def chi_square_limit(freedom: int) -> float:
    """Return what the statistic exceeds by chance once in a million (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + DEVIATIONS * math.sqrt(spread)) ** 3
