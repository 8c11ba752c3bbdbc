"""Weighted draws that every node makes alike: who comes first has a chance in proportion to its weight.

Each candidate draws the score -log2(u) / weight with u uniform from a hash; the smallest wins, the next is the draw
without it, and so on. So candidates that leave change nothing between those that stay.
"""

import hashlib

LOGARITHM_FRACTION_BITS = 32
"""-log2(u) is exact to 2^-32. The best of n equal nodes scores about 1/n, so even among 10,000 nodes the error changes
fewer than one choice in 100,000; what matters is that every node makes the same one."""
UNIFORM_BITS = 64


def lot(seed: bytes, identity: bytes, weight: int) -> int:
    """Return the score of a candidate with a positive `weight`; the smallest is drawn first."""
    uniform = int.from_bytes(hashlib.sha256(seed + identity).digest()[: UNIFORM_BITS // 8])
    return (_negative_log2(uniform) << UNIFORM_BITS) // weight


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
