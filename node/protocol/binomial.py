"""Exact tails of binomial distributions: how many mismatches of a sample no honest node would ever show.

Whole numbers only, so that every node draws the line at the same place.
"""

import functools
import math
from collections.abc import Iterator
from itertools import islice

MILLION = 1_000_000
FALSE_ALARMS_PER_BILLION_MAX = 1_000
"""Of a billion honest batches, in one epoch: one in a million."""
TESTS_PER_BATCH = 4
"""The false alarms are shared out: a batch is tested by its own sample, and with those of its participant in each of
the windows of history.py, of which the last two have half a part each."""
MISMATCH_PER_MILLION_LEAST = 10
"""p0 counts as this at least: no measurement of honest machines is long enough to show less."""

WEIGHT_BITS = 128
"""Of the likeliest number's weight, where a line is drawn by bounds: these are apart by less than the square of the
sample in 2 ** 128, so for any sample in use they leave nothing open but what lies on the line exactly."""

COMMON_ROOM = 0.1
"""In the logarithm of a probability: far more than floats can be wrong by."""


@functools.lru_cache(maxsize=4096)
def reject_from(sampled: int, mismatch_per_million: int, parts: int = TESTS_PER_BATCH) -> int:
    """Return from how many mismatches on a sample is no honest one's; `sampled` + 1 if no number tells.

    The smallest m with P(X >= m) <= FALSE_ALARMS_PER_BILLION_MAX / `parts` in a billion, where X counts the mismatches
    of an honest sample: binomial, `sampled` trials, `mismatch_per_million` each.
    """
    if sampled < 0 or mismatch_per_million < 0:
        raise ValueError("a sample and a rate are not negative")
    chance = max(MISMATCH_PER_MILLION_LEAST, mismatch_per_million)
    if chance >= MILLION:
        return sampled + 1
    line = _line_by_bounds(sampled, chance, parts)
    return _line_by_sums(sampled, chance, parts) if line is None else line


def is_beyond_chance(sampled: int, mismatches: int, mismatch_per_million: int, parts: int = TESTS_PER_BATCH) -> bool:
    """Whether so many mismatches are no honest sample's: `mismatches >= reject_from(...)`, mostly much faster."""
    if mismatches <= 0 or _is_common(sampled, mismatches, mismatch_per_million, parts):
        return False
    return mismatches >= reject_from(sampled, mismatch_per_million, parts)


def detection_per_million(sampled: int, reject_at: int, fakes_per_million: int, mismatch_per_million: int) -> int:
    """Return how often, of a million times, a sample shows `reject_at` mismatches, if so many nonces were made up.

    A made-up nonce always mismatches; the others as honest ones do. Rounded down.
    """
    honest = MILLION - fakes_per_million
    chance = fakes_per_million + honest * mismatch_per_million // MILLION
    whole: int = MILLION**sampled
    below = sum(islice(_terms(sampled, chance), reject_at))
    return (whole - below) * MILLION // whole


def _is_common(sampled: int, mismatches: int, mismatch_per_million: int, parts: int) -> bool:
    """Whether exactly so many mismatches are by themselves likelier than the test allows for, with room for rounding.

    Floats may differ from machine to machine in their last digits, and here that changes nothing: what is not common
    by COMMON_ROOM is decided exactly.
    """
    chance = min(1.0, max(MISMATCH_PER_MILLION_LEAST, mismatch_per_million) / MILLION)
    if mismatches > sampled or chance >= 1.0:
        return chance >= 1.0
    ways = math.lgamma(sampled + 1) - math.lgamma(mismatches + 1) - math.lgamma(sampled - mismatches + 1)
    likely = ways + mismatches * math.log(chance) + (sampled - mismatches) * math.log1p(-chance)
    return likely > math.log(FALSE_ALARMS_PER_BILLION_MAX / parts / 10**9) + COMMON_ROOM


def _line_by_sums(sampled: int, chance: int, parts: int) -> int:
    """Draw the line by adding up whole probabilities: half a second for 50,000 nonces at 2 %."""
    left = MILLION**sampled  # P(X >= m), times MILLION ** sampled
    bound = left * FALSE_ALARMS_PER_BILLION_MAX
    for mismatches, term in enumerate(_terms(sampled, chance)):
        if left * parts * 10**9 <= bound:
            return mismatches
        left -= term
    return sampled + 1


def _line_by_bounds(sampled: int, chance: int, parts: int) -> int | None:
    """Draw the same line by bounds on probabilities, in milliseconds for any sample in use; None if they leave it open.

    Probabilities are taken relative to that of the likeliest number, one step after the other, each rounded down for
    the lower bound and up for the upper one. Only a few standard deviations on each side weigh anything.
    """
    likeliest = (sampled + 1) * chance // MILLION
    above = tuple(_weights_above(sampled, chance, likeliest))
    below = tuple(_weights_above(sampled, MILLION - chance, sampled - likeliest))  # counts what matches
    weights = above + below[1:]  # the likeliest number is the first of both
    least = sum(low for low, _ in weights)
    most = sum(high for _, high in weights) + sampled + 1 - len(weights)  # what is not among them weighs 1 at most
    line = likeliest + len(above)
    tail_least, tail_most = 0, sampled + 1 - line
    for low, high in reversed(above):
        tail_least, tail_most = tail_least + low, tail_most + high
        if tail_least * parts * 10**9 > most * FALSE_ALARMS_PER_BILLION_MAX:
            return line  # surely honest machines show one less, and all below
        if tail_most * parts * 10**9 > least * FALSE_ALARMS_PER_BILLION_MAX:
            return None
        line -= 1
    return None


def _weights_above(sampled: int, chance: int, likeliest: int) -> Iterator[tuple[int, int]]:
    """Yield bounds of P(X = likeliest), P(X = likeliest + 1), ..., relative to the first, until the upper one is 1.

    From the likeliest number on each is at most as likely as the one before: what is not yielded weighs 1 at most.
    """
    rest = MILLION - chance
    low = high = 1 << WEIGHT_BITS
    for mismatches in range(likeliest, sampled + 1):
        yield low, high
        if high <= 1:
            return
        more, fewer = (sampled - mismatches) * chance, (mismatches + 1) * rest
        low, high = low * more // fewer, -(-high * more // fewer)


def _terms(sampled: int, chance: int) -> Iterator[int]:
    """Yield P(X = 0), P(X = 1), ..., times MILLION ** sampled."""
    rest = MILLION - chance
    if rest == 0:
        yield from (0 for _ in range(sampled))
        yield MILLION**sampled
        return
    term = rest**sampled
    for mismatches in range(sampled + 1):
        yield term
        term = term * (sampled - mismatches) * chance // ((mismatches + 1) * rest)
