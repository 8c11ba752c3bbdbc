"""One executor's vectors, from the gateway's side: takes them, checks them and the receipt, pays for them."""

import structlog
import trio

from node.ports import Call, CallFailedError, Chain, Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import Hash32, TokenAmount
from node.protocol.pricing import next_receipts_root, price, receipt_digest
from node.protocol.receipts import countersigned, is_signed_by_executor
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.sketches import FLOAT_BYTES, sketches_of, vectors_commitment
from node.services.embedding_frames import (
    SPECIAL_TOKENS_MAX,
    EmbeddingFrame,
    EmbeddingOpening,
    EmbeddingRequest,
    Vectors,
)
from node.services.embedding_receipts import embedding_receipt_of, is_the_same_embedding
from node.services.epochs import EpochBook
from node.services.faults import ExecutorFaultError, Fault
from node.services.frames import Payment
from node.services.node_naming import is_its_node
from node.services.payments import PayerBook
from node.services.terms import NOTHING, unit_price_of
from node.services.timing import position
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

SILENCE_SECONDS_MAX = 60.0
"""An executor that says nothing for so long is given up."""
ACKNOWLEDGE_SECONDS_MAX = 10.0
"""How long an executor may take to book the last voucher."""


class EmbeddingAttempt:
    """A running call of `embed`. Raises CallFailedError if another executor is to be asked, PaymentError if none."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        epochs: EpochBook,
        payer: PayerBook,
        call: Call,
        request: EmbeddingRequest,
        model: ModelRecord,
        *,
        answers_kept_max: int,
    ) -> None:
        """`answers_kept_max`: of how many answers of its own this node keeps what their receipts are about."""
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._payer = payer
        self._call = call
        self._request = request
        self._model = model
        self._answers_kept_max = answers_kept_max
        self._unit_price = unit_price_of(chain.parameters.unit_price, is_free=request.free)
        self.token_ids: tuple[tuple[int, ...], ...] = ()
        """Of each input, as the executor read it; none before its opening."""
        self._data = bytearray()
        self._sketches = bytearray()
        self._dimensions = 0
        self.price = 0
        """What was paid."""
        self.has_receipt = False
        """Whether it ended as it should, with a receipt that is kept."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all inputs."""
        return sum(map(len, self.token_ids))

    @property
    def output_commitment(self) -> Hash32:
        """Commitment to the vectors that came."""
        return vectors_commitment(self._dimensions, bytes(self._sketches))

    async def run(self) -> tuple[bytes, ...]:
        """Return the vectors, paid for."""
        first = await self._next_frame()
        if first.opening is None:
            raise CallFailedError("bad-answer", "the executor did not begin with an opening")
        await self._open(first.opening)
        while True:
            frame = await self._next_frame()
            if frame.vectors is not None:
                self._take(frame.vectors)
            elif frame.receipt is not None:
                await self._settle(frame.receipt)
                size = FLOAT_BYTES * self._dimensions
                data = bytes(self._data)
                return tuple(data[start : start + size] for start in range(0, len(data), size))
            else:
                raise CallFailedError("bad-answer", "a second opening")

    async def _open(self, opening: EmbeddingOpening) -> None:
        self._check_opening(opening)
        try:
            taken_over = self._payer.adopt(self._request.executor, opening.newest_voucher)
        except PaymentError as error:  # its lie, not our lack of funds: another executor may be honest
            raise CallFailedError("bad-answer", str(error)) from error
        if taken_over and not self._request.free:
            await self._payer.reserve(self._request.executor, TokenAmount(0))
        self.token_ids = opening.token_ids
        ahead = self._cost(self.prompt_tokens - opening.unpaid_tokens_max)
        if ahead > 0:
            await self._pay(ahead)

    def _check_opening(self, opening: EmbeddingOpening) -> None:
        """An executor may charge for no more than was given: a token is at least one byte of a text."""
        inputs = self._request.inputs
        honest = len(opening.token_ids) == len(inputs) and all(
            0 < len(ids) <= item.weight + SPECIAL_TOKENS_MAX if item.text is not None else ids == item.token_ids
            for ids, item in zip(opening.token_ids, inputs, strict=False)
        )
        if not honest:
            raise CallFailedError("bad-answer", "the inputs it wants to charge for are not those it was given")
        if opening.unpaid_tokens_max < 1:
            raise CallFailedError("bad-answer", "it wants to be paid in advance")

    def _take(self, vectors: Vectors) -> None:
        if self._dimensions not in (0, vectors.dimensions):
            raise CallFailedError("bad-answer", "the vectors differ in length")
        self._dimensions = vectors.dimensions
        self._data += vectors.data
        if len(self._data) > FLOAT_BYTES * self._dimensions * len(self._request.inputs):
            raise CallFailedError("bad-answer", "more vectors than inputs")
        try:
            self._sketches += sketches_of(vectors.data, vectors.dimensions)
        except ValueError as error:
            raise ExecutorFaultError(Fault.TOKENS, "the vectors have numbers that are none") from error

    async def _settle(self, signed: SignedReceipt) -> None:
        """Check the receipt against what came, sign it, keep it, pay exactly its price."""
        if not self._data or len(self._data) != FLOAT_BYTES * self._dimensions * len(self._request.inputs):
            raise CallFailedError("bad-answer", "fewer vectors than inputs")
        given = VectorEvidence(self.token_ids, self._dimensions, bytes(self._sketches))
        await self._check_receipt(signed, given)
        signed = countersigned(signed, self._chain.sign(receipt_digest(signed.receipt)))
        kept = None if self._request.private else given
        self._store.save_receipt(signed, kept, answers_kept_max=self._answers_kept_max)
        self.has_receipt = True
        await self._pay(signed.receipt.price, signed)
        with trio.move_on_after(ACKNOWLEDGE_SECONDS_MAX):
            try:
                await self._call.receive()
            except (trio.EndOfChannel, CallFailedError) as end:
                log.debug("a call ended", peer=self._call.peer_id, how=repr(end))

    async def _check_receipt(self, signed: SignedReceipt, given: VectorEvidence) -> None:
        """Every figure that is paid for must be one that was seen here, and what is audited must be somebody's."""
        seen = embedding_receipt_of(
            self._request,
            self._model,
            given,
            self._unit_price,
            epoch=position(self._chain).epoch,
            node_id=signed.receipt.node_id,
            at=signed.receipt.at,
        )
        if not is_the_same_embedding(signed.receipt, seen, self._request) or not is_signed_by_executor(signed):
            raise ExecutorFaultError(Fault.RECEIPT, "the receipt does not match what was given", receipt=signed)
        if not await is_its_node(self._chain, self._epochs, signed.receipt):
            raise ExecutorFaultError(Fault.RECEIPT, "the receipt names a node that it does not have", receipt=signed)

    async def _pay(self, total: TokenAmount, signed: SignedReceipt | None = None) -> None:
        """Pay what is missing to `total`; with `signed`, also countersign it, for all vectors are here."""
        executor = self._request.executor
        signature = signed.payer_signature if signed else b""
        if self._request.free:
            await self._call.send(to_bytes(Payment(None, NOTHING, signature)))
            return
        amount = total - self.price
        root = next_receipts_root(self._payer.receipts_root(executor), signed.receipt) if signed else None
        frame = self._payer.pay(executor, amount, root)
        self.price += amount
        await self._store.durable()
        await self._call.send(to_bytes(Payment(frame, TokenAmount(self.price), signature)))

    def _cost(self, tokens: int) -> TokenAmount:
        return price(tokens, 0, self._model, self._unit_price)

    async def _next_frame(self) -> EmbeddingFrame:
        try:
            with trio.fail_after(SILENCE_SECONDS_MAX):
                return from_bytes(EmbeddingFrame, await self._call.receive())
        except trio.TooSlowError as error:
            raise CallFailedError("silent", f"nothing came for {SILENCE_SECONDS_MAX:.0f} s") from error
        except trio.EndOfChannel as error:
            raise CallFailedError("bad-answer", "the call ended without a receipt") from error
        except SchemaError as error:
            raise CallFailedError("bad-answer", str(error)) from error
