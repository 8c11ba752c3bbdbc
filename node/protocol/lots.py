"""Weighted draws that every node makes alike: who comes first has a chance in proportion to its weight.

Each candidate draws the score -log2(u) / weight with u uniform from a hash; the smallest wins, the next is the draw
without it, and so on. So candidates that leave change nothing between those that stay.

The exact score takes ten times as long as the hash, so that draws among many (`first_of`, `is_among_first`) estimate
the scores first, and compute those that an estimate cannot tell apart. What they return is what scores alone would say.
"""

import hashlib
import heapq
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

LOGARITHM_FRACTION_BITS = 32
"""-log2(u) is exact to 2^-32. The best of n equal nodes scores about 1/n, so even among 10,000 nodes the error changes
fewer than one choice in 100,000; what matters is that every node makes the same one."""
UNIFORM_BITS = 64
ESTIMATE_ERROR = 2.0**-28
"""By how much an estimate of -log2(u) may differ from the exact one, which is cut at 2^-32; numbers up to 64 in double
precision, divided or multiplied once or twice, differ by less than 2^-44."""
SCORE_ERROR = 2.0**-96
"""By how much a score, in whole numbers, may be below what was divided: all that tells apart weights beyond 2^96."""
_NUMBER = struct.Struct(f">Q{32 - UNIFORM_BITS // 8}x")
"""The number that a digest begins with."""


def lot(seed: bytes, identity: bytes, weight: int) -> int:
    """Return the score of a candidate with a positive `weight`; the smallest is drawn first."""
    return (_negative_log2(_uniform(seed + identity)) << UNIFORM_BITS) // weight


@dataclass(frozen=True, slots=True)
class Candidates:
    """Who takes part in many draws, made ready for them. Of two with the same score the lesser identity comes first."""

    identities: tuple[bytes, ...]
    """Heaviest first: of these most come before any other."""
    weights: tuple[int, ...]
    weights_float: tuple[float, ...]
    places: dict[bytes, int]
    """By identity."""


def candidates_of(weights: Iterable[tuple[bytes, int]]) -> Candidates:
    """Return the candidates with these identities and weights; those without a positive weight never win."""
    ordered = sorted(
        ((identity, weight) for identity, weight in weights if weight > 0), key=lambda one: (-one[1], one[0])
    )
    identities = tuple(identity for identity, _ in ordered)
    return Candidates(
        identities,
        tuple(weight for _, weight in ordered),
        tuple(float(weight) for _, weight in ordered),
        {identity: place for place, identity in enumerate(identities)},
    )


def first_of(seed: bytes, candidates: Candidates, count: int) -> tuple[bytes, ...]:
    """Return the `count` candidates with the smallest `lot(seed, identity, weight)`, smallest first."""
    estimates = [
        (UNIFORM_BITS - log2(_uniform(seed + identity) + 1)) / weight
        for identity, weight in zip(candidates.identities, candidates.weights_float, strict=True)
    ]
    errors = [ESTIMATE_ERROR / weight + SCORE_ERROR for weight in candidates.weights_float]
    limit = max(
        heapq.nsmallest(count, (estimate + error for estimate, error in zip(estimates, errors, strict=True))),
        default=0.0,
    )
    scored = [
        (lot(seed, candidates.identities[place], candidates.weights[place]), candidates.identities[place])
        for place, (estimate, error) in enumerate(zip(estimates, errors, strict=True))
        if estimate - error <= limit
    ]
    return tuple(identity for _, identity in sorted(scored)[:count])


def is_among_first(
    seed: bytes, candidates: Candidates, count: int, identity: bytes, without: bytes | None = None
) -> bool:
    """Whether `identity` is in `first_of` of the candidates, the one named by `without` left out.

    Takes far fewer hashes than `first_of` unless it is, for it ends once `count` others come first.
    """
    place = candidates.places.get(identity)
    if place is None or identity == without:
        return False
    own = UNIFORM_BITS - log2(_uniform(seed + identity) + 1)
    weight = candidates.weights_float[place]
    surely_below = (own - ESTIMATE_ERROR) / weight - SCORE_ERROR
    surely_above = (own + ESTIMATE_ERROR) / weight + SCORE_ERROR
    before = 0
    for other, other_weight in zip(candidates.identities, candidates.weights_float, strict=True):
        estimate = UNIFORM_BITS - log2(_uniform(seed + other) + 1)
        if estimate - ESTIMATE_ERROR > surely_above * other_weight or other in (identity, without):
            continue
        if estimate + ESTIMATE_ERROR < surely_below * other_weight or _comes_before(seed, candidates, other, identity):
            before += 1
            if before == count:
                return False
    return True


def _comes_before(seed: bytes, candidates: Candidates, one: bytes, other: bytes) -> bool:
    """Whether `one` is drawn before `other`, by exact scores."""
    scores = [lot(seed, who, candidates.weights[candidates.places[who]]) for who in (one, other)]
    return (scores[0], one) < (scores[1], other)


def _uniform(data: bytes) -> int:
    number: int = _NUMBER.unpack(hashlib.sha256(data).digest())[0]
    return number


def _negative_log2(uniform: int) -> int:
    """Return -log2((uniform + 1) / 2^64) as a fixed-point integer, by repeated squaring of the mantissa."""
    value = uniform + 1
    exponent = value.bit_length() - 1
    mantissa = value << (UNIFORM_BITS - exponent)  # in [2^64, 2^65): 1.x as fixed point
    fraction = 0
    for _ in range(LOGARITHM_FRACTION_BITS):
        mantissa = mantissa * mantissa >> UNIFORM_BITS
        fraction <<= 1
        if mantissa >> (UNIFORM_BITS + 1):
            mantissa >>= 1
            fraction |= 1
    return (UNIFORM_BITS << LOGARITHM_FRACTION_BITS) - ((exponent << LOGARITHM_FRACTION_BITS) | fraction)
