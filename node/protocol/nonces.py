"""Proof-of-Compute nonces: which prompts to compute, how a result becomes bytes, which ones are checked.

Every nonce counts; there is no lottery, because winners can be predicted or searched for cheaply. What cannot be had
cheaply is the model's own log-probabilities over a prompt nobody has seen before.
"""

import hashlib
import math
import operator
import struct
from collections.abc import Sequence

from node.protocol.identifiers import Address, Hash32, NodeId
from node.protocol.merkle import GrowingRoot, merkle_root

PROMPT_TOKENS = 64
"""Length of a nonce's prompt. Measured: 64 tokens tell fp8 from bf16 at every nonce (docs/protocol.md)."""
VECTOR_DIMENSIONS = PROMPT_TOKENS - 1
"""Log-probabilities of tokens 2 to 64; the first has nothing before it."""
VECTOR_BYTES = 2 * VECTOR_DIMENSIONS
VECTOR_SCALE = 32767
"""A unit component becomes the largest int16."""
LENGTH_LEAST = 1e-9
"""No model's numbers differ by so little; squares of smaller ones would lose digits, and length with them."""
BATCH_NONCES_MAX = 1_000_000
"""A larger batch would be 126 MB of vectors to exchange in seconds; a larger node registers several ML nodes."""


def nonce_prompt(
    seed: Hash32, participant: Address, node_id: NodeId, nonce: int, vocabulary_size: int
) -> tuple[int, ...]:
    """Return the prompt of a nonce: PROMPT_TOKENS token ids, close to uniform over the vocabulary."""
    stream = hashlib.shake_256(_personal(b"prompt", seed, participant, node_id) + nonce.to_bytes(8)).digest(
        8 * PROMPT_TOKENS
    )
    return tuple(value % vocabulary_size for value in struct.unpack(f">{PROMPT_TOKENS}Q", stream))


def quantise(logprobs: Sequence[float]) -> bytes:
    """Turn VECTOR_DIMENSIONS natural-log probabilities into VECTOR_BYTES bytes.

    Centred on the mean, scaled to unit length, times VECTOR_SCALE, rounded half to even, as big-endian int16. This is
    the one place where floats become integers: from here on nodes agree exactly. An input that is constant but for
    LENGTH_LEAST has no direction and becomes zeros. Raises ValueError on a wrong length or if not all are finite.
    """
    if len(logprobs) != VECTOR_DIMENSIONS:
        raise ValueError(f"expected {VECTOR_DIMENSIONS} log-probabilities, got {len(logprobs)}")
    # fsum and sqrt are correctly rounded: the same bytes on every platform and Python for the same input.
    try:
        mean = math.fsum(logprobs) / VECTOR_DIMENSIONS
        centred = [value - mean for value in logprobs]
        length = math.sqrt(math.fsum(map(operator.mul, centred, centred)))
    except (OverflowError, ValueError) as error:
        raise ValueError("log-probabilities must be finite") from error
    if not math.isfinite(length):
        raise ValueError("log-probabilities must be finite")
    if length < LENGTH_LEAST:
        return bytes(VECTOR_BYTES)
    return struct.pack(f">{VECTOR_DIMENSIONS}h", *[round(value / length * VECTOR_SCALE) for value in centred])


def squared_distance(one: bytes, other: bytes) -> int:
    """Return the squared Euclidean distance of two quantised vectors, 0 (equal) to about 4 × VECTOR_SCALE²."""
    if len(one) != VECTOR_BYTES or len(other) != VECTOR_BYTES:
        raise ValueError(f"a vector has {VECTOR_BYTES} bytes")
    layout = f">{VECTOR_DIMENSIONS}h"
    differences = list(map(operator.sub, struct.unpack(layout, one), struct.unpack(layout, other)))
    return sum(map(operator.mul, differences, differences))


def vectors_root(vectors: Sequence[bytes]) -> Hash32:
    """Return the Merkle root over a batch: leaf n is SHA-256 of (0x00, n as 8 bytes, the vector of nonce n)."""
    leaves = [
        Hash32(hashlib.sha256(b"\x00" + nonce.to_bytes(8) + vector).digest()) for nonce, vector in enumerate(vectors)
    ]
    return merkle_root(leaves, _inner_hash)


class VectorsRoot(GrowingRoot):
    """Builds `vectors_root` vector by vector, in the memory of a few hashes: a batch may be a million."""

    def __init__(self) -> None:
        super().__init__(_inner_hash)
        self._count = 0

    def add(self, vector: bytes) -> None:
        """Add the vector of the next nonce."""
        self.add_leaf(Hash32(hashlib.sha256(b"\x00" + self._count.to_bytes(8) + vector).digest()))
        self._count += 1


def split_vectors(data: bytes, count: int) -> list[bytes]:
    """Cut a vectors file into its vectors; raise ValueError unless it holds exactly `count`."""
    if len(data) != count * VECTOR_BYTES:
        raise ValueError(f"expected {count} vectors of {VECTOR_BYTES} bytes, got {len(data)} bytes")
    return [data[start : start + VECTOR_BYTES] for start in range(0, len(data), VECTOR_BYTES)]


def draw_sample(seed: Hash32, participant: Address, node_id: NodeId, count: int, sample_size: int) -> tuple[int, ...]:
    """Return which nonces of a batch are checked: min(count, sample_size) distinct ones, ascending.

    `seed` is the hash of a block after the commitment, so a prover cannot know the draw when it commits.
    """
    wanted = min(count, sample_size)
    personal = _personal(b"sample", seed, participant, node_id)
    drawn: set[int] = set()
    attempt = 0
    while len(drawn) < wanted:
        digest = hashlib.sha256(personal + attempt.to_bytes(8)).digest()
        drawn.add(int.from_bytes(digest) % count)
        attempt += 1
    return tuple(sorted(drawn))


def _inner_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + data).digest()


def _personal(purpose: bytes, seed: Hash32, participant: Address, node_id: NodeId) -> bytes:
    """Return a fixed-length prefix that no other purpose, participant or node shares."""
    identity = f"{participant.lower()}/{node_id}".encode()
    return hashlib.sha256(purpose + b"\x00" + seed + identity).digest()
