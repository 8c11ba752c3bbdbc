"""Asks the network on behalf of a user: chooses executors, streams the answer, pays, goes on elsewhere on failure."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog
import trio

from node.ports import Chain, Network, Store, WallClock
from node.protocol.identifiers import Address, ModelId, RequestId
from node.protocol.messages import PromptAnnouncement
from node.protocol.records import ModelRecord
from node.protocol.routing import ExecutorChoice, rank_executors
from node.protocol.sampling import SamplingParameters
from node.services.answers import AnswerPart, AnswerSummary
from node.services.answers_at_hand import AnswersAtHand
from node.services.batches import BatchService
from node.services.candidates import Prospect, is_faithful, once_per_participant, order_candidates
from node.services.conductor import Conductor
from node.services.desk import Desk
from node.services.embedding import Embedder
from node.services.epochs import EpochBook
from node.services.errors import GatewayError, readable
from node.services.faults import FaultBook
from node.services.frames import SALT_BYTES, InferenceRequest, Prompt, prompt_commitment_of
from node.services.groups import sole_error
from node.services.nearness import Nearness
from node.services.outlet import Outlet, TakePart
from node.services.patience import HedgeBudget
from node.services.payment_rounds import PaymentRounds
from node.services.payments import PayerBook
from node.services.presence import PresenceTable
from node.services.speeds import SpeedBook
from node.services.timing import position
from node.services.trade import Counts, Trade
from node.services.unreceived import UnreceivedBook

__all__ = ["Answer", "ChatRequest", "Gateway", "GatewayError"]  # faces know the error by this module

log = structlog.get_logger(__name__)

CHUNKS_WAITING_MAX = 64
"""Pieces waiting for a slow reader; then the executor waits too, and so does our paying."""
CALLER_ID_CHARACTERS_MAX = 128
FUNDING_SECONDS = 4.0
"""What a first deposit takes: two blocks or so. It only ever decides between two neighbours of the draw."""


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
    private: bool = False
    """Nothing of it is announced or published, and the executor keeps nothing of it."""
    caller_id: str = ""
    """The user's own name for the request: in logs only, never on the wire, and nobody's answer depends on it."""
    user: str = ""
    """Who asks, by key or address: never on the wire nor in a log, and nobody's answer depends on it."""


class Answer:
    """An answer on its way. Iterate for its parts; then `summary` is complete. Raises GatewayError if it fails."""

    def __init__(self, summary: AnswerSummary, outlet: Outlet) -> None:
        self.summary = summary
        self._outlet = outlet
        self.error: GatewayError | None = None

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        """Yield the parts as they come."""
        async for part in self._outlet:
            yield part
        if self.error is not None:
            raise self.error

    def hand_to(self, take_now: TakePart) -> None:
        """Offer each part that comes while the iteration waits to `take_now`; those that it takes are not yielded."""
        self._outlet.take_now = take_now


