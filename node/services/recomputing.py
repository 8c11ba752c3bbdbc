"""Recomputing nonces that somebody else says it computed, in the background of what users ask."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import trio

from node.ports import Engine, EngineRefusedError
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.nonces import VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.records import ModelRecord
from node.protocol.tails import has_tails, makes_vectors, tail_of, tail_prompt, tail_tokens, vector_tail
from node.protocol.weights import NodeKey
from node.services.reading_ahead import QUESTION_PROMPTS, Prompts, Rows, read_ahead
from node.services.turns import NotNowError

SILENCE_SECONDS_MAX = 120.0
"""An engine that answers nobody for so long hangs: its watchdog ends it, and other engines need not wait for that.
Longer than a few questions of a slow machine take."""
LOOK_SECONDS = 1.0
"""Between two looks whether the model is still there."""

Made = TypeVar("Made")


class Loaded(Protocol):
    """An ML node that has one model ready at a time."""

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""

    @property
    def model_id(self) -> ModelId | None:
        """The model that is loaded and ready, or None."""


class ModelGoneError(NotNowError):
    """The engine died, hangs or took up another model while it computed: nothing is known of the nonces."""


class AnswerWatch:
    """Tells engines that hang from slow ones, with several batches in work at once: what one of them is answered shows
    that the engine works, though the questions of all others are still in its line."""

    def __init__(self, silence_seconds: float | None = None) -> None:
        """`silence_seconds`: how long an engine may answer nobody; by default SILENCE_SECONDS_MAX."""
        self._silence_seconds = silence_seconds
        self._waiting: dict[NodeId, set[trio.CancelScope]] = {}

    @contextmanager
    def waiting(self, node_id: NodeId) -> Iterator[trio.CancelScope]:
        """Enter a scope that ends once the engine was silent for too long."""
        scopes = self._waiting.setdefault(node_id, set())
        with trio.move_on_after(self._silence()) as scope:
            scopes.add(scope)
            try:
                yield scope
            finally:
                scopes.discard(scope)

    def answered(self, node_id: NodeId) -> None:
        """Note that an engine answered somebody."""
        for scope in self._waiting.get(node_id, ()):
            scope.deadline = trio.current_time() + self._silence()

    def _silence(self) -> float:
        return SILENCE_SECONDS_MAX if self._silence_seconds is None else self._silence_seconds


async def while_ready(
    engine: Loaded,
    model_id: ModelId,
    compute: Callable[[Callable[[], bool]], Awaitable[Made]],
    watch: AnswerWatch | None = None,
) -> Made:
    """Return what `compute` returns; it is given a `may_go_on` for read_ahead(). `watch` is shared by those who ask the
    same engines at once.

    Raises ModelGoneError as soon as the engine has not the model ready, and EngineRefusedError if `compute` does.
    """
    made: list[Made] = []
    refusal: EngineRefusedError | None = None
    watch = watch or AnswerWatch()
    was_gone = was_asked = False

    def may_go_on() -> bool:
        nonlocal was_gone, was_asked
        if was_asked:  # from the second time on it is an answer that brought it here
            watch.answered(engine.node_id)
        was_asked = True
        was_gone = was_gone or engine.model_id != model_id
        return not was_gone

    async def look(scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            if engine.model_id != model_id:
                scope.cancel()

    if engine.model_id == model_id:
        with watch.waiting(engine.node_id) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, scope)
                try:
                    made.append(await compute(may_go_on))
                except EngineRefusedError as error:
                    refusal = error
                nursery.cancel_scope.cancel()
    if refusal is not None:
        raise refusal
    if not made or was_gone or engine.model_id != model_id:  # it may be back already
        raise ModelGoneError(f"the ML node {engine.node_id} died, hangs or has another model now, and was not done")
    return made[0]


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
    *,
    may_go_on: Callable[[], bool] = lambda: True,
) -> list[int]:
    """Compute the tails of `validator` at nonces of any nodes, in their order. Tries as recompute() does."""
    own = [_own_tokens(engine, model, key, nonce, sample_seed, validator) for key, nonce in nonces]
    if makes_vectors(model):
        return [vector_tail(sample_seed, validator, vector) for vector in await _vectors(engine, own, may_go_on)]
    prompts = [nonce_prompt(generate_seed, *key, nonce, engine.vocabulary_size) for key, nonce in nonces]
    return (await _vectors_with_tails(engine, prompts, own, may_go_on))[1]


async def _vectors(engine: Engine, prompts: Sequence[tuple[int, ...]], may_go_on: Callable[[], bool]) -> list[bytes]:
    """Return the vectors that an embedding model makes of prompts."""
    vectors: list[bytes] = []
    await _read_all(engine, prompts, lambda rows: vectors.extend([quantise(row) for row in rows]), may_go_on)
    return vectors


async def _vectors_with_tails(
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    own: Sequence[tuple[int, ...]],
    may_go_on: Callable[[], bool],
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
