"""Vectors that somebody hands in without having computed them, made from real ones, and how far off they are.

A guess by a table is the best that costs nothing: how likely a token is whatever stands before it, learned from the
vectors of other nonces, as anybody can.
"""

import struct
from collections.abc import Sequence
from statistics import fmean

from benchmarks.soundness.claims import EPOCH_SEED, NODE, PARTICIPANT
from benchmarks.soundness.models import VOCABULARY_SIZE
from node.protocol.nonces import VECTOR_DIMENSIONS, nonce_prompt, quantise, squared_distance

LAYOUT = f">{VECTOR_DIMENSIONS}h"
COMPUTED_HALF = VECTOR_DIMENSIONS // 2


def fakes(real: Sequence[bytes]) -> dict[str, list[int]]:
    """Return, by the kind of fake, the squared distances of fakes of the second half of `real`, ascending."""
    half = len(real) // 2
    known, asked = real[:half], real[half:]
    table = _table(known)
    guesses = [_guess(number, table) for number in range(half, len(real))]
    mixed = [_half_computed(own, guess) for own, guess in zip(asked, guesses, strict=True)]
    return {
        # A vector of another prompt, whatever it was computed for: another nonce, node, participant, epoch or order.
        "copied, shared, replayed, precomputed or permuted": _distances(asked, known[: len(asked)]),
        "guessed by a table of tokens": _distances(asked, guesses),
        "half of the prompt computed, half guessed": _distances(asked, mixed),
    }


def _table(vectors: Sequence[bytes]) -> dict[int, float]:
    seen: dict[int, list[int]] = {}
    for number, vector in enumerate(vectors):
        for token, value in zip(_prompt(number)[1:], struct.unpack(LAYOUT, vector), strict=True):
            seen.setdefault(token, []).append(value)
    return {token: fmean(values) for token, values in seen.items()}


def _guess(number: int, table: dict[int, float]) -> bytes:
    return quantise([table.get(token, 0.0) for token in _prompt(number)[1:]])


def _half_computed(own: bytes, guess: bytes) -> bytes:
    return quantise([*struct.unpack(LAYOUT, own)[:COMPUTED_HALF], *struct.unpack(LAYOUT, guess)[COMPUTED_HALF:]])


def _prompt(number: int) -> tuple[int, ...]:
    return nonce_prompt(EPOCH_SEED, PARTICIPANT, NODE, number, VOCABULARY_SIZE)


def _distances(asked: Sequence[bytes], given: Sequence[bytes]) -> list[int]:
    return sorted(squared_distance(one, other) for one, other in zip(asked, given, strict=True))
