"""Asks the network on behalf of a user: chooses executors, streams the answer, pays, goes on elsewhere on failure."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import structlog
import trio

from node.ports import Call, CallFailedError, Chain, Network, Store, WallClock
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, Hash32, ModelId, RequestId, TokenAmount
from node.protocol.messages import PromptAnnouncement
from node.protocol.pricing import next_receipts_root, price, receipt_digest, tokens_commitment
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.routing import ExecutorChoice, rank_executors
from node.protocol.signatures import SignatureError, recover
from node.services.batches import BatchService
from node.services.epochs import EpochBook
from node.services.frames import (
    METHOD,
    ExecutorFrame,
    InferenceRequest,
    Opening,
    SignedRequest,
    Tokens,
    Turn,
    prompt_commitment_of,
    request_digest,
)
from node.services.groups import sole_error
from node.services.payments import PayerBook, PaymentError
from node.services.presence import PresenceTable

log = structlog.get_logger(__name__)

EXECUTORS_TRIED_MAX = 8
CALL_SECONDS_MAX = 3600.0
SILENCE_SECONDS_MAX = 60.0
"""An executor that says nothing for so long is given up; a queued request waits as long."""
ACKNOWLEDGE_SECONDS_MAX = 10.0
"""How long an executor may take to book its last voucher."""
CHUNKS_WAITING_MAX = 64
"""Pieces waiting for a slow reader; then the executor waits too, and so does our paying."""
TEMPLATE_TOKENS_MAX = 64
"""Tokens a chat template may add per message. With it, an executor cannot charge for a prompt nobody wrote."""
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
    turns: tuple[Turn, ...]
    max_tokens: int | None = None
    temperature_milli: int = 1000
    top_p_milli: int = 1000
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """Some text of an answer and the tokens it is made of."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class AnswerSummary:
    """How an answer came about; complete when it has ended. Counts are what the executors were paid for."""

    request_id: RequestId
    model_id: ModelId
    executors: tuple[Address, ...] = ()
    """Those that gave tokens, in order: more than one after a failure."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    price: int = 0
    """What was paid, to all executors together."""
    finish_reason: str = ""


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


@dataclass(slots=True)
class Progress:
    """What one executor has given and was paid in one attempt."""

    opening: Opening
    token_ids: list[int]
    paid: int = 0


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
        self._payer = payer
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self.running = 0

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""
        return self._epochs.group().models

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        """Ask; leaving the context stops the answer, and the paying. Raises GatewayError at once or while iterating."""
        model = next((m for m in self.models() if m.model_id == chat.model_id), None)
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
                if summary.finish_reason:
                    return  # the answer is complete; what is missing is only a receipt that could be paid
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
                turns=chat.turns,
                prefix=(),
                max_tokens=min(chat.max_tokens or model.context_length, model.context_length),
                temperature_milli=chat.temperature_milli,
                top_p_milli=chat.top_p_milli,
                seed=chat.seed if chat.seed is not None else int.from_bytes(self._random_bytes(4)),
                stop=chat.stop,
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
            if choice.participant in present and model_id in present[choice.participant].models
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
            self._announce(request)
            async with self._network.call(choice.peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
                await self._converse(call, request, model, summary, given, send)
        finally:
            self._payer.release(executor, most)

    async def _converse(
        self,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        given: list[int],
        send: trio.MemorySendChannel[AnswerPart],
    ) -> None:
        progress: Progress | None = None
        while True:
            frame = await self._next_frame(call)
            if progress is None:
                if frame.opening is None:
                    raise CallFailedError("bad-answer", "the executor did not begin with an opening")
                self._check_opening(frame.opening, request)
                self._payer.adopt(request.executor, frame.opening.newest_voucher)
                progress = Progress(frame.opening, [])
                await self._pay_up(call, request, model, summary, progress)
            elif frame.tokens is not None:
                await self._take_tokens(call, request, model, summary, progress, frame.tokens, given, send)
            elif frame.closing is not None:
                await self._settle(call, request, model, summary, progress, frame.closing.receipt)
                return
            else:
                raise CallFailedError("bad-answer", "a second opening")

    async def _next_frame(self, call: Call) -> ExecutorFrame:
        try:
            with trio.fail_after(SILENCE_SECONDS_MAX):
                return from_bytes(ExecutorFrame, await call.receive())
        except trio.TooSlowError as error:
            raise CallFailedError("silent", f"nothing came for {SILENCE_SECONDS_MAX:.0f} s") from error
        except trio.EndOfChannel as error:
            raise CallFailedError("bad-answer", "the answer ended without a receipt") from error
        except SchemaError as error:
            raise CallFailedError("bad-answer", str(error)) from error

    async def _take_tokens(
        self,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        progress: Progress,
        tokens: Tokens,
        given: list[int],
        send: trio.MemorySendChannel[AnswerPart],
    ) -> None:
        if len(progress.token_ids) + len(tokens.token_ids) > request.max_tokens:
            raise CallFailedError("bad-answer", "more tokens than were asked for")
        progress.token_ids.extend(tokens.token_ids)
        given.extend(tokens.token_ids)
        if request.executor not in summary.executors:
            summary.executors = (*summary.executors, request.executor)
        summary.output_tokens = len(given)
        summary.finish_reason = tokens.finish_reason
        await send.send(AnswerPart(tokens.text, tokens.token_ids))
        # Half of the allowance: the voucher is there before the executor would have to wait for it.
        unit = price(0, 1, model, self._chain.parameters.unit_price)
        owed = unit * (len(progress.opening.prompt_ids) + len(progress.token_ids)) - progress.paid
        if owed >= unit * max(1, progress.opening.unpaid_tokens_max // 2):
            await self._pay_up(call, request, model, summary, progress)

    async def _pay_up(
        self,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        progress: Progress,
    ) -> None:
        """Pay for everything received so far, the prompt included."""
        owed = price(
            len(progress.opening.prompt_ids), len(progress.token_ids), model, self._chain.parameters.unit_price
        )
        await self._pay(call, request.executor, summary, progress, TokenAmount(owed), None)

    async def _settle(
        self,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        progress: Progress,
        signed: SignedReceipt,
    ) -> None:
        """Check the receipt against what came, keep it, pay exactly its price."""
        self._check_receipt(signed, request, model, progress)
        self._store.save_receipt(signed)
        root = next_receipts_root(self._payer.receipts_root(request.executor), signed.receipt)
        await self._pay(call, request.executor, summary, progress, signed.receipt.price, root)
        if not summary.prompt_tokens:
            summary.prompt_tokens = len(progress.opening.prompt_ids) - len(request.prefix)
        await self._until_acknowledged(call)

    async def _until_acknowledged(self, call: Call) -> None:
        """Wait for the executor to end the call: leaving first would cancel it before it has the last voucher."""
        with trio.move_on_after(ACKNOWLEDGE_SECONDS_MAX):
            try:
                await call.receive()
            except (trio.EndOfChannel, CallFailedError) as end:
                log.debug("a call ended", peer=call.peer_id, how=repr(end))

    async def _pay(
        self,
        call: Call,
        executor: Address,
        summary: AnswerSummary,
        progress: Progress,
        total: TokenAmount,
        receipts_root: Hash32 | None,
    ) -> None:
        amount = total - progress.paid
        frame = self._payer.pay(executor, amount, receipts_root)
        progress.paid += amount
        summary.price += amount
        await call.send(to_bytes(frame))

    def _check_opening(self, opening: Opening, request: InferenceRequest) -> None:
        """An executor may charge for no more prompt than there is: a token is at least one byte of it."""
        text_bytes = sum(len(turn.content.encode()) for turn in request.turns)
        most = text_bytes + TEMPLATE_TOKENS_MAX * (len(request.turns) + 1) + len(request.prefix)
        ends_in_prefix = opening.prompt_ids[len(opening.prompt_ids) - len(request.prefix) :] == request.prefix
        if len(opening.prompt_ids) > most or not ends_in_prefix:
            raise CallFailedError("bad-answer", "the prompt it wants to charge for is not the one it was given")
        if opening.unpaid_tokens_max < 1:
            raise CallFailedError("bad-answer", "it wants to be paid in advance")

    def _check_receipt(
        self, signed: SignedReceipt, request: InferenceRequest, model: ModelRecord, progress: Progress
    ) -> None:
        receipt = signed.receipt
        expected = (
            request.request_id,
            model.model_id,
            model.cid,
            request.payer,
            request.executor,
            len(progress.opening.prompt_ids),
            len(progress.token_ids),
            tokens_commitment(progress.opening.prompt_ids),
            tokens_commitment(progress.token_ids),
            price(len(progress.opening.prompt_ids), len(progress.token_ids), model, self._chain.parameters.unit_price),
        )
        stated = (
            receipt.request_id,
            receipt.model_id,
            receipt.model_cid,
            receipt.payer,
            receipt.executor,
            receipt.prompt_tokens,
            receipt.output_tokens,
            receipt.prompt_commitment,
            receipt.output_commitment,
            receipt.price,
        )
        try:
            genuine = recover(receipt_digest(receipt), signed.signature) == request.executor
        except SignatureError:
            genuine = False
        if stated != expected or not genuine:
            raise CallFailedError("bad-answer", "the receipt does not match what was given")

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
