"""Has an engine of one's own read an answer for an audit; of tokens and of vectors, after users' requests.

*Detail.* What comes of it are figures, which the rule of audits (node/protocol/audits.py) judges. An engine that fails
is tried again, and then nobody is blamed.
"""

import structlog
import trio

from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.audit_evidence import AuditEvidence, KeptAnswer, readable_length
from node.protocol.audits import NO_FIGURES, add_figures, answer_figures, known_tokens
from node.protocol.bands import HonestBand
from node.protocol.draws import Drawn
from node.protocol.findings import AuditFigures
from node.protocol.identifiers import Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import ModelRecord
from node.protocol.sketches import INPUTS_JUDGED_AGAIN_MAX, INPUTS_JUDGED_MAX, judged_inputs
from node.services.receipt_tokens import CANDIDATES, CheckingEngine
from node.services.vector_checks import EmbeddingEngine, are_inputs_as_asked, read_vector_figures

log = structlog.get_logger(__name__)

AUDIT_PRIORITY = 10
"""Users' requests, at 0, run first."""
ENGINE_TRIES = 3
TOKENS_PER_SLICE = 32
"""Tokens that are judged before others get their turn on this thread: a millisecond."""


def is_readable(evidence: AuditEvidence, model: ModelRecord, vocabulary_size: int) -> bool:
    """Whether an engine that has the model can read what it is to check."""
    if evidence.signed.receipt.vectors:
        inputs = () if evidence.vectors is None else evidence.vectors.inputs
        longest, ids = max(map(len, inputs), default=0), [token for entry in inputs for token in entry]
        is_short = longest <= model.context_length
        return is_short and min(ids, default=-1) >= 0 and max(ids) < vocabulary_size
    # Tokens that are none of the model's are read as another (`read_figures`): one of them would hide all others.
    kept = evidence.kept
    return kept is not None and bool(kept.answer.prompt_ids) and bool(kept.answer.output_ids)


async def read_evidence(
    engine: CheckingEngine,
    model: ModelRecord,
    evidence: AuditEvidence,
    band: HonestBand,
    seed: Hash32,
    *,
    is_judged_again: bool,
) -> AuditFigures | str | None:
    """Return the figures of an answer; of vectors some by the `seed` of the epoch's draws, more if it is judged
    again. None if the engine fails, a code if they are of other inputs than were asked for."""
    if not evidence.signed.receipt.vectors:
        return None if evidence.kept is None else await read_figures(engine, evidence.kept, band, model.context_length)
    if evidence.vectors is None or not isinstance(engine, EmbeddingEngine):
        return None
    count = INPUTS_JUDGED_AGAIN_MAX if is_judged_again else INPUTS_JUDGED_MAX
    places = judged_inputs(evidence.vectors.inputs, receipt_digest(evidence.signed.receipt), seed, count)
    is_as_asked = await are_inputs_as_asked(engine, evidence.vectors, evidence.request, places)
    if not is_as_asked:
        return None if is_as_asked is None else "not-the-tokens"
    return await read_vector_figures(engine, evidence.vectors, places, band.poc_distance_max)


async def read_figures(
    engine: CheckingEngine, kept: KeptAnswer, band: HonestBand, context_length: int
) -> AuditFigures | None:
    """Return the figures of an answer, of a very long one those of its beginning; None if the engine fails.

    An engine refuses what leaves no room in the context for a token of its own. Of an answer that fills the context, or
    is longer, what can be read is judged: else any could escape by its length. The figures are to be judged by `band`:
    with the rule's winners if it was measured with them, and else without.

    No engine gives or takes a token id that is none of the model's vocabulary. It is read as another, and in an answer
    its place counts as one that is as far off as can be: the others are judged as usual.
    """
    answer = kept.answer
    drawn = Drawn(answer.seed, answer.sampling) if band.knows_winners else None
    first = len(answer.prompt_ids)
    tokens = answer.output_ids[: readable_length(first, context_length)]
    if not tokens:
        return None
    readable = known_tokens((*answer.prompt_ids, *tokens), engine.vocabulary_size)
    for _ in range(ENGINE_TRIES):
        try:
            prefills = await engine.prefill(readable, first, top=CANDIDATES, priority=AUDIT_PRIORITY, drawn=drawn)
            figures = NO_FIGURES
            for start in range(0, len(tokens), TOKENS_PER_SLICE):
                part = slice(start, start + TOKENS_PER_SLICE)
                fresh = answer_figures(
                    first + start, tokens[part], prefills[part], answer.seed, answer.sampling,
                    engine.vocabulary_size, kept.claimed[part],
                )  # fmt: skip
                figures = add_figures(figures, fresh)
                await trio.lowlevel.checkpoint()
        except (EngineFailedError, EngineRefusedError, ValueError) as error:
            log.warning("the engine failed while auditing", reason=str(error)[:200])
            await trio.sleep(1.0)
        else:
            return figures
    return None
