"""Measures what users get from the gateway: stands before it, changes nothing."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from node.protocol.identifiers import ModelId
from node.protocol.records import ModelRecord
from node.services.answers import AnswerPart, AnswerSummary
from node.services.asking import AnswerStream, Asker
from node.services.embedding import Embeddings
from node.services.embedding_frames import EmbeddingInput
from node.services.gateway import ChatRequest, GatewayError
from node.services.outlet import TakePart
from node.telemetry.instruments import Instruments

LEFT = "left"
"""The user went away, or the request was cancelled."""


class MeasuredAsker:
    """A gateway that is measured. Times are trio's, so that tests need no patience."""

    def __init__(self, gateway: Asker, instruments: Instruments) -> None:
        self._gateway = gateway
        self._instruments = instruments

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""
        return self._gateway.models()

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[AnswerStream]:
        """Ask, as the gateway does."""
        instruments = self._instruments
        known = any(model.model_id == chat.model_id for model in self.models())
        label = instruments.model_label(chat.model_id, known=known)
        outcome = LEFT
        started = trio.current_time()
        measured: _Measured | None = None
        try:
            async with self._gateway.ask(chat) as answer:
                measured = _Measured(answer, label, instruments, started)
                yield measured
            if measured.ended:
                outcome = "cached" if answer.summary.cached else "ok"
        except GatewayError as error:
            outcome = error.code
            raise
        finally:
            instruments.requests.labels(label, outcome).inc()
            if measured is not None:
                self._count(label, measured.summary)

    def _count(self, label: str, summary: AnswerSummary) -> None:
        if summary.cached:
            return
        self._instruments.tokens.labels(label, "prompt").inc(summary.prompt_tokens)
        self._instruments.tokens.labels(label, "output").inc(summary.output_tokens)


class VectorSource(Protocol):
    """Where vectors come from."""

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        """Return a vector for each input. Raises GatewayError."""


class MeasuredVectors:
    """A source of vectors that is measured."""

    def __init__(self, source: VectorSource, models: Callable[[], Sequence[ModelRecord]], instruments: Instruments):
        self._source = source
        self._models = models
        self._instruments = instruments

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        """Return a vector for each input, as the source does."""
        instruments = self._instruments
        label = instruments.model_label(model_id, known=any(model.model_id == model_id for model in self._models()))
        outcome = LEFT
        try:
            found = await self._source.embed(model_id, inputs, private=private)
            outcome = "ok"
        except GatewayError as error:
            outcome = error.code
            raise
        finally:
            instruments.embeddings.labels(label, outcome).inc()
        instruments.tokens.labels(label, "prompt").inc(found.prompt_tokens)
        return found


class _Measured:
    """An answer whose pieces are timed. One from the cache would only tell how fast a dictionary is."""

    def __init__(self, answer: AnswerStream, label: str, instruments: Instruments, started: float) -> None:
        self._answer = answer
        self._first = instruments.first_token_seconds.labels(label)
        self._between = instruments.inter_token_seconds.labels(label)
        self._whole = instruments.answer_seconds.labels(label)
        self._started = started
        self._is_timed = not answer.summary.cached
        self._last: float | None = None
        self.ended = False

    @property
    def summary(self) -> AnswerSummary:
        return self._answer.summary

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        async for part in self._answer:
            self._measure(part)
            yield part
        self.ended = True
        if self._is_timed:
            self._whole.observe(trio.current_time() - self._started)

    def hand_to(self, take_now: TakePart) -> None:
        def measured(part: AnswerPart) -> bool:
            is_taken = take_now(part)
            if is_taken:
                self._measure(part)
            return is_taken

        self._answer.hand_to(measured)

    def _measure(self, part: AnswerPart) -> None:
        if self._is_timed and part.token_ids:
            now = trio.current_time()
            if self._last is None:
                self._first.observe(now - self._started)
            else:
                self._between.observe((now - self._last) / len(part.token_ids))
            self._last = now
