"""Serves answers to gateways: checks the request, generates, lets tokens out as they are paid for, gives a receipt."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import structlog
import trio

from node.ports import (
    Call,
    CallFailedError,
    Chain,
    ChatMessage,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    GenerationChunk,
    GenerationRequest,
    Network,
    Store,
    WallClock,
)
from node.protocol.codec import SchemaError, from_bytes
from node.protocol.identifiers import Address, RequestId
from node.protocol.pricing import price, receipt_digest
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.signatures import SignatureError, recover
from node.services.batches import BatchService
from node.services.epochs import EpochBook
from node.services.frames import (
    METHOD,
    Closing,
    InferenceRequest,
    Opening,
    Payment,
    Prompt,
    Tokens,
    closing_bytes,
    opening_bytes,
    read_request,
    request_digest,
    tokens_bytes,
)
from node.services.groups import sole_error
from node.services.receipting import receipt_of
from node.services.tabs import PayeeBook, Tab
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

Awaited = TypeVar("Awaited")

CALLS_MAX = 64
"""Requests served at once; the engine batches them. More are refused as `busy` and go elsewhere."""
REQUEST_AGE_SECONDS_MAX = 120
SEEN_MAX = 65536
"""Request ids remembered; with their age limit a replayed request is refused."""
PAYMENT_SECONDS_MAX = 30.0
"""How long tokens wait for their voucher before the request is given up."""
USER_PRIORITY = 0


class Executor:
    """Answers `infer`. Money: nothing is let out beyond the allowance, nothing is charged that was not let out."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        store: Store,
        epochs: EpochBook,
        batches: BatchService,
        engines: Sequence[Engine],
        *,
        unpaid_tokens_max: int,
        wall_clock: WallClock,
    ) -> None:
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._batches = batches
        self._engines = engines
        self._unpaid_tokens_max = unpaid_tokens_max
        self._wall_clock = wall_clock
        self.payments = self._payments = PayeeBook(chain, store)
        """Shared with whatever else this node is paid for over the same channels."""
        self._seen: OrderedDict[tuple[RequestId, Address, int], None] = OrderedDict()
        self.running = 0
        network.serve(METHOD, self.serve, concurrency=CALLS_MAX)

    async def serve(self, call: Call) -> None:
        """Serve one call. Raises CallFailedError with a word the gateway can act on."""
        request = self._admit(call)
        engine, model = self._find_engine(request)
        allowance = price(0, self._unpaid_tokens_max, model, self._chain.parameters.unit_price)
        try:
            tab = self._payments.begin(request.payer, allowance=allowance)
        except PaymentError as error:
            raise CallFailedError("unpaid", str(error)) from error
        self.running += 1
        try:
            with sole_error():
                await self._answer(call, request, engine, model, tab)
        except EngineFailedError as error:
            log.warning("a request failed with its engine", request=request.request_id.hex()[:8], reason=str(error))
            raise CallFailedError("engine-failed", "the engine failed") from error
        except EngineRefusedError as error:
            raise CallFailedError("bad-request", str(error)[:200]) from error
        finally:
            self._payments.end(tab)
            if tab.receipt is not None and tab.settled is None:
                self._store.save_receipt(tab.receipt)  # evidence: given, and not paid or not signed for
            self.running -= 1

    def _admit(self, call: Call) -> InferenceRequest:
        """Size, schema, signature, then meaning."""
        try:
            signed = read_request(call.payload)
            signer = recover(request_digest(signed.request), signed.signature)
        except (SchemaError, SignatureError, ValueError) as error:
            raise CallFailedError("bad-request", str(error)[:200]) from error
        request = signed.request
        if signer != request.payer:
            raise CallFailedError("bad-request", "the request was not signed by its payer")
        if request.executor != self._chain.account:
            raise CallFailedError("bad-request", "the request is for another executor")
        if abs(self._wall_clock() - request.at) > REQUEST_AGE_SECONDS_MAX:
            raise CallFailedError("bad-request", "the request is too old, or our clocks differ")
        key = (request.request_id, request.payer, len(request.prefix))
        if key in self._seen:
            raise CallFailedError("bad-request", "the request was served already")
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        return request

    def _find_engine(self, request: InferenceRequest) -> tuple[Engine, ModelRecord]:
        model = next((m for m in self._epochs.group().models if m.model_id == request.model_id), None)
        if model is None:
            raise CallFailedError("unknown-model", f"{request.model_id} is not part of this epoch")
        engine = next((engine for engine in self._engines if engine.model_id == request.model_id), None)
        if engine is None:
            raise CallFailedError("not-serving", f"no engine here has {request.model_id} ready")
        return engine, model

    async def _answer(
        self, call: Call, request: InferenceRequest, engine: Engine, model: ModelRecord, tab: Tab
    ) -> None:
        rendered = await render(engine, request.prompt)
        prompt_ids = (*rendered, *request.prefix)
        room = model.context_length - len(prompt_ids)
        if any(token >= engine.vocabulary_size for token in (*request.prompt.token_ids, *request.prefix)):
            raise CallFailedError("bad-request", "the request has tokens the model does not know")
        if room < 1:
            raise CallFailedError(
                "too-long", f"the prompt has {len(prompt_ids)} tokens, the model reads {model.context_length}"
            )
        newest = self._payments.newest_voucher(request.payer)
        await call.send(opening_bytes(Opening(prompt_ids, self._unpaid_tokens_max, newest)))
        generation = GenerationRequest(
            prompt_ids=prompt_ids,
            max_tokens=min(request.max_tokens, room),
            sampling=request.sampling,
            seed=request.seed,
            stop=request.stop,
            priority=USER_PRIORITY,
            logprobs=request.logprobs,
            response_format=request.response_format,
        )
        fault: list[PaymentError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_payments, call, tab, fault, nursery.cancel_scope)
            output = await self._let_out(call, engine, model, generation, tab)
            await self._close(call, request, engine, model, tab, prompt_ids, output)
            nursery.cancel_scope.cancel()
        if fault:
            raise CallFailedError("unpaid", str(fault[0]))

    async def _let_out(
        self,
        call: Call,
        engine: Engine,
        model: ModelRecord,
        generation: GenerationRequest,
        tab: Tab,
    ) -> list[int]:
        """Send tokens as far as they are covered; return all of them."""
        token_price = price(0, 1, model, self._chain.parameters.unit_price)
        allowance = token_price * self._unpaid_tokens_max
        # Before the engine reads it: else anyone could have long prompts read for nothing.
        await self._within_deadline(partial(tab.charge, token_price * len(generation.prompt_ids), allowance=allowance))
        output: list[int] = []
        async with engine.generate(generation) as chunks:
            async for chunk in chunks:
                for piece in slices(chunk, max(1, self._unpaid_tokens_max // 2)):
                    worth = token_price * len(piece.token_ids)
                    await self._within_deadline(partial(tab.charge, worth, allowance=allowance))
                    output.extend(piece.token_ids)
                    await call.send(tokens_bytes(piece))
        return output

    async def _close(
        self,
        call: Call,
        request: InferenceRequest,
        engine: Engine,
        model: ModelRecord,
        tab: Tab,
        prompt_ids: Sequence[int],
        output: Sequence[int],
    ) -> None:
        """Sign the receipt, send it, wait for the voucher that pays it in full and for the payer's signature."""
        receipt = receipt_of(
            request,
            model,
            prompt_ids,
            output,
            self._chain.parameters.unit_price,
            epoch=self._epochs.group().epoch,
            node_id=engine.node_id,
            at=self._wall_clock(),
            seed=request.seed,
            seeded_by_user=True,
        )
        signed = SignedReceipt(receipt, self._chain.sign(receipt_digest(receipt)))
        tab.close(signed)
        await call.send(closing_bytes(Closing(signed)))
        signed = await self._within_deadline(tab.until_settled)
        self._store.save_receipt(signed)
        self._batches.add_receipt(signed)
        log.info("an answer was given and paid", tokens=receipt.output_tokens, price=receipt.price)

    async def _within_deadline(self, wait: Callable[[], Awaitable[Awaited]]) -> Awaited:
        with trio.move_on_after(PAYMENT_SECONDS_MAX):
            return await wait()
        raise CallFailedError("unpaid", f"no voucher came within {PAYMENT_SECONDS_MAX:.0f} s")

    async def _take_payments(self, call: Call, tab: Tab, fault: list[PaymentError], scope: trio.CancelScope) -> None:
        while True:
            try:
                await self._payments.accept(tab, from_bytes(Payment, await call.receive()))
            except (trio.EndOfChannel, CallFailedError):
                scope.cancel()  # the gateway is gone
                return
            except (PaymentError, SchemaError) as error:
                fault.append(PaymentError(str(error)))
                scope.cancel()
                return


async def render(engine: Engine, prompt: Prompt) -> tuple[int, ...]:
    """Return the tokens of a prompt of any kind."""
    if prompt.token_ids:
        return prompt.token_ids
    if prompt.text is not None:
        return await engine.tokenize(prompt.text)
    messages = [
        ChatMessage(turn.role, turn.content, turn.name, turn.tool_call_id, turn.tool_calls) for turn in prompt.turns
    ]
    return await engine.render_chat(messages, prompt.tools)


def slices(chunk: GenerationChunk, size: int) -> Iterator[Tokens]:
    """Cut what the engine gave at once into pieces of `size` tokens; the last has the text and the finish reason.

    A gateway pays when half of the allowance is owed, so pieces of half the allowance always fit above what it has not
    paid yet. A larger one could not be let out, nor paid for before it was: both ends would wait for ever.
    """
    ids = chunk.token_ids
    last = max(0, (len(ids) - 1) // size * size)
    for start in range(0, last, size):
        yield Tokens(ids[start : start + size], "", "", chunk.logprobs[start : start + size])
    yield Tokens(ids[last:], chunk.text, chunk.finish_reason or "", chunk.logprobs[last:])
