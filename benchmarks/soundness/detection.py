"""How often the network's rule catches a prover, how often it would accuse an honest one, and how sure that is. Pure.

Detail: what is judged are the sums that auditors note, with the rule of node/protocol/audits.py and a band that
`quern calibrate` would make of the honest machines measured. A chance of one in a million cannot be seen in a few
hundred answers; it is bounded in two ways. By theory: a bet at fair odds reaches b bits with a chance of at most 2^-b,
as long as honest tokens are within the band on average. And by what was seen: Chernoff's bound with the moments of the
honest answers that were measured, which is a fit, no proof.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev

from benchmarks.soundness.data import Windows
from node.calibration.bands import band_of_measurement, widest
from node.calibration.bounds import rate_at_most
from node.calibration.measurement import Measurement
from node.protocol.audits import BETS, LIMIT_MICRO_BITS, MILLION, Test, add_figures, gains
from node.protocol.calibration import HonestBand
from node.protocol.findings import AuditFigures

ENGINE = "vllm"
DOUBT = 0.05
TESTS = tuple(dict.fromkeys(BETS))


@dataclass(frozen=True, slots=True)
class Detection:
    """What becomes of stretches of one length."""

    stretches: int
    caught: int
    by_test: tuple[int, ...]
    """Caught by each of TESTS alone."""
    fitted: float
    """Chance of being caught if evidence is normally distributed."""

    @property
    def share(self) -> float:
        """Caught of all."""
        return self.caught / self.stretches

    @property
    def share_at_least(self) -> float:
        """Lower bound of the chance, wrong with a probability of DOUBT."""
        return 1.0 - rate_at_most(self.stretches - self.caught, self.stretches, DOUBT)


def measured_band(honest: Iterable[tuple[Windows, Sequence[int]]], *, winners: bool) -> HonestBand:
    """Return the band that `quern calibrate` makes of honest machines: their answers, and distances of their nonces.

    `winners`: it is told of the rule's choice at every place.
    """
    bands = []
    for windows, distances in honest:
        answers = tuple(_whole(answer) for answer in windows.answers)
        bands.append(band_of_measurement(Measurement("", "", tuple(distances), answers, knows_winners=winners), ENGINE))
    found = widest(bands)
    if found is None:
        raise ValueError("no honest machine was measured")
    return found


def _whole(windows: Sequence[AuditFigures]) -> AuditFigures:
    return functools.reduce(add_figures, windows)


def detect(stretches: Sequence[AuditFigures], band: HonestBand) -> Detection:
    """Return how many of `stretches` the rule proves wrong, each by itself."""
    gained = [gains(figures, band) for figures in stretches]
    best = [max(gain) / MILLION for gain in gained]
    limit = LIMIT_MICRO_BITS / MILLION
    spread = pstdev(best)
    return Detection(
        stretches=len(stretches),
        caught=sum(bits >= limit for bits in best),
        by_test=tuple(sum(_best_of(test, gain) >= LIMIT_MICRO_BITS for gain in gained) for test in TESTS),
        fitted=1.0 - NormalDist(fmean(best), spread).cdf(limit) if spread else float(fmean(best) >= limit),
    )


def _best_of(test: Test, gained: Sequence[int]) -> int:
    return max(gain for gain, of in zip(gained, BETS, strict=True) if of is test)


def bits_per_thousand_tokens(stretches: Sequence[AuditFigures], band: HonestBand) -> tuple[float, Test]:
    """Return what the best bet gains on average, which adds up over answers, and its test."""
    tokens = sum(figures.tokens for figures in stretches)
    totals = [0] * len(BETS)
    for figures in stretches:
        totals = [total + gain for total, gain in zip(totals, gains(figures, band), strict=True)]
    best = max(range(len(BETS)), key=lambda number: totals[number])
    return totals[best] / MILLION * 1000 / tokens, BETS[best]


def tokens_to_proof(bits_per_thousand: float) -> float:
    """Return how many tokens prove what gains so much on average; infinite for what gains nothing."""
    return math.inf if bits_per_thousand <= 0 else LIMIT_MICRO_BITS / MILLION / bits_per_thousand * 1000


def false_verdict_bound(stretches: Sequence[AuditFigures], band: HonestBand) -> float:
    """Return Chernoff's bound of the chance that an honest stretch is proven wrong, fitted to those measured.

    The sum over bets of the least of E[2^(s·(gain - limit))] over exponents s, of the measured gains. A bet that gains
    next to nothing on every stretch measured is bounded by the largest exponent that is tried.
    """
    gained = [gains(figures, band) for figures in stretches]
    limit = LIMIT_MICRO_BITS / MILLION
    total = 0.0
    for bet in range(len(BETS)):
        bits = [gain[bet] / MILLION for gain in gained]
        total += min(fmean(2.0 ** (s * (value - limit)) for value in bits) for s in EXPONENTS)
    return min(1.0, total)


EXPONENTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Beyond 2 a few hundred samples say nothing of a moment."""
