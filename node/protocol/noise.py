"""The noise of a draw: a number for each (seed, position, token id), the same for everybody.

It is the noise of vLLM's own seeded sampler (model runner V2), so that engines on GPUs follow the rule as they are.
MurmurHash3 (32 bits) over four words, low and high half of the seed, position, token id, gives 32 bits; these give a
number of the Gumbel distribution, with which the argmax of logits and noise is a draw from their softmax.
"""

import math
import struct

WORD = 0xFFFFFFFF
SINGLE = struct.Struct("f")
UNIFORM_TOP_DISTANCE = 2.0**-24
"""Single precision knows no number nearer to 1 from below; the least noise, -2.81, belongs to it."""


def noise_bits(seed: int, position: int, token_id: int) -> int:
    """Return the 32 bits for a token. `seed` is taken modulo 2^64, `position` and `token_id` modulo 2^32."""
    return _token_bits(place_state(seed, position), token_id)


def place_state(seed: int, position: int) -> int:
    """Return what the bits of all tokens at one place begin with."""
    state = 0
    for word in (seed & WORD, seed >> 32 & WORD, position & WORD):
        state = _stir(state, word)
    return state


def _token_bits(state: int, token_id: int) -> int:
    state = _stir(state, token_id & WORD)
    state ^= 16  # bytes hashed
    state = (state ^ state >> 16) * 0x85EBCA6B & WORD
    state = (state ^ state >> 13) * 0xC2B2AE35 & WORD
    return state ^ state >> 16


def _stir(state: int, word: int) -> int:
    word = word * 0xCC9E2D51 & WORD
    state ^= ((word << 15 | word >> 17) & WORD) * 0x1B873593 & WORD
    return ((state << 13 | state >> 19) * 5 + 0xE6546B64) & WORD


def gumbel(bits: int) -> float:
    """Return the noise that 32 bits give: -ln(-ln(1 - u)) of u = (bits + 1/2) / 2^32 in single precision.

    Engines compute it in single precision throughout: theirs differs by less than 1e-5.
    """
    (uniform,) = SINGLE.unpack(SINGLE.pack((bits + 0.5) / 2**32))
    if uniform < 0.25:  # as 1 - u rounds away what decides here: the large noise of small u
        return -math.log(-math.log1p(-uniform))
    (rest,) = SINGLE.unpack(SINGLE.pack(1.0 - uniform))
    return -math.log(-math.log(max(rest, UNIFORM_TOP_DISTANCE)))


def noise(seed: int, position: int, token_id: int) -> float:
    """Return the noise of a token: between -2.82 and 22.88."""
    return gumbel(noise_bits(seed, position, token_id))


def noise_at(state: int, token_id: int) -> float:
    """Return the noise of a token at the place of `place_state`: of many, in half the time."""
    return gumbel(_token_bits(state, token_id))
