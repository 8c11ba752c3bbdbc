"""Asks the network for vectors of texts: splits what is too much for a call, checks what comes, pays, asks others."""

import array
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from node.ports import CallFailedError, Chain, Network, Store, WallClock
from node.protocol.asking import REQUEST_BYTES_MAX
from node.protocol.codec import to_bytes
from node.protocol.identifiers import ModelId, RequestId
from node.protocol.pricing import price
from node.protocol.records import ModelRecord
from node.protocol.routing import ExecutorChoice
from node.protocol.sketches import FLOAT_BYTES, INPUTS_MAX, inputs_commitment
from node.services.embedding_attempt import EmbeddingAttempt
from node.services.embedding_frames import (
    METHOD,
    SPECIAL_TOKENS_MAX,
    EmbeddingInput,
    EmbeddingRequest,
    SignedEmbeddingRequest,
    embedding_digest,
)
from node.services.epochs import EpochBook
from node.services.errors import GatewayError
from node.services.faults import Evidence, ExecutorFaultError, FaultBook
from node.services.groups import sole_error
from node.services.payments import PayerBook
from node.services.presence import PresenceTable
from node.services.refusals import BUSY, retry_after_seconds
from node.services.terms import unit_price_of
from node.services.timing import position
from node.services.unreceived import Unreceived, UnreceivedBook
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

BATCH_WEIGHT_MAX = 24_000
"""Bytes of text and token ids in one call: together they are never more tokens than a call takes."""
BATCH_INPUTS_MAX = 256
"""Vectors of one call: 16 MiB of them at the most there are numbers in one."""
BATCHES_AT_ONCE_MAX = 4
EXECUTORS_TRIED_MAX = 8
CALL_SECONDS_MAX = 600.0
RETRY_SECONDS = 2.0
"""When to ask again, if busy executors do not say."""
USERS_FAULT = frozenset({"bad-request", "too-long"})

Candidates = Callable[[RequestId, ModelId], Sequence[ExecutorChoice]]
"""Executors to ask for a request, in order."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of some inputs, in their order, and what they cost."""

    model_id: ModelId
    vectors: tuple[bytes, ...]
    """float32, little-endian: what OpenAI's `base64` encoding carries."""
    prompt_tokens: int
    price: int

    def floats(self) -> list[list[float]]:
        """Return the vectors as numbers."""
        return [floats_of(vector) for vector in self.vectors]


def floats_of(vector: bytes) -> list[float]:
    """Return the numbers of a vector (float32, little-endian)."""
    numbers = array.array("f", vector)
    if numbers.itemsize != FLOAT_BYTES:
        raise AssertionError("a C float has four bytes on every machine that runs this")
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


