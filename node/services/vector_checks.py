"""Has an engine of one's own make vectors again that somebody else gave, and says how far apart they are."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import structlog
import trio

from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.audits import NO_FIGURES, add_figures, judge_figures
from node.protocol.bands import HonestBand
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.dossiers import Dossier, VectorEvidence
from node.protocol.findings import AuditFigures
from node.protocol.identifiers import ModelId
from node.protocol.pricing import receipt_digest
from node.protocol.sketches import FLOAT_BYTES, SKETCH_BYTES, judged_inputs, sketch_of, split_sketches
from node.protocol.vector_audits import vector_figures
from node.protocol.verdicts import Verdict
from node.protocol.verification import Check, fails, holds, unchecked
from node.services.embedding_frames import EmbeddingRequest

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

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""

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


async def are_inputs_as_asked(
    engine: EmbeddingEngine, given: VectorEvidence, request: bytes, places: Sequence[int]
) -> bool | None:
    """Whether the token ids at `places` are those of the request's texts; None if the engine fails.

    Else an executor would make one vector of tokens that nobody asked about, and give it to everybody.
    """
    try:
        inputs = from_bytes(EmbeddingRequest, request).inputs
    except SchemaError:
        return False
    if len(inputs) != len(given.inputs):
        return False
    for place in places:
        text = inputs[place].text
        try:
            asked = inputs[place].token_ids if text is None else await engine.tokenize(text)
        except EngineRefusedError as error:  # so would the executor's: there are no tokens of such a text
            log.info("a text is not one that the engine takes", reason=str(error)[:200])
            return False
        except EngineFailedError as error:
            log.warning("the engine failed while auditing", reason=str(error)[:200])
            return None
        if asked != given.inputs[place]:
            return False
    return True


async def check_vectors(dossier: Dossier, engine: object, loaded_cid: str | None, band: HonestBand) -> Check:
    """Check the vectors of a receipt with `engine`, whose model is the version `loaded_cid`, by the rule of audits."""
    receipt, given, reason = dossier.signed.receipt, dossier.vectors, ""
    if given is None:
        reason = "they are not in the file"
    elif not isinstance(engine, EmbeddingEngine) or engine.model_id != receipt.model_id:
        reason = f"the engine has not {receipt.model_id} loaded"
    elif loaded_cid != receipt.model_cid:
        reason = f"the engine has another version of {receipt.model_id} loaded: {loaded_cid}"
    elif {len(given.sketches), SKETCH_BYTES * len(given.inputs)} != {SKETCH_BYTES * receipt.vectors}:
        return fails("vectors", "they are not one for each input")
    if given is None or reason or not isinstance(engine, EmbeddingEngine):
        return unchecked("vectors", reason)
    places = judged_inputs(given.inputs, receipt_digest(receipt), None)
    if not places:
        return unchecked("vectors", "there are none in the file")
    figures = await read_vector_figures(engine, given, places, band.poc_distance_max)
    if figures is None:
        return unchecked("vectors", "the engine failed")
    found = f"{figures.mismatches} of {figures.tokens} are far from the model's"
    verdict, _ = judge_figures(figures, band)
    if verdict is Verdict.INVALID:
        return fails("vectors", f"{found}: an audit would prove that they are not its")
    return holds("vectors", found)


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
