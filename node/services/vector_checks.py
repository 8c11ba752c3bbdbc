"""Has an engine of one's own make vectors again that somebody else gave, and says how far apart they are."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import structlog
import trio

from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.audits import NO_FIGURES, add_figures
from node.protocol.dossiers import VectorEvidence
from node.protocol.findings import AuditFigures
from node.protocol.identifiers import ModelId
from node.protocol.sketches import FLOAT_BYTES, sketch_of, split_sketches
from node.protocol.vector_audits import vector_figures

log = structlog.get_logger(__name__)

VECTORS_PRIORITY = 10
"""Users' requests, at 0, run first."""
VECTORS_AT_ONCE = 16
"""Inputs in one question to the engine: users never wait for many."""
ENGINE_TRIES = 3


@runtime_checkable
class EmbeddingEngine(Protocol):
    """An ML node that makes vectors."""

    @property
    def model_id(self) -> ModelId | None:
        """The model that is loaded and ready, or None."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Return a vector for each prompt (float32, little-endian)."""


async def read_vector_figures(
    engine: EmbeddingEngine, given: VectorEvidence, places: Sequence[int], poc_distance_max: int
) -> AuditFigures | None:
    """Return the figures of the vectors at `places`; None if the engine fails."""
    sketches, figures = split_sketches(given.sketches), NO_FIGURES
    for start in range(0, len(places), VECTORS_AT_ONCE):
        some = places[start : start + VECTORS_AT_ONCE]
        made = await _made([given.inputs[place] for place in some], engine)
        if made is None:
            return None
        dimensions, own = made
        fresh = vector_figures(
            [sketches[place] for place in some],
            own,
            is_as_long=dimensions == given.dimensions,
            poc_distance_max=poc_distance_max,
        )
        figures = add_figures(figures, fresh)
        await trio.lowlevel.checkpoint()
    return figures


async def _made(inputs: Sequence[Sequence[int]], engine: EmbeddingEngine) -> tuple[int, list[bytes]] | None:
    """Return how many dimensions an engine's vectors have, and their sketches; None if it does not make them."""
    for _ in range(ENGINE_TRIES):
        try:
            vectors = await engine.embed(inputs, priority=VECTORS_PRIORITY)
            made = len(vectors[0]) // FLOAT_BYTES, [sketch_of(vector) for vector in vectors]
        except (EngineFailedError, EngineRefusedError, ValueError) as error:
            log.warning("the engine failed while auditing", reason=str(error)[:200])
            await trio.sleep(1.0)
        else:
            return made
    return None
