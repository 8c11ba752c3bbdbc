"""Recomputing nonces that somebody else says it computed, in the background of what users ask."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import Engine, EngineFailedError
from node.protocol.identifiers import Address, Hash32
from node.protocol.nonces import VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.records import ModelRecord
from node.protocol.tails import has_tails, makes_vectors, tail_of, tail_prompt, tail_tokens, vector_tail
from node.protocol.weights import NodeKey

log = structlog.get_logger(__name__)

RECOMPUTING_PRIORITY = 10
"""Users' requests, at 0, run first."""
RECOMPUTED_AT_ONCE = 32
"""Nonces per question to the engine: enough to fill its batch, few enough that users never wait for many."""
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What an engine makes of some nonces, in their order."""

    vectors: tuple[bytes, ...]
    tails: tuple[int, ...]
    """Empty for a model that has none."""


async def recompute(
    engine: Engine,
    model: ModelRecord,
    key: NodeKey,
    nonces: Sequence[int],
    generate_seed: Hash32,
    sample_seed: Hash32,
    validator: Address,
) -> Recomputed:
    """Compute the vectors of nonces of the node `key`, and the tails that are `validator`'s. Tries until cancelled."""
    vectors: list[bytes] = []
    tails: list[int] = []
    compute = _vectors_with_own_prompts if makes_vectors(model) else _vectors_with_tails
    for start in range(0, len(nonces), RECOMPUTED_AT_ONCE):
        part = nonces[start : start + RECOMPUTED_AT_ONCE]
        prompts = [nonce_prompt(generate_seed, *key, nonce, engine.vocabulary_size) for nonce in part]
        own = [_own_tokens(engine, model, key, nonce, sample_seed, validator) for nonce in part]
        while True:
            try:
                found = await compute(engine, prompts, own, sample_seed, validator)
                vectors += found.vectors
                tails += found.tails
            except (EngineFailedError, ValueError) as error:
                log.warning("the engine failed while validating; trying again", reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            else:
                break
    return Recomputed(tuple(vectors), tuple(tails))


def _own_tokens(
    engine: Engine, model: ModelRecord, key: NodeKey, nonce: int, sample_seed: Hash32, validator: Address
) -> tuple[int, ...]:
    """Return what the validator has the engine read of its own for a nonce; nothing for a model without tails."""
    if not has_tails(model):
        return ()
    tokens = tail_prompt if makes_vectors(model) else tail_tokens
    return tokens(sample_seed, validator, *key, nonce, engine.vocabulary_size)


async def _vectors_with_tails(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    own: Sequence[tuple[int, ...]],
    _sample_seed: Hash32,
    _validator: Address,
) -> Recomputed:
    """Read each prompt and what follows it in one pass."""
    whole = [prompt + tokens for prompt, tokens in zip(prompts, own, strict=True)]
    rows = await engine.prompt_logprobs(whole, priority=RECOMPUTING_PRIORITY)
    return Recomputed(
        tuple(quantise(row[:VECTOR_DIMENSIONS]) for row in rows),
        tuple(tail_of(row[VECTOR_DIMENSIONS:]) for row, tokens in zip(rows, own, strict=True) if tokens),
    )


async def _vectors_with_own_prompts(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    own: Sequence[tuple[int, ...]],
    sample_seed: Hash32,
    validator: Address,
) -> Recomputed:
    """Make the vectors of the prompts and those of the validator's own, side by side."""
    rows = await engine.prompt_logprobs([*prompts, *own], priority=RECOMPUTING_PRIORITY)
    found = [quantise(row) for row in rows]
    tails = (vector_tail(sample_seed, validator, vector) for vector in found[len(prompts) :])
    return Recomputed(tuple(found[: len(prompts)]), tuple(tails))
