"""Recomputing nonces that somebody else says it computed, in the background of what users ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.ports import Engine
from node.protocol.identifiers import Address, Hash32
from node.protocol.nonces import VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.records import ModelRecord
from node.protocol.tails import has_tails, makes_vectors, tail_of, tail_prompt, tail_tokens, vector_tail
from node.protocol.weights import NodeKey
from node.services.reading_ahead import QUESTION_PROMPTS, Prompts, Rows, read_ahead


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
    *,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Recomputed:
    """Compute the vectors of nonces of the node `key`, and the tails that are `validator`'s. Tries until cancelled, or
    until `may_go_on` says no: then the last ones are missing. Raises EngineRefusedError."""
    prompts = [nonce_prompt(generate_seed, *key, nonce, engine.vocabulary_size) for nonce in nonces]
    own = [_own_tokens(engine, model, key, nonce, sample_seed, validator) for nonce in nonces]
    if makes_vectors(model):
        vectors = await _vectors(engine, [*prompts, *own], may_go_on)
        tails = (vector_tail(sample_seed, validator, vector) for vector in vectors[len(prompts) :])
        return Recomputed(tuple(vectors[: len(prompts)]), tuple(tails))
    found, tail = await _vectors_with_tails(engine, prompts, own, may_go_on)
    return Recomputed(tuple(found), tuple(tail))


async def recompute_tails(
    engine: Engine,
    model: ModelRecord,
    nonces: Sequence[tuple[NodeKey, int]],
    generate_seed: Hash32,
    sample_seed: Hash32,
    validator: Address,
) -> list[int]:
    """Compute the tails of `validator` at nonces of any nodes, in their order. Tries until cancelled."""
    own = [_own_tokens(engine, model, key, nonce, sample_seed, validator) for key, nonce in nonces]
    if makes_vectors(model):
        return [vector_tail(sample_seed, validator, vector) for vector in await _vectors(engine, own)]
    prompts = [nonce_prompt(generate_seed, *key, nonce, engine.vocabulary_size) for key, nonce in nonces]
    return (await _vectors_with_tails(engine, prompts, own))[1]


async def _vectors(
    engine: Engine, prompts: Sequence[tuple[int, ...]], may_go_on: Callable[[], bool] = lambda: True
) -> list[bytes]:
    """Return the vectors that an embedding model makes of prompts."""
    vectors: list[bytes] = []
    await _read_all(engine, prompts, lambda rows: vectors.extend([quantise(row) for row in rows]), may_go_on)
    return vectors


async def _vectors_with_tails(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    own: Sequence[tuple[int, ...]],
    may_go_on: Callable[[], bool] = lambda: True,
) -> tuple[list[bytes], list[int]]:
    """Return the vectors of prompts and the tails of what follows each, if anything does: one pass for both."""
    vectors: list[bytes] = []
    tails: list[int] = []

    def take(rows: Rows) -> None:
        some = [quantise(row[:VECTOR_DIMENSIONS]) for row in rows]
        tails.extend([tail_of(row[VECTOR_DIMENSIONS:]) for row in rows if len(row) > VECTOR_DIMENSIONS])
        vectors.extend(some)

    await _read_all(engine, [prompt + tokens for prompt, tokens in zip(prompts, own, strict=True)], take, may_go_on)
    return vectors, tails


async def _read_all(
    engine: Engine, prompts: Prompts, take: Callable[[Rows], None], may_go_on: Callable[[], bool]
) -> None:
    """Hand the log-probabilities of all prompts to `take`, as read_ahead() does."""
    questions = (prompts[start : start + QUESTION_PROMPTS] for start in range(0, len(prompts), QUESTION_PROMPTS))
    await read_ahead(engine, questions, take, purpose="validating", may_go_on=may_go_on)


def _own_tokens(
    engine: Engine, model: ModelRecord, key: NodeKey, nonce: int, sample_seed: Hash32, validator: Address
) -> tuple[int, ...]:
    """Return what the validator has the engine read of its own for a nonce; nothing for a model without tails."""
    if not has_tails(model):
        return ()
    tokens = tail_prompt if makes_vectors(model) else tail_tokens
    return tokens(sample_seed, validator, *key, nonce, engine.vocabulary_size)
