"""Decoys: questions that nobody wants answered, asked through the normal gateway so that their answers can be audited.

*Purpose.* Receipt books are the executor's own, and of private answers nothing is in them that could be judged. An
answer that this node asked for itself it can audit whatever the executor says, and the executor cannot tell it from a
user's: the same gateway asks, of whoever the draw gives, when users ask, something of the shape of a user's request
(request_shapes.py), as often private, in words that a model wrote (decoy_writing.py); it is paid like any other.

*Detail.* What is found not to be the model's is challenged in the next vote bundle, with the receipt that both signed:
then everybody with the model judges it. The evidence is kept here and handed over, of private decoys as well: they are
nobody's secret. A challenge costs the group an audit, so only what the rule proves from one answer alone is challenged.
A restart loses nothing that is proven.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass

import structlog
import trio

from node.ports import Chain, EngineFailedError, EngineRefusedError, Store, WallClock
from node.protocol.audit_bands import bands_of
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audits import judge_figures
from node.protocol.identifiers import Address, ModelId
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochGroup, SignedReceipt
from node.protocol.shown_evidence import evidence_to_bytes
from node.protocol.tails import makes_vectors
from node.protocol.verdicts import Verdict
from node.services.answers_at_hand import AnswersAtHand
from node.services.audit_reading import read_figures
from node.services.challenge_book import ChallengeBook
from node.services.decoy_writing import DecoyWriter, WritingEngine
from node.services.epochs import EpochBook
from node.services.gateway import Answer, ChatRequest, GatewayError
from node.services.receipt_book import GivenAnswers
from node.services.request_shapes import HOUR_SECONDS, ShapeBook

log = structlog.get_logger(__name__)

PAUSE_SECONDS_MIN = 30.0
"""Between two: whatever goes wrong, no executor is flooded."""
DAY_SECONDS = 86_400.0

Ask = Callable[[ChatRequest], AbstractAsyncContextManager[Answer]]


@dataclass(frozen=True, slots=True)
class DecoyLimits:
    """How many decoys are asked, and what they may cost."""

    per_day: float
    """On average, in a day of which nothing is left out."""
    cost_per_day_max: int
    """In base units of the token. A decoy that has begun is not left, so the last one of a day may go beyond."""


def are_of_use(account: Address, group: EpochGroup, locked: int) -> bool:
    """Whether decoys of an account are: with a deposit (`locked`) to pay from, and weight, without which no bundle of
    its is heard that challenges anything."""
    return locked > 0 and any(member.participant == account and member.weight > 0 for member in group.members)


class DecoyService:
    """Asks decoys at random times, and has `book` challenge what they proved."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        epochs: EpochBook,
        ask: Ask,
        at_hand: AnswersAtHand,
        engines: Sequence[object],
        given: GivenAnswers,
        book: ChallengeBook,
        shapes: ShapeBook,
        limits: DecoyLimits,
        *,
        is_of_use: Callable[[], bool],
        wall_clock: WallClock,
        source: random.Random,
    ) -> None:
        """`ask` and `at_hand` are the gateway's. `is_of_use` says whether it can pay, and challenges would be heard."""
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._ask = ask
        self._at_hand = at_hand
        self._engines = [engine for engine in engines if isinstance(engine, WritingEngine)]
        self._given = given
        self._book = book
        self._shapes = shapes
        self._limits = limits
        self._is_of_use = is_of_use
        self._wall_clock = wall_clock
        self._source = source
        self._spent: deque[tuple[float, int]] = deque()
        """When, by trio's clock, and what: of the last day."""

    async def run(self) -> None:
        """Ask for ever, at times that nobody can foresee."""
        while True:
            await self._wait()
            engines = [engine for engine in self._engines if self._can_ask(engine.model_id)]
            if not engines or not self._is_of_use() or self._spent_today() >= self._limits.cost_per_day_max:
                continue
            try:
                await self.ask_one(self._source.choice(engines))
            except (GatewayError, EngineFailedError, EngineRefusedError, ValueError) as error:
                log.info("a decoy came to nothing", reason=str(error)[:200])

    async def ask_one(self, engine: WritingEngine) -> None:
        """Ask one decoy about the model that `engine` has, and audit what comes."""
        model_id = engine.model_id
        if model_id is None:
            return
        wanted = await DecoyWriter(engine, self._source).write(self._shapes.draw(self._source), model_id)
        with ExitStack() as kept:
            async with self._ask(wanted) as answer:
                kept.enter_context(self._at_hand.awaiting(answer.summary.request_id))
                try:
                    async for _ in answer:
                        pass
                finally:
                    self._spent.append((trio.current_time(), answer.summary.price))
            for signed in self._store.receipts_of(answer.summary.request_id):
                await self._audit(signed, engine, model_id)

    async def _wait(self) -> None:
        """Sleep until the next decoy: more are asked in the hours in which users ask more, and as many a day."""
        await trio.sleep(PAUSE_SECONDS_MIN)
        while True:
            most = self._limits.per_day * self._shapes.largest_share() / HOUR_SECONDS
            await trio.sleep(self._source.expovariate(most))
            if self._source.random() * self._shapes.largest_share() < self._shapes.share(self._wall_clock()):
                return

    def _can_ask(self, model_id: ModelId | None) -> bool:
        model = None if model_id is None else self._epochs.group().get_epoch_model(model_id)
        return model is not None and not makes_vectors(model)

    def _spent_today(self) -> int:
        while self._spent and self._spent[0][0] <= trio.current_time() - DAY_SECONDS:
            self._spent.popleft()
        return sum(cost for _, cost in self._spent)

    async def _audit(self, signed: SignedReceipt, engine: WritingEngine, model_id: ModelId) -> None:
        receipt = signed.receipt
        kept = self._at_hand.find(receipt.request_id, receipt.executor)
        group = self._epochs.group()
        model = group.get_epoch_model(model_id)
        is_ours = receipt.executor == self._chain.account
        if kept is None or model is None or model.cid != receipt.model_cid:
            return
        if is_ours or not receipt.is_verifiable:
            return
        band = bands_of(self._chain.state, group)(receipt.executor, receipt.node_id, model_id)
        figures = await read_figures(engine, kept, band, model.context_length)
        if figures is None:
            return
        verdict, reason = judge_figures(figures, band)
        log.info("a decoy is audited", executor=receipt.executor, verdict=verdict.value, tokens=figures.tokens)
        if verdict is Verdict.INVALID:
            log.warning("a decoy's answer is not the model's; it is challenged", executor=receipt.executor, why=reason)
            self._book.add(signed)  # first: what is in no book nobody would forget
            self._given.keep(receipt_digest(receipt), evidence_to_bytes(AuditEvidence(signed, kept)))
