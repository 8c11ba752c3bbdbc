"""What a count says of the rate behind it: the largest rate under which so few would still be seen now and then."""

from math import exp, lgamma, log, log1p

STEPS = 60
"""Halvings: far below single precision."""


def rate_at_most(seen: int, trials: int, doubt: float) -> float:
    """Return the exact upper bound (Clopper and Pearson) of a rate, wrong with a probability of `doubt` at most.

    With a rate above it, `seen` or fewer of `trials` would be seen less often than `doubt`.
    """
    if not 0 <= seen <= trials or trials == 0 or not 0 < doubt < 1:
        raise ValueError("a count lies between 0 and the trials, a doubt between 0 and 1")
    if seen == trials:
        return 1.0
    low, high = seen / trials, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if at_most(seen, trials, middle) > doubt:
            low = middle
        else:
            high = middle
    return high


def at_most(seen: int, trials: int, rate: float) -> float:
    """Return the probability of `seen` or fewer successes in `trials`."""
    if rate <= 0:
        return 1.0
    if rate >= 1:
        return 1.0 if seen >= trials else 0.0
    one, none = log(rate), log1p(-rate)
    whole = lgamma(trials + 1)
    total = 0.0
    for count in range(seen + 1):
        ways = whole - lgamma(count + 1) - lgamma(trials - count + 1)
        total += exp(ways + count * one + (trials - count) * none)
    return min(1.0, total)
