"""Sketches: what is kept of a vector that a user was given, so that whoever has the model can say whether it is the
model's.

Purpose: a vector has thousands of numbers, and an executor gives millions of vectors before anybody knows which of them
are audited. So a receipt commits to a sketch of each, 130 bytes, which both sides make of what went over the wire.

Detail: the numbers of a vector are folded into as many as a nonce has (each sum takes every 63rd of them, so every
number counts), and quantised like one. The nonces of an embedding model are made in the same way, so the tolerance that
was calibrated for them holds for answers. The length of the vector goes beside the direction, for not all models give
unit vectors; the number of dimensions is in the receipt's commitment. No float gets farther than this: what is compared
are bytes.
"""

import hashlib
import math
import operator
import struct
from collections.abc import Sequence

from node.protocol.bands import POC_DISTANCE_LIMIT
from node.protocol.canonical import sha256_digest
from node.protocol.identifiers import Hash32
from node.protocol.nonces import VECTOR_BYTES, VECTOR_DIMENSIONS, VECTOR_SCALE, quantise, squared_distance

FLOAT_BYTES = 4
LENGTH_BYTES = 4
SKETCH_BYTES = VECTOR_BYTES + LENGTH_BYTES
INPUTS_MAX = 2048
"""Of one request, as in OpenAI's API."""
TOKENS_MAX = 32_768
"""Of all inputs of a call together: their ids fit one frame, and a step of payment stays small."""
INPUTS_JUDGED_MAX = 16
"""Of one answer that was drawn. An auditor has to do for each what its executor did; of the batches that gateways make
of many texts this is a sixteenth."""
INPUTS_JUDGED_AGAIN_MAX = 64
"""Of one answer that the whole group judges again: four times what accused it. All would be work without bound."""


def folded(numbers: Sequence[float]) -> list[float]:
    """Return the VECTOR_DIMENSIONS sums of every so many numbers of a vector."""
    return [math.fsum(numbers[place::VECTOR_DIMENSIONS]) for place in range(VECTOR_DIMENSIONS)]


def numbers_of(vector: bytes) -> tuple[float, ...]:
    """Return the numbers of a vector (float32, little-endian)."""
    return struct.unpack(f"<{len(vector) // FLOAT_BYTES}f", vector)


def sketch_of(vector: bytes) -> bytes:
    """Return the sketch of a vector (float32, little-endian): the same bytes on every machine.

    Raises ValueError if its numbers are not finite, or make no float32 of a length.
    """
    numbers = numbers_of(vector)
    direction = quantise(folded(numbers))
    length = math.sqrt(math.fsum(map(operator.mul, numbers, numbers)))
    try:
        return direction + struct.pack(">f", length)
    except OverflowError as error:
        raise ValueError("a vector's length is beyond its own numbers' range") from error


def sketches_of(data: bytes, dimensions: int) -> bytes:
    """Return the sketches of some whole vectors, one after the other. Raises ValueError."""
    size = FLOAT_BYTES * dimensions
    return b"".join(sketch_of(data[start : start + size]) for start in range(0, len(data), size))


def split_sketches(sketches: bytes) -> list[bytes]:
    """Return each vector's sketch."""
    return [sketches[start : start + SKETCH_BYTES] for start in range(0, len(sketches), SKETCH_BYTES)]


def sketch_distance(one: bytes, other: bytes) -> int:
    """Return the squared distance of two sketches, in the units of nonces: that of their directions, and that of their
    lengths as parts of the longer one. POC_DISTANCE_LIMIT where a length is none."""
    lengths = struct.unpack(">ff", one[VECTOR_BYTES:] + other[VECTOR_BYTES:])
    if not all(math.isfinite(length) and length >= 0 for length in lengths):
        return POC_DISTANCE_LIMIT
    longest = max(lengths)
    apart = round((longest - min(lengths)) / longest * VECTOR_SCALE) if longest else 0
    return squared_distance(one[:VECTOR_BYTES], other[:VECTOR_BYTES]) + apart**2


def inputs_commitment(token_ids: Sequence[Sequence[int]]) -> Hash32:
    """Return the commitment to the tokens of all inputs, in place of a prompt's."""
    return sha256_digest(["quern-inputs", [list(ids) for ids in token_ids]])


def vectors_commitment(dimensions: int, sketches: bytes) -> Hash32:
    """Return the commitment to all vectors, in place of an answer's tokens."""
    return sha256_digest(["quern-vectors", dimensions, sketches])


def judged_inputs(
    inputs: Sequence[tuple[int, ...]], digest: Hash32, seed: Hash32 | None, count: int = INPUTS_JUDGED_MAX
) -> tuple[int, ...]:
    """Return which inputs of the answer `digest` are judged, ascending: no two of the same tokens, for one text is one
    sample however often it was sent.

    `count` of them by `seed`, that of an epoch's draws, which nobody knew when the receipt was signed; all without.
    """
    first = list({ids: place for place, ids in reversed(list(enumerate(inputs)))}.values())
    if seed is None:
        return tuple(sorted(first))
    personal = b"audit-input\x00" + seed + digest
    first.sort(key=lambda place: hashlib.sha256(personal + place.to_bytes(4)).digest())
    return tuple(sorted(first[:count]))