class Gateway:
    """Asks. Between requests it keeps the payer's books and what it learned of executors: their speed, their faults."""

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
        score: Callable[[Address], float] = lambda _: 1.0,
        answers_kept_max: int = 0,
        private_answers_kept_seconds: float = 0.0,
    ) -> None:
        """`score` says how far a participant is trusted: 1 without a blemish, 0 to be asked last. Of answers that are
        not private, the newest `answers_kept_max` are kept, so that their receipts can be checked; private ones in
        memory, for `private_answers_kept_seconds`, so that their user may challenge them.
        """
        self._chain = chain
        self._epochs = epochs
        self._presence = presence
        self._batches = batches
        self.payer = payer
        """Shared with whatever else this node pays over the same channels."""
        self.at_hand = AnswersAtHand(private_answers_kept_seconds)
        """What is kept of private answers, and of decoys."""
        self.on_answered: Callable[[ChatRequest], None] | None = None
        """Is told of each request of a user's whose answer is complete: decoys are shaped like these."""
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._score = score
        self._trade = Trade(
            desk=Desk(chain, store, epochs, payer, PaymentRounds(payer, store), answers_kept_max, self.at_hand),
            network=network,
            speeds=SpeedBook(),
            faults=FaultBook(store, wall_clock),
            hedges=HedgeBudget(),
            wall_clock=wall_clock,
            announce=self._announce,
            record_of=presence.record_of,
            nearness=Nearness(network),
            unreceived=UnreceivedBook(store),
        )
        self.speeds = self._trade.speeds
        """How fast executors answered: evidence for scores."""
        self.vectors = Embedder(
            chain,
            network,
            store,
            epochs,
            presence,
            payer,
            self.candidates,
            self._trade.faults,
            self._trade.unreceived,
            wall_clock=wall_clock,
            answers_kept_max=answers_kept_max,
            random_bytes=random_bytes,
        )
        """Asks for vectors instead of answers."""
        self.running = 0

    @property
    def counts(self) -> Counts:
        """What this gateway did since it started."""
        return self._trade.counts

    @property
    def faults(self) -> FaultBook:
        """Who failed here lately; shared with whatever else this node asks executors."""
        return self._trade.faults

    def models(self) -> tuple[ModelRecord, ...]:
        """Models that can be asked in this epoch."""
        return self._epochs.group().models

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        """Ask; leaving the context stops the answer, and the paying. Raises GatewayError at once or while iterating."""
        async with self.ask_decoy(chat) as answer:
            yield answer
        if self.on_answered is not None and answer.error is None and answer.summary.finish_reason:
            self.on_answered(chat)

    @asynccontextmanager
    async def ask_decoy(self, chat: ChatRequest) -> AsyncIterator[Answer]:
        """Ask what no user wants to know: in no way otherwise, but that it is no pattern for other decoys."""
        model = self._epochs.group().get_epoch_model(chat.model_id)
        if model is None:
            known = ", ".join(m.model_id for m in self.models()) or "none at present"
            raise GatewayError(
                "model-not-found", f"there is no model {chat.model_id}; models that can be asked: {known}"
            )
        request_id = RequestId(self._random_bytes(32))
        summary = AnswerSummary(
            request_id,
            chat.model_id,
            caller_id=readable(chat.caller_id, CALLER_ID_CHARACTERS_MAX),
        )
        outlet = Outlet(CHUNKS_WAITING_MAX)
        answer = Answer(summary, outlet)
        self.running += 1
        try:
            with sole_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._produce, chat, model, answer, outlet)
                    try:
                        yield answer
                    finally:
                        outlet.abandon()
                    nursery.cancel_scope.cancel()
        finally:
            self.running -= 1

    async def _produce(
        self,
        chat: ChatRequest,
        model: ModelRecord,
        answer: Answer,
        outlet: Outlet,
    ) -> None:
        try:
            request_id = answer.summary.request_id
            await Conductor(
                self._trade,
                self._request(chat, model, request_id),
                model,
                answer.summary,
                outlet,
                lambda: self.candidates(request_id, chat.model_id),
            ).run()
        except GatewayError as error:
            answer.error = error
        except trio.BrokenResourceError:
            log.debug("a user went away before the answer was complete")
        finally:
            outlet.close()

    def _request(self, chat: ChatRequest, model: ModelRecord, request_id: RequestId) -> InferenceRequest:
        try:
            return InferenceRequest(
                request_id=request_id,
                model_id=chat.model_id,
                payer=self._chain.account,
                executor=self._chain.account,  # replaced by whoever is asked
                at=self._wall_clock(),
                epoch=position(self._chain).epoch,
                prompt=chat.prompt,
                prefix=(),
                max_tokens=min(chat.max_tokens or model.context_length, model.context_length),
                sampling=chat.sampling,
                seed=chat.seed,
                stop=chat.stop,
                logprobs=chat.logprobs,
                response_format=chat.response_format,
                private=chat.private,
                salt=self._random_bytes(SALT_BYTES),
            )
        except ValueError as error:
            raise GatewayError("bad-request", str(error)) from error

    def candidates(self, request_id: RequestId, model_id: ModelId) -> tuple[ExecutorChoice, ...]:
        """Those of the group that are present with the model ready, in the order to ask them."""
        present = self._presence.present()
        trade, now = self._trade, trio.current_time()
        drawn = []
        for choice in once_per_participant(rank_executors(request_id, self._epochs.group(), model_id)):
            executor = choice.participant
            record = present.get(executor)
            if record is None or model_id not in record.models:
                continue
            if executor == self._chain.account:
                continue  # a channel to oneself is refused by the contract
            is_funded = record.free or trade.desk.payer.deposits.held(executor) > 0
            drawn.append(
                Prospect(
                    choice,
                    load=max(record.load, trade.in_flight[executor]),
                    capacity=record.capacity,
                    delay=(0.0 if is_funded else FUNDING_SECONDS) + trade.nearness.seconds(choice.peer_id),
                    is_busy=trade.is_busy(executor),
                    seconds=trade.speeds.expected_seconds(executor, model_id, now),
                    score=self._score(executor),
                    is_faulty=trade.faults.is_faulty(executor),
                )
            )
        return order_candidates(drawn, faithful=is_faithful(request_id))

    def _announce(self, request: InferenceRequest) -> None:
        if request.private:
            return
        self._batches.announce(
            PromptAnnouncement(
                request_id=request.request_id,
                model_id=request.model_id,
                prompt_commitment=prompt_commitment_of(request),
                max_tokens=request.max_tokens,
                executor=request.executor,
            )
        )
