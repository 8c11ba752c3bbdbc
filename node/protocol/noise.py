"""The noise of a draw: a number for each (seed, position, token id), the same for everybody.

It is the noise of vLLM's own seeded sampler (model runner V2), so that engines on GPUs follow the rule as they are.
MurmurHash3 (32 bits) over four words, low and high half of the seed, position, token id, gives 32 bits; these give a
number of the Gumbel distribution, with which the argmax of logits and noise is a draw from their softmax.
"""

import math
import struct

WORD = 0xFFFFFFFF
UNIFORM_TOP_DISTANCE = 2.0**-24
"""Single precision knows no number nearer to 1 from below; the least noise, -2.81, belongs to it."""


def noise_bits(seed: int, position: int, token_id: int) -> int:
    """Return the 32 bits for a token. `seed` is taken modulo 2^64, `position` and `token_id` modulo 2^32."""
    state = 0
    for word in (seed & WORD, seed >> 32 & WORD, position & WORD, token_id & WORD):
        state ^= _rotate(word * 0xCC9E2D51 & WORD, 15) * 0x1B873593 & WORD
        state = (_rotate(state, 13) * 5 + 0xE6546B64) & WORD
    state ^= 16  # bytes hashed
    state = (state ^ state >> 16) * 0x85EBCA6B & WORD
    state = (state ^ state >> 13) * 0xC2B2AE35 & WORD
    return state ^ state >> 16


def gumbel(bits: int) -> float:
    """Return the noise that 32 bits give: -ln(-ln(1 - u)) of u = (bits + 1/2) / 2^32 in single precision.

    Engines compute it in single precision throughout: theirs differs by less than 1e-5.
    """
    (uniform,) = struct.unpack("f", struct.pack("f", (bits + 0.5) / 2**32))
    if uniform < 0.25:  # as 1 - u rounds away what decides here: the large noise of small u
        return -math.log(-math.log1p(-uniform))
    (rest,) = struct.unpack("f", struct.pack("f", 1.0 - uniform))
    return -math.log(-math.log(max(rest, UNIFORM_TOP_DISTANCE)))


def noise(seed: int, position: int, token_id: int) -> float:
    """Return the noise of a token: between -2.82 and 22.88."""
    return gumbel(noise_bits(seed, position, token_id))


def _rotate(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & WORD
