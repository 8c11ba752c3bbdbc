"""One executor's part of an answer, from the gateway's side: takes tokens, pays for them, checks the receipt."""

from dataclasses import dataclass

import structlog
import trio

from node.ports import Call, CallFailedError, Chain, Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, ModelId, RequestId, TokenAmount
from node.protocol.pricing import next_receipts_root, price, receipt_digest
from node.protocol.receipts import countersigned, is_signed_by_executor
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.sampling import TokenLogprobs
from node.protocol.seeds import SeedShareError
from node.services.frames import ExecutorFrame, InferenceRequest, Opening, Payment, Tokens
from node.services.payments import PayerBook
from node.services.receipting import is_the_same_answer, receipt_of
from node.services.seeding import AnswerSeed, seed_of_opening
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

SILENCE_SECONDS_MAX = 60.0
"""An executor that says nothing for so long is given up; a queued request waits as long."""
ACKNOWLEDGE_SECONDS_MAX = 10.0
"""How long an executor may take to book its last voucher."""
TEMPLATE_TOKENS_MAX = 64
"""Tokens a chat template may add per message. With it, an executor cannot charge for a prompt nobody wrote."""


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """Some text of an answer and the tokens it is made of."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if the request asked for them."""


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
    seed: AnswerSeed | None = None
    """What the tokens were drawn with; None until there is one."""


