"""Asks an engine what a calibration needs: to make a reference, or to compare itself with one.

Everything is asked at the priority of mining, a few questions at once, so that an engine that serves users goes on.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from node.calibration.measurement import Measurement, compare_answer, compare_vectors, surprise_z_milli
from node.calibration.prompts import PROMPTS
from node.calibration.reference import NODE, PARTICIPANT, POC_SEED, Reference, ReferenceAnswer
from node.ports import ChatMessage, EngineRefusedError, GenerationChunk, GenerationRequest
from node.protocol.audits import CLAIMED_TOP, MILLION
from node.protocol.draws import Drawn, Prefill
from node.protocol.findings import AuditFigures
from node.protocol.identifiers import ModelId
from node.protocol.nonces import nonce_prompt, quantise
from node.protocol.sampling import SamplingParameters

PRIORITY = 10
"""Users' requests, at 0, run first."""
NONCES_AT_ONCE = 64
ANSWERS_AT_ONCE = 8
CANDIDATES = 50
"""Likeliest tokens asked of a prefill; engines give up to 64. Fewer would hide rivals with much noise."""
SEED_FIRST = 0x5EED_CA11_B8A7
SAMPLING = SamplingParameters()
"""Temperature 1, nothing cut: every difference of logits shows."""

Progress = Callable[[str, int, int], None]
"""Told what is being measured, how much of it is done, and of how much."""


class MeasuredEngine(Protocol):
    """What is asked of an engine: node.engine.client.EngineClient has it."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """For each prompt, the natural-log probabilities of its tokens 1..L-1 given those before them."""

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """For each token from place `first` on, what the model says of it, of the `top` likeliest and of the winner."""

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the chat template and tokenize."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokenize a text as a prompt."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """Stream a generation."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What is measured, and on what."""

    model_id: ModelId
    model_version: int
    engine: str
    engine_version: str
    hardware: str
    vocabulary_size: int


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured."""

    nonces: int
    answers: int
    """0 for a model that makes vectors instead of tokens."""
    answer_tokens: int


async def make_reference(
    engine: MeasuredEngine, identity: Identity, amount: Amount, progress: Progress, prompts: Sequence[str] = PROMPTS
) -> Reference:
    """Return what this machine says of the model. Raises EngineFailedError, EngineRefusedError."""
    vectors = await _vectors(engine, amount.nonces, identity.vocabulary_size, progress)
    answers: dict[int, ReferenceAnswer] = {}
    limit = trio.CapacityLimiter(ANSWERS_AT_ONCE)

    async def one(number: int) -> None:
        async with limit:
            text = prompts[number % len(prompts)]
            answers[number] = await _answer(engine, text, SEED_FIRST + number, amount.answer_tokens)
            progress("answers", len(answers), amount.answers)

    async with trio.open_nursery() as nursery:
        for number in range(amount.answers):
            nursery.start_soon(one, number)
    return Reference(
        model_id=identity.model_id,
        model_version=identity.model_version,
        engine=identity.engine,
        engine_version=identity.engine_version,
        hardware=identity.hardware,
        vocabulary_size=identity.vocabulary_size,
        vectors=tuple(vectors),
        answers=tuple(answers[number] for number in range(amount.answers)),
    )


async def measure_against(
    engine: MeasuredEngine, identity: Identity, reference: Reference, progress: Progress
) -> Measurement:
    """Return how far this machine is from a reference. Raises EngineFailedError, EngineRefusedError."""
    vectors = await _vectors(engine, len(reference.vectors), reference.vocabulary_size, progress)
    found: dict[int, AuditFigures] = {}
    knows_winners = bool(reference.answers)
    limit = trio.CapacityLimiter(ANSWERS_AT_ONCE)

    async def one(number: int, answer: ReferenceAnswer) -> None:
        nonlocal knows_winners
        async with limit:
            whole = (*answer.prompt_ids, *answer.output_ids)
            drawn = Drawn(answer.seed, answer.sampling)
            prefills = await engine.prefill(
                whole, len(answer.prompt_ids), top=CANDIDATES, priority=PRIORITY, drawn=drawn
            )
            knows_winners = knows_winners and all(prefill.winner is not None for prefill in prefills)
            found[number] = compare_answer(answer, prefills, reference.vocabulary_size)
            progress("answers", len(found), len(reference.answers))

    async with trio.open_nursery() as nursery:
        for number, answer in enumerate(reference.answers):
            nursery.start_soon(one, number, answer)
    return Measurement(
        reference_hardware=reference.hardware,
        hardware=identity.hardware,
        distances=compare_vectors(reference.vectors, vectors),
        answers=tuple(found[number] for number in range(len(reference.answers))),
        knows_winners=knows_winners,
    )


async def _vectors(engine: MeasuredEngine, count: int, vocabulary_size: int, progress: Progress) -> list[bytes]:
    vectors: list[bytes] = []
    while len(vectors) < count:
        nonces = range(len(vectors), min(count, len(vectors) + NONCES_AT_ONCE))
        prompts = [nonce_prompt(POC_SEED, PARTICIPANT, NODE, nonce, vocabulary_size) for nonce in nonces]
        vectors += [quantise(values) for values in await engine.prompt_logprobs(prompts, priority=PRIORITY)]
        progress("nonces", len(vectors), count)
    return vectors


async def _answer(engine: MeasuredEngine, text: str, seed: int, tokens_max: int) -> ReferenceAnswer:
    try:
        prompt_ids = await engine.render_chat([ChatMessage("user", text)])
    except EngineRefusedError:  # a model without a chat template
        prompt_ids = await engine.tokenize(text)
    request = GenerationRequest(prompt_ids, tokens_max, SAMPLING, seed, (), PRIORITY, logprobs=CLAIMED_TOP)
    output_ids: list[int] = []
    tops: list[tuple[tuple[int, int], ...]] = []
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            output_ids.extend(chunk.token_ids)
            tops += [
                tuple((other.token_id, other.logprob_micro) for other in told.alternatives) for told in chunk.logprobs
            ]
    return ReferenceAnswer(prompt_ids, tuple(output_ids), SAMPLING, seed, tuple(tops))


def figures_of(measured: Measurement) -> dict[str, int | float]:
    """Return what a measurement comes to, for people."""
    tokens = max(1, sum(answer.tokens for answer in measured.answers))
    return {
        "nonces": len(measured.distances),
        "distance_largest": max(measured.distances),
        "answers": len(measured.answers),
        "tokens": sum(answer.tokens for answer in measured.answers),
        "tokens_that_differ": sum(answer.mismatches for answer in measured.answers),
        "margin_mean": sum(answer.margin_micro for answer in measured.answers) / tokens / MILLION,
        "logprob_distance_mean": sum(answer.distance_micro for answer in measured.answers) / tokens / MILLION,
        "winners_known": measured.knows_winners,
        "surprise_z_largest": max((abs(surprise_z_milli(answer)) for answer in measured.answers), default=0) / 1000,
    }
