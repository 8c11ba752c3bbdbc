"""Serves vectors to gateways: checks the request, has an engine make them, gives them as far as they are covered."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import structlog
import trio

from node.ports import (
    Call,
    CallFailedError,
    Chain,
    Engine,
    EngineFailedError,
    Network,
    Store,
    WallClock,
)
from node.protocol.codec import to_bytes
from node.protocol.dossiers import VectorEvidence
from node.protocol.identifiers import EpochNumber, NodeId, TokenAmount
from node.protocol.pricing import price, receipt_digest
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.sketches import FLOAT_BYTES, TOKENS_MAX, sketches_of
from node.services.batches import BatchService
from node.services.broker import Broker, Lease
from node.services.embedding_frames import (
    METHOD,
    VECTORS_BYTES_MAX,
    EmbeddingInput,
    EmbeddingOpening,
    EmbeddingRequest,
    SignedEmbeddingRequest,
    Vectors,
    embedding_digest,
    embedding_opening_bytes,
    embedding_receipt_bytes,
    read_embedding_request,
    vectors_bytes,
)
from node.services.embedding_receipts import embedding_receipt_of
from node.services.epochs import EpochBook
from node.services.freshness import FreshRequests
from node.services.funding import Funding
from node.services.groups import sole_error
from node.services.node_naming import named_node
from node.services.paid_calls import PaidCall
from node.services.receipt_book import ReceiptBookKeeper
from node.services.refusals import RETRY_SECONDS_MAX, busy_error
from node.services.served_calls import answering, model_to_serve, read_signed
from node.services.tabs import PayeeBook, Tab
from node.services.terms import FreeMode, unit_price_for
from node.services.timing import position
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

CALLS_MAX = 256
TOKENIZED_AT_ONCE_MAX = 8
"""Inputs of one request that are with an engine's tokenizer at the same time."""
USER_PRIORITY = 0


