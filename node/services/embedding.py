"""Asks the network for vectors of texts: chooses an executor, checks what comes, pays once."""

import array
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from node.protocol.identifiers import ModelId
from node.services.embedding_frames import FLOAT_BYTES, EmbeddingInput


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of some inputs, in their order, and what they cost."""

    model_id: ModelId
    vectors: tuple[bytes, ...]
    """float32, little-endian: what OpenAI's `base64` encoding carries."""
    prompt_tokens: int
    price: int

    def floats(self) -> list[list[float]]:
        """Return the vectors as numbers."""
        return [floats_of(vector) for vector in self.vectors]


def floats_of(vector: bytes) -> list[float]:
    """Return the numbers of a vector (float32, little-endian)."""
    numbers = array.array("f", vector)
    if numbers.itemsize != FLOAT_BYTES:
        raise AssertionError("a C float has four bytes on every machine that runs Python's trio")
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class Embedder:
    """Asks for vectors. `Gateway` for text; the same books, the same executors."""

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput]) -> Embeddings:
        """Return a vector for each input, from as many calls as their size needs.

        Raises GatewayError (`model-not-found`, `no-executor`, `bad-request`, `too-long`, `payment`, `failed`).
        """
        raise NotImplementedError
