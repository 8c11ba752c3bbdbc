"""The middle of what members say, by their weight: less than half of it cannot move it beyond what others said."""

from collections.abc import Iterable


def weighted_median(values: Iterable[tuple[int, int]]) -> int:
    """Return the lower weighted median of (value, weight) pairs with a positive sum of weights."""
    ordered = sorted(values)
    half, passed = sum(weight for _, weight in ordered), 0
    for value, weight in ordered:
        passed += weight
        if 2 * passed >= half:
            return value
    raise ValueError("a median needs something with weight")