class Embedder:
    """Asks for vectors, as Gateway asks for answers: the same books, the same executors."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        store: Store,
        epochs: EpochBook,
        presence: PresenceTable,
        payer: PayerBook,
        candidates: Candidates,
        faults: FaultBook,
        unreceived: UnreceivedBook,
        *,
        wall_clock: WallClock,
        answers_kept_max: int,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._chain = chain
        self._network = network
        self._store = store
        self._epochs = epochs
        self._presence = presence
        self._payer = payer
        self._candidates = candidates
        self._faults = faults
        self._unreceived = unreceived
        self._answers_kept_max = answers_kept_max
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        """Return a vector for each input, from as many calls as their size needs.

        Of what is `private` neither side keeps anything, and nobody audits it.
        Raises GatewayError: `model-not-found`, `no-executor`, `bad-request`, `too-long`, `payment`, `overloaded` or
        `failed`. What was paid for before a failure is lost: at most the other calls of this request.
        """
        if not 0 < len(inputs) <= INPUTS_MAX:
            raise GatewayError("bad-request", f"1 to {INPUTS_MAX} inputs, not {len(inputs)}")
        model = self._epochs.group().get_epoch_model(model_id)
        if model is None:
            known = ", ".join(m.model_id for m in self._epochs.group().models) or "none at present"
            raise GatewayError("model-not-found", f"there is no model {model_id}; models that can be asked: {known}")
        batches = split_inputs(inputs)
        found: list[Embeddings | None] = [None] * len(batches)
        limit = trio.CapacityLimiter(BATCHES_AT_ONCE_MAX)

        async def embed_batch(number: int, batch: Sequence[EmbeddingInput]) -> None:
            async with limit:
                found[number] = await self._embed_batch(model, tuple(batch), private=private)

        with sole_error():
            async with trio.open_nursery() as nursery:
                for number, batch in enumerate(batches):
                    nursery.start_soon(embed_batch, number, batch)
        parts = [part for part in found if part is not None]
        if len({len(vector) for part in parts for vector in part.vectors}) > 1:
            raise GatewayError("failed", "executors gave vectors of different lengths; ask again")
        return Embeddings(
            model_id,
            tuple(vector for part in parts for vector in part.vectors),
            sum(part.prompt_tokens for part in parts),
            sum(part.price for part in parts),
        )

    async def _embed_batch(
        self, model: ModelRecord, inputs: tuple[EmbeddingInput, ...], *, private: bool
    ) -> Embeddings:
        """Ask executors in turn. Raises GatewayError if none of them gives the vectors."""
        request_id = RequestId(self._random_bytes(32))
        candidates = self._candidates(request_id, model.model_id)[:EXECUTORS_TRIED_MAX]
        if not candidates:
            raise GatewayError("no-executor", f"nobody who serves {model.model_id} is present; try again later")
        failures: list[CallFailedError] = []
        for choice in candidates:
            try:
                return await self._ask(choice, self._request(choice, request_id, model, inputs, private=private), model)
            except CallFailedError as error:
                failures.append(error)
                log.warning("an executor gave no vectors", executor=choice.participant, reason=str(error))
            except PaymentError as error:
                raise GatewayError("payment", str(error)) from error
        raise _summed_up(failures)

    def _request(
        self,
        choice: ExecutorChoice,
        request_id: RequestId,
        model: ModelRecord,
        inputs: tuple[EmbeddingInput, ...],
        *,
        private: bool,
    ) -> EmbeddingRequest:
        record = self._presence.record_of(choice.participant)
        return EmbeddingRequest(
            request_id=request_id,
            model_id=model.model_id,
            payer=self._chain.account,
            executor=choice.participant,
            at=self._wall_clock(),
            epoch=position(self._chain).epoch,
            inputs=inputs,
            free=record is not None and record.free,
            private=private,
        )

    async def _ask(self, choice: ExecutorChoice, request: EmbeddingRequest, model: ModelRecord) -> Embeddings:
        executor = choice.participant
        unit_price = unit_price_of(self._chain.parameters.unit_price, is_free=request.free)
        most = price(request.tokens_max, 0, model, unit_price)
        payload = to_bytes(SignedEmbeddingRequest(request, self._chain.sign(embedding_digest(request))))
        if len(payload) > REQUEST_BYTES_MAX:
            raise GatewayError("too-long", f"an input has more than {REQUEST_BYTES_MAX} bytes")
        if not request.free:
            await self._payer.reserve(executor, most)
        attempt: EmbeddingAttempt | None = None
        try:
            async with self._network.call(choice.peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
                attempt = EmbeddingAttempt(
                    self._chain,
                    self._store,
                    self._epochs,
                    self._payer,
                    call,
                    request,
                    model,
                    answers_kept_max=self._answers_kept_max,
                )
                try:
                    vectors = await attempt.run()
                except ExecutorFaultError as error:
                    self._report(error, request, attempt)
                    raise
        finally:
            self._note_unreceived(request, attempt)
            if not request.free:
                self._payer.release(executor, most)
        return Embeddings(model.model_id, vectors, attempt.prompt_tokens, attempt.price)

    def _note_unreceived(self, request: EmbeddingRequest, attempt: EmbeddingAttempt | None) -> None:
        """Write down that an executor has a signed request for which this node has no receipt.

        It books nothing before its opening. After that it may book all: it does so before the first vector leaves.
        """
        if request.private or (attempt is not None and attempt.has_receipt):
            return  # of private vectors none is drawn, whatever is booked
        if not self._unreceived.has_room(request.epoch, request.executor):
            return
        asked = Unreceived(
            request.executor,
            embedding_digest(request),
            request.request_id,
            request.model_id,
            tokens_max=0 if attempt is None else attempt.prompt_tokens,
            ended_at=self._wall_clock(),
        )
        self._unreceived.add(request.epoch, asked)

    def _report(self, error: ExecutorFaultError, request: EmbeddingRequest, attempt: EmbeddingAttempt) -> None:
        """Keep what shows an executor's fault, and ask it last for a while."""
        self._faults.add(
            Evidence(
                at=self._wall_clock(),
                participant=request.executor,
                request_id=request.request_id,
                model_id=request.model_id,
                code=error.fault.value,
                detail=error.message,
                request_digest=embedding_digest(request),
                prompt_commitment=inputs_commitment(() if request.private else attempt.token_ids),
                output_tokens=0,
                output_commitment=attempt.output_commitment,
                frame=b"",
                receipt=error.receipt,
            )
        )


def split_inputs(inputs: Sequence[EmbeddingInput]) -> list[list[EmbeddingInput]]:
    """Return the inputs, in their order, in parts that a call takes; what is too large by itself is a part alone."""
    batches: list[list[EmbeddingInput]] = []
    weight = 0
    for item in inputs:
        added = item.weight + SPECIAL_TOKENS_MAX
        if not batches or weight + added > BATCH_WEIGHT_MAX or len(batches[-1]) >= BATCH_INPUTS_MAX:
            batches.append([])
            weight = 0
        batches[-1].append(item)
        weight += added
    return batches


def _summed_up(failures: Sequence[CallFailedError]) -> GatewayError:
    """Return what to tell the user when nobody gave the vectors."""
    for error in failures:
        if error.code in USERS_FAULT:
            return GatewayError(error.code, error.message)
    if all(error.code == BUSY for error in failures):
        seconds = min(retry_after_seconds(error) or RETRY_SECONDS for error in failures)
        return GatewayError("overloaded", "everybody who serves the model is busy", retry_after=seconds)
    return GatewayError("failed", f"no executor gave the vectors: {'; '.join(map(str, failures))}")
