"""Asks the network on behalf of a user: chooses executors, streams the answer, pays, goes on elsewhere on failure."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import structlog
import trio

from node.ports import CallFailedError, Chain, Network, Store, WallClock
from node.protocol.codec import to_bytes
from node.protocol.identifiers import ModelId, RequestId
from node.protocol.messages import PromptAnnouncement
from node.protocol.pricing import price
from node.protocol.records import ModelRecord
from node.protocol.routing import ExecutorChoice, rank_executors
from node.protocol.sampling import SamplingParameters
from node.services.attempt import AnswerPart, AnswerSummary, Attempt
from node.services.batches import BatchService
from node.services.epochs import EpochBook
from node.services.frames import (
    METHOD,
    REQUEST_BYTES_MAX,
    InferenceRequest,
    Prompt,
    SignedRequest,
    prompt_commitment_of,
    request_digest,
)
from node.services.groups import sole_error
from node.services.payments import PayerBook
from node.services.presence import PresenceTable
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

EXECUTORS_TRIED_MAX = 8
CALL_SECONDS_MAX = 3600.0
CHUNKS_WAITING_MAX = 64
"""Pieces waiting for a slow reader; then the executor waits too, and so does our paying."""
USERS_FAULT = frozenset({"bad-request", "too-long"})
"""Words of an executor after which asking another one would not help."""


class GatewayError(Exception):
    """A request failed. `code`: model-not-found, no-executor, bad-request, too-long, payment, failed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a user wants. `max_tokens` None: as many as the model's context allows."""

    model_id: ModelId
    prompt: Prompt
    max_tokens: int | None = None
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    response_format: str = ""


class Answer:
    """An answer on its way. Iterate for its parts; then `summary` is complete. Raises GatewayError if it fails."""

    def __init__(self, summary: AnswerSummary, parts: trio.MemoryReceiveChannel[AnswerPart]) -> None:
        self.summary = summary
        self._parts = parts
        self.error: GatewayError | None = None

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        """Yield the parts as they come."""
        async for part in self._parts:
            yield part
        if self.error is not None:
            raise self.error


class Gateway:
    """Asks. Holds no state between requests but the payer's books."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        store: Store,
        epochs: EpochBook,
        presence: PresenceTable,
        batches: BatchService,
        payer: PayerBook,
        *,
        wall_clock: WallClock,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._chain = chain
        self._network = network
        self._store = store
        self._epochs = epochs
        self._presence = presence
        self._batches = batches
        self.payer = self._payer = payer
        """Shared with whatever else this node pays over the same channels."""
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self.running = 0

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""
        return self._epochs.group().models

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        """Ask; leaving the context stops the answer, and the paying. Raises GatewayError at once or while iterating."""
        model = self._epochs.group().get_epoch_model(chat.model_id)
        if model is None:
            known = ", ".join(m.model_id for m in self.models()) or "none at present"
            raise GatewayError(
                "model-not-found", f"there is no model {chat.model_id}; models that can be asked: {known}"
            )
        request_id = RequestId(self._random_bytes(32))
        summary = AnswerSummary(request_id, chat.model_id)
        send, receive = trio.open_memory_channel[AnswerPart](CHUNKS_WAITING_MAX)
        answer = Answer(summary, receive)
        self.running += 1
        try:
            with sole_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._produce, chat, model, answer, send)
                    async with receive:
                        yield answer
                    nursery.cancel_scope.cancel()
        finally:
            self.running -= 1

    async def _produce(
        self, chat: ChatRequest, model: ModelRecord, answer: Answer, send: trio.MemorySendChannel[AnswerPart]
    ) -> None:
        async with send:
            try:
                await self._try_executors(chat, model, answer.summary, send)
            except GatewayError as error:
                answer.error = error
            except trio.BrokenResourceError:
                log.debug("a user went away before the answer was complete")

    async def _try_executors(
        self,
        chat: ChatRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        send: trio.MemorySendChannel[AnswerPart],
    ) -> None:
        candidates = self._candidates(summary.request_id, chat.model_id)
        if not candidates:
            raise GatewayError("no-executor", f"nobody who serves {chat.model_id} is present; try again later")
        given: list[int] = []
        request = self._request(chat, model, summary.request_id)
        failures = []
        for choice in candidates[:EXECUTORS_TRIED_MAX]:
            try:
                await self._use(choice, replace(request, prefix=tuple(given)), model, summary, given, send)
            except CallFailedError as error:
                if error.code in USERS_FAULT and not given:
                    raise GatewayError(error.code, error.message) from error
                failures.append(f"{choice.participant}: {error}")
                log.warning("an executor failed", executor=choice.participant, given=len(given), reason=str(error))
                if summary.finish_reason or len(given) >= request.max_tokens:
                    # Complete; what is missing is only a receipt that could be paid.
                    summary.finish_reason = summary.finish_reason or "length"
                    return
            except PaymentError as error:
                raise GatewayError("payment", str(error)) from error
            else:
                return
        raise GatewayError("failed", f"no executor gave a complete answer: {'; '.join(failures)}")

    def _request(self, chat: ChatRequest, model: ModelRecord, request_id: RequestId) -> InferenceRequest:
        try:
            return InferenceRequest(
                request_id=request_id,
                model_id=chat.model_id,
                payer=self._chain.account,
                executor=self._chain.account,  # replaced by whoever is asked
                at=self._wall_clock(),
                prompt=chat.prompt,
                prefix=(),
                max_tokens=min(chat.max_tokens or model.context_length, model.context_length),
                sampling=chat.sampling,
                seed=chat.seed if chat.seed is not None else int.from_bytes(self._random_bytes(4)),
                stop=chat.stop,
                logprobs=chat.logprobs,
                response_format=chat.response_format,
            )
        except ValueError as error:
            raise GatewayError("bad-request", str(error)) from error

    def _candidates(self, request_id: RequestId, model_id: ModelId) -> list[ExecutorChoice]:
        """Those of the group that are present with the model ready, in the order drawn for this request."""
        ranked = rank_executors(request_id, self._epochs.group(), model_id)
        present = self._presence.present()
        return [
            choice
            for choice in ranked
            if choice.participant in present
            and model_id in present[choice.participant].models
            and choice.participant != self._chain.account  # a channel to oneself is refused by the contract
        ]

    async def _use(
        self,
        choice: ExecutorChoice,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        given: list[int],
        send: trio.MemorySendChannel[AnswerPart],
    ) -> None:
        """Have one executor give the rest of the answer. Raises CallFailedError if another one must."""
        executor = choice.participant
        request = replace(
            request,
            executor=executor,
            at=self._wall_clock(),
            max_tokens=request.max_tokens - len(request.prefix),
        )
        most = price(model.context_length, 0, model, self._chain.parameters.unit_price)
        await self._payer.reserve(executor, most)
        try:
            signed = SignedRequest(request, self._chain.sign(request_digest(request)))
            payload = to_bytes(signed)
            if len(payload) > REQUEST_BYTES_MAX:
                raise GatewayError("too-long", f"the conversation has more than {REQUEST_BYTES_MAX} bytes")
            self._announce(request)
            async with self._network.call(choice.peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
                attempt = Attempt(self._chain, self._store, self._payer, call, request, model, summary, given, send)
                await attempt.run()
        finally:
            self._payer.release(executor, most)

    def _announce(self, request: InferenceRequest) -> None:
        self._batches.announce(
            PromptAnnouncement(
                request_id=request.request_id,
                model_id=request.model_id,
                prompt_commitment=prompt_commitment_of(request),
                max_tokens=request.max_tokens,
                executor=request.executor,
            )
        )
