"""Recomputing nonces that somebody else says it computed, in the background of what users ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import Engine, EngineFailedError
from node.protocol.identifiers import Address, Hash32
from node.protocol.nonces import VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.tails import tail_of, tail_tokens
from node.protocol.weights import NodeKey

log = structlog.get_logger(__name__)

RECOMPUTING_PRIORITY = 10
"""Users' requests, at 0, run first."""
RECOMPUTED_AT_ONCE = 32
"""Prompts per question to the engine: enough to fill its batch, few enough that users never wait for many."""
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What an engine makes of some nonces, in their order."""

    vectors: tuple[bytes, ...]
    tails: tuple[int, ...]
    """Empty where no validator was named."""


async def recompute(
    engine: Engine,
    key: NodeKey,
    nonces: Sequence[int],
    generate_seed: Hash32,
    sample_seed: Hash32,
    validator: Address | None,
) -> Recomputed:
    """Compute the vectors of nonces of the node `key`, and the tails that are `validator`'s. Tries until cancelled."""
    vectors: list[bytes] = []
    tails: list[int] = []

    def take(rows: Sequence[Sequence[float]]) -> None:
        some = [quantise(row[:VECTOR_DIMENSIONS]) for row in rows]
        if validator is not None:
            tails.extend([tail_of(row[VECTOR_DIMENSIONS:]) for row in rows])
        vectors.extend(some)

    prompts = [_prompt(engine, key, nonce, generate_seed, sample_seed, validator) for nonce in nonces]
    await _read_all(engine, prompts, take)
    return Recomputed(tuple(vectors), tuple(tails))


async def recompute_tails(
    engine: Engine,
    nonces: Sequence[tuple[NodeKey, int]],
    generate_seed: Hash32,
    sample_seed: Hash32,
    validator: Address,
) -> list[int]:
    """Compute the tails of `validator` at nonces of any nodes, in their order. Tries until cancelled."""
    tails: list[int] = []

    def take(rows: Sequence[Sequence[float]]) -> None:
        tails.extend([tail_of(row[VECTOR_DIMENSIONS:]) for row in rows])

    prompts = [_prompt(engine, key, nonce, generate_seed, sample_seed, validator) for key, nonce in nonces]
    await _read_all(engine, prompts, take)
    return tails


async def _read_all(
    engine: Engine, prompts: Sequence[Sequence[int]], take: Callable[[Sequence[Sequence[float]]], None]
) -> None:
    """Hand the log-probabilities of all prompts to `take`, which raises ValueError on those that are none, and takes
    nothing of them."""
    for start in range(0, len(prompts), RECOMPUTED_AT_ONCE):
        while True:
            try:
                take(
                    await engine.prompt_logprobs(
                        prompts[start : start + RECOMPUTED_AT_ONCE], priority=RECOMPUTING_PRIORITY
                    )
                )
            except (EngineFailedError, ValueError) as error:
                log.warning("the engine failed while validating; trying again", reason=str(error))
                await trio.sleep(RETRY_SECONDS)
            else:
                break


def _prompt(
    engine: Engine, key: NodeKey, nonce: int, generate_seed: Hash32, sample_seed: Hash32, validator: Address | None
) -> tuple[int, ...]:
    prompt = nonce_prompt(generate_seed, *key, nonce, engine.vocabulary_size)
    if validator is None:
        return prompt
    return prompt + tail_tokens(sample_seed, validator, *key, nonce, engine.vocabulary_size)