class Attempt:
    """A running call of `infer`. Raises CallFailedError if another executor must go on, PaymentError if none can."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        payer: PayerBook,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        given: list[int],
        send: trio.MemorySendChannel[AnswerPart],
    ) -> None:
        """`given` are all tokens of the answer so far; this attempt adds its own."""
        self._chain = chain
        self._store = store
        self._payer = payer
        self._call = call
        self._request = request
        self._model = model
        self._summary = summary
        self._given = given
        self._send = send
        self._prompt_ids: tuple[int, ...] = ()
        self._seed: AnswerSeed | None = None
        self._token_ids: list[int] = []
        self._step_tokens = 1
        self._paid = 0

    async def run(self) -> None:
        """Take the rest of the answer to its end, and pay for it."""
        first = await self._next_frame()
        if first.opening is None:
            raise CallFailedError("bad-answer", "the executor did not begin with an opening")
        await self._open(first.opening)
        while True:
            frame = await self._next_frame()
            if frame.tokens is not None:
                await self._take(frame.tokens)
            elif frame.closing is not None:
                await self._settle(frame.closing.receipt)
                return
            else:
                raise CallFailedError("bad-answer", "a second opening")

    @property
    def _owed(self) -> TokenAmount:
        """Price of all that came in this attempt, the prompt included."""
        return price(len(self._prompt_ids), len(self._token_ids), self._model, self._chain.parameters.unit_price)

    async def _next_frame(self) -> ExecutorFrame:
        try:
            with trio.fail_after(SILENCE_SECONDS_MAX):
                return from_bytes(ExecutorFrame, await self._call.receive())
        except trio.TooSlowError as error:
            raise CallFailedError("silent", f"nothing came for {SILENCE_SECONDS_MAX:.0f} s") from error
        except trio.EndOfChannel as error:
            raise CallFailedError("bad-answer", "the answer ended without a receipt") from error
        except SchemaError as error:
            raise CallFailedError("bad-answer", str(error)) from error

    async def _open(self, opening: Opening) -> None:
        self._check_opening(opening)
        try:
            self._payer.adopt(self._request.executor, opening.newest_voucher)
        except PaymentError as error:  # its lie, not our lack of funds: another executor may be honest
            raise CallFailedError("bad-answer", str(error)) from error
        self._prompt_ids = opening.prompt_ids
        self._seed = self._seed_of(opening)
        # Half of the allowance: the voucher is there before the executor would have to wait for it.
        self._step_tokens = max(1, opening.unpaid_tokens_max // 2)
        await self._pay(self._owed)

    def _seed_of(self, opening: Opening) -> AnswerSeed:
        try:
            return seed_of_opening(self._request, opening.seed_share)
        except SeedShareError as error:
            raise CallFailedError("bad-answer", str(error)) from error

    async def _take(self, tokens: Tokens) -> None:
        if len(self._token_ids) + len(tokens.token_ids) > self._request.max_tokens:
            raise CallFailedError("bad-answer", "more tokens than were asked for")
        self._summary.seed = self._seed
        self._token_ids.extend(tokens.token_ids)
        self._given.extend(tokens.token_ids)
        summary, executor = self._summary, self._request.executor
        if executor not in summary.executors:
            summary.executors = (*summary.executors, executor)
        summary.output_tokens = len(self._given)
        summary.finish_reason = tokens.finish_reason
        await self._send.send(AnswerPart(tokens.text, tokens.token_ids, tokens.logprobs))
        step = price(0, self._step_tokens, self._model, self._chain.parameters.unit_price)
        if self._owed - self._paid >= step:
            await self._pay(self._owed)

    async def _settle(self, signed: SignedReceipt) -> None:
        """Check the receipt against what came, sign it, keep it, pay exactly its price."""
        self._check_receipt(signed)
        signed = countersigned(signed, self._chain.sign(receipt_digest(signed.receipt)))
        self._store.save_receipt(signed)
        await self._pay(signed.receipt.price, signed)
        if not self._summary.prompt_tokens:
            self._summary.prompt_tokens = len(self._prompt_ids) - len(self._request.prefix)
        await self._until_acknowledged()

    async def _until_acknowledged(self) -> None:
        """Wait for the executor to end the call: leaving first would cancel it before it has the last voucher."""
        with trio.move_on_after(ACKNOWLEDGE_SECONDS_MAX):
            try:
                await self._call.receive()
            except (trio.EndOfChannel, CallFailedError) as end:
                log.debug("a call ended", peer=self._call.peer_id, how=repr(end))

    async def _pay(self, total: TokenAmount, signed: SignedReceipt | None = None) -> None:
        """Pay what is missing to `total` for this attempt; with `signed`, also countersign it, for it is complete."""
        executor = self._request.executor
        amount = total - self._paid
        root = next_receipts_root(self._payer.receipts_root(executor), signed.receipt) if signed else None
        frame = self._payer.pay(executor, amount, root)
        self._paid += amount
        self._summary.price += amount
        signature = signed.payer_signature if signed else b""
        await self._call.send(to_bytes(Payment(frame, TokenAmount(self._paid), signature)))

    def _check_opening(self, opening: Opening) -> None:
        """An executor may charge for no more prompt than there is: a token is at least one byte of it."""
        request = self._request
        prompt = request.prompt
        most = prompt.text_bytes + TEMPLATE_TOKENS_MAX * (len(prompt.turns) + 1) + len(prompt.token_ids)
        most += len(request.prefix)
        ends_in_prefix = opening.prompt_ids[len(opening.prompt_ids) - len(request.prefix) :] == request.prefix
        if len(opening.prompt_ids) > most or not ends_in_prefix:
            raise CallFailedError("bad-answer", "the prompt it wants to charge for is not the one it was given")
        if opening.unpaid_tokens_max < 1:
            raise CallFailedError("bad-answer", "it wants to be paid in advance")

    def _check_receipt(self, signed: SignedReceipt) -> None:
        """Every figure that is paid for must be one that was seen here."""
        seen = receipt_of(
            self._request,
            self._model,
            self._prompt_ids,
            self._token_ids,
            self._chain.parameters.unit_price,
            epoch=signed.receipt.epoch,
            node_id=signed.receipt.node_id,
            at=signed.receipt.at,
            seed=self._seed.seed if self._seed is not None else 0,
            seeded_by_user=self._request.seed is not None,
        )
        if not is_the_same_answer(signed.receipt, seen, self._request) or not is_signed_by_executor(signed):
            raise CallFailedError("bad-answer", "the receipt does not match what was given")