class EmbeddingExecutor:
    """Answers `embed`. The same books, places and rules as answers in words have."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        store: Store,
        epochs: EpochBook,
        batches: BatchService,
        broker: Broker,
        payments: PayeeBook,
        funding: Funding,
        fresh: FreshRequests,
        *,
        unpaid_tokens_max: int,
        wall_clock: WallClock,
        free: FreeMode | None,
        book: ReceiptBookKeeper | None,
    ) -> None:
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._batches = batches
        self._broker = broker
        self._payments = payments
        self._funding = funding
        self._fresh = fresh
        self._unpaid_tokens_max = unpaid_tokens_max
        self._wall_clock = wall_clock
        self._free = free
        self._book = book
        self._told_of_full_room: EpochNumber | None = None
        network.serve(METHOD, self.serve, concurrency=CALLS_MAX)

    async def serve(self, call: Call) -> None:
        """Serve one call. Raises CallFailedError with a word the gateway can act on."""
        signed = read_signed(
            call.payload, read_embedding_request, lambda read: embedding_digest(read.request), self._chain
        )
        request = signed.request
        model = model_to_serve(request, self._epochs, self._broker)
        if not request.private and self._book is not None and not self._book.given.has_room_for_vectors():
            self._tell_of_full_room()
            raise busy_error(RETRY_SECONDS_MAX, "no more vectors can be kept for auditors now")
        chain_price = self._chain.parameters.unit_price
        unit_price = unit_price_for(request.payer, asks_free=request.free, free=self._free, unit_price=chain_price)
        self._fresh.admit(request.request_id, request.payer, 0, request.at)
        allowance = price(self._unpaid_tokens_max, 0, model, unit_price)
        try:
            tab = self._payments.begin(request.payer, allowance=allowance, is_free=request.free)
        except PaymentError as error:
            raise CallFailedError("unpaid", str(error)) from error
        with answering(request, self._payments, tab, self._store):
            await self._answer(call, signed, model, unit_price, tab)

    def _tell_of_full_room(self) -> None:
        """Tell the operator once an epoch."""
        epoch = position(self._chain).epoch
        if epoch != self._told_of_full_room:
            self._told_of_full_room = epoch
            log.error(
                "no more vectors are given until some of those that auditors may ask for are not due any more: what is "
                "kept of them fills its room; raise [node] vectors_kept_bytes_max if the disk has more",
                epoch=epoch,
            )

    async def _answer(
        self, call: Call, asked: SignedEmbeddingRequest, model: ModelRecord, unit_price: TokenAmount, tab: Tab
    ) -> None:
        request = asked.request
        token_ids = await self._tokens_of(request, model)
        cost = price(sum(map(len, token_ids)), 0, model, unit_price)
        newest = None if request.free else self._payments.newest_voucher(request.payer)
        paid = PaidCall(call, self._payments, tab)
        async with self._funding.held(request.payer, cost), self._lease(request, token_ids) as lease:
            await paid.send(embedding_opening_bytes(EmbeddingOpening(token_ids, self._unpaid_tokens_max, newest)))
            async with paid.taking_payments():
                # What is beyond the allowance is paid before it is made, the rest with the receipt.
                await paid.charge(cost, allowance=price(self._unpaid_tokens_max, 0, model, unit_price))
                node_id, vectors = await self._make(lease, request, token_ids)
                await self._give(paid, asked, model, unit_price, node_id, token_ids, vectors)

    async def _make(
        self, lease: Lease, request: EmbeddingRequest, token_ids: tuple[tuple[int, ...], ...]
    ) -> tuple[NodeId, Vectors]:
        """Return the vectors and the node that made them: another one of this participant's if the first fails."""
        node_id = lease.engine.node_id
        try:
            return node_id, join_vectors(await lease.engine.embed(token_ids, priority=USER_PRIORITY))
        except EngineFailedError as error:
            if self._broker.ready_engine(request.model_id, avoid=(node_id,)) is None:
                raise
            why = type(error).__name__ if request.private else str(error)
            log.warning("an engine failed; another one makes the vectors", node=node_id, reason=why)
        async with self._lease(request, token_ids, avoid=(node_id,)) as other:
            return other.engine.node_id, join_vectors(await other.engine.embed(token_ids, priority=USER_PRIORITY))

    def _lease(
        self, request: EmbeddingRequest, token_ids: Sequence[Sequence[int]], avoid: tuple[NodeId, ...] = ()
    ) -> AbstractAsyncContextManager[Lease]:
        tokens = [token for ids in token_ids for token in ids]
        return self._broker.lease(request.model_id, payer=request.payer, prompt_ids=tokens, max_tokens=1, avoid=avoid)

    async def _give(
        self,
        paid: PaidCall,
        asked: SignedEmbeddingRequest,
        model: ModelRecord,
        unit_price: TokenAmount,
        node_id: NodeId,
        token_ids: tuple[tuple[int, ...], ...],
        vectors: Vectors,
    ) -> None:
        """Send the vectors and the receipt, wait for the voucher and the payer's signature.

        The receipt is on the disk before the first vector leaves: who takes the vectors and goes would choose what is
        audited else, and whoever has the receipt may miss it in this node's books.
        """
        parts = split_vectors(vectors)
        sketches = []
        for part in parts:
            sketches.append(_sketched(part))
            await trio.lowlevel.checkpoint()
        given = VectorEvidence(token_ids, vectors.dimensions, b"".join(sketches))
        receipt = embedding_receipt_of(
            asked.request,
            model,
            given,
            unit_price,
            epoch=position(self._chain).epoch,
            node_id=named_node(self._chain, self._epochs, node_id),
            at=self._wall_clock(),
        )
        signed = SignedReceipt(receipt, self._chain.sign(receipt_digest(receipt)))
        if self._book is not None:
            self._book.keep_vectors(signed, given, to_bytes(asked.request), asked.signature)
        self._store.save_receipt(signed)
        await self._store.durable()
        for part in parts:
            await paid.send(vectors_bytes(part))
        signed = await paid.settle(signed, embedding_receipt_bytes(signed))
        self._store.save_receipt(signed)
        if not receipt.is_private:  # it commits to the inputs' tokens: whoever guesses them would find them
            self._batches.add_receipt(signed)
        log.info("vectors were given and paid", vectors=len(token_ids), tokens=receipt.prompt_tokens)

    async def _tokens_of(self, request: EmbeddingRequest, model: ModelRecord) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of each input. Raises CallFailedError for what the model cannot read."""
        engine = self._broker.ready_engine(request.model_id)
        if engine is None:
            raise CallFailedError("not-serving", f"no engine here has {request.model_id} ready")
        highest = max((token for item in request.inputs for token in item.token_ids), default=0)
        if highest >= engine.vocabulary_size:
            raise CallFailedError(
                "bad-request", f"token id {highest} is none of the model's, which end at {engine.vocabulary_size - 1}"
            )
        token_ids = await _tokenize(engine, request.inputs)
        for number, ids in enumerate(token_ids):
            if not 0 < len(ids) <= model.context_length:
                raise CallFailedError(
                    "too-long",
                    f"input {number} has {len(ids)} tokens; the model reads 1 to {model.context_length}",
                )
        total = sum(map(len, token_ids))
        if total > request.tokens_max:
            raise CallFailedError("too-long", f"the inputs have {total} tokens, more than anybody takes for theirs")
        if total > TOKENS_MAX:
            raise CallFailedError("too-long", f"the inputs have {total} tokens together; a call takes {TOKENS_MAX}")
        return token_ids


async def _tokenize(engine: Engine, inputs: Sequence[EmbeddingInput]) -> tuple[tuple[int, ...], ...]:
    found: list[tuple[int, ...]] = [item.token_ids for item in inputs]
    limit = trio.CapacityLimiter(TOKENIZED_AT_ONCE_MAX)

    async def tokenize(number: int, text: str) -> None:
        async with limit:
            found[number] = await engine.tokenize(text)

    with sole_error():
        async with trio.open_nursery() as nursery:
            for number, item in enumerate(inputs):
                if item.text is not None:
                    nursery.start_soon(tokenize, number, item.text)
    return tuple(found)


def join_vectors(vectors: Sequence[bytes]) -> Vectors:
    """Return an engine's vectors as one record. Raises EngineFailedError if they are none of this protocol's."""
    try:
        if len({len(vector) for vector in vectors}) != 1 or len(vectors[0]) % FLOAT_BYTES:
            raise ValueError("they differ in length")
        return Vectors(len(vectors[0]) // FLOAT_BYTES, b"".join(vectors))
    except ValueError as error:
        raise EngineFailedError(f"the engine's vectors cannot be given out: {error}") from error


def _sketched(part: Vectors) -> bytes:
    try:
        return sketches_of(part.data, part.dimensions)
    except ValueError as error:
        raise EngineFailedError(f"the engine's vectors cannot be given out: {error}") from error


def split_vectors(vectors: Vectors) -> list[Vectors]:
    """Return vectors in parts that fit into a frame each."""
    size = FLOAT_BYTES * vectors.dimensions
    step = max(1, VECTORS_BYTES_MAX // size) * size
    return [
        Vectors(vectors.dimensions, vectors.data[start : start + step]) for start in range(0, len(vectors.data), step)
    ]
