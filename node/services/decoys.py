"""Decoys: questions that nobody wants answered, asked through the normal gateway so that their answers can be audited.

*Purpose.* Receipt books are the executor's own, and users may keep their answers private. An answer that this node
asked for itself it can audit whatever the executor says, and the executor cannot tell it from a user's: the same
gateway asks, of whoever the draw gives, at random times, something that a model wrote; it is paid like any other.

*Detail.* What is found not to be the model's is challenged in the next vote bundle, with the receipt that both signed:
then everybody with the model judges it. The evidence is kept here and handed over. A challenge costs the group an
audit, so only what the rule proves from one answer alone is challenged. A restart loses nothing that is proven.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import structlog
import trio

from node.ports import Chain, EngineFailedError, EngineRefusedError, GenerationChunk, GenerationRequest, Store
from node.protocol.audit_bands import bands_of
from node.protocol.audit_evidence import AuditEvidence, kept_answer
from node.protocol.audits import judge_figures
from node.protocol.codec import to_bytes
from node.protocol.dossiers import AnswerEvidence
from node.protocol.identifiers import ModelId, RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.protocol.sampling import SEED_MAX, SamplingParameters
from node.protocol.verdicts import Verdict
from node.services.audit_reading import AUDIT_PRIORITY, read_figures
from node.services.epochs import EpochBook
from node.services.frames import Prompt, Turn
from node.services.gateway import Answer, ChatRequest, GatewayError
from node.services.proven_decoys import ProvenDecoys
from node.services.receipt_book import GivenAnswers
from node.services.receipt_tokens import CheckingEngine
from node.services.timing import position

log = structlog.get_logger(__name__)

PROMPT_TOKENS = (8, 96)
"""A decoy's question has between so many tokens: as many as users' have."""
ANSWER_TOKENS = (64, 256)
"""Enough to prove another model from one answer."""
START_TOKENS = 2
"""Random tokens that a question begins from: the model goes on with them."""
TEMPERATURES_MILLI = (700, 800, 1000)
PAUSE_SECONDS_MIN = 30.0


@runtime_checkable
class WritingEngine(CheckingEngine, Protocol):
    """An engine of this node's own: it makes up questions and audits answers."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context aborts the generation at the engine."""


Ask = Callable[[ChatRequest], AbstractAsyncContextManager[Answer]]


class DecoyService:
    """Asks decoys at random times, `seconds_between` apart on average; `take` gives what they proved."""

    def __init__(
        self,
        chain: Chain,
        store: Store,
        epochs: EpochBook,
        ask: Ask,
        engines: Sequence[object],
        given: GivenAnswers,
        *,
        seconds_between: float,
        source: random.Random,
    ) -> None:
        """`ask` is the gateway's; answers are kept by it (answers_kept_max), else nothing can be audited."""
        self._chain = chain
        self._store = store
        self._epochs = epochs
        self._ask = ask
        self._engines = [engine for engine in engines if isinstance(engine, WritingEngine)]
        self._given = given
        self._seconds_between = seconds_between
        self._source = source
        self._proven = ProvenDecoys(store)

    async def run(self) -> None:
        """Ask for ever, at times that nobody can foresee."""
        while True:
            await trio.sleep(max(PAUSE_SECONDS_MIN, self._source.expovariate(1 / self._seconds_between)))
            engine = next((engine for engine in self._engines if engine.model_id is not None), None)
            if engine is None:
                continue
            try:
                await self.ask_one(engine)
            except (GatewayError, EngineFailedError, EngineRefusedError) as error:
                log.info("a decoy came to nothing", reason=str(error)[:200])

    def take(self) -> tuple[SignedReceipt, ...]:
        """Return the challenges for the next bundle, in its order; they are not given again."""
        return self._proven.take(position(self._chain).epoch)

    async def ask_one(self, engine: WritingEngine) -> None:
        """Ask one decoy about the model that `engine` has, and audit what comes."""
        model_id = engine.model_id
        if model_id is None:
            return
        text = await self._question(engine)
        if not text.strip():
            return
        sampling = SamplingParameters(temperature_milli=self._source.choice(TEMPERATURES_MILLI))
        tokens = self._source.randint(*ANSWER_TOKENS)
        wanted = ChatRequest(model_id, Prompt((Turn("user", text.strip()),)), max_tokens=tokens, sampling=sampling)
        async with self._ask(wanted) as answer:
            async for _ in answer:
                pass
        for signed in self._store.receipts_of(RequestId(answer.summary.request_id)):
            await self._audit(signed, engine, model_id)

    async def _question(self, engine: WritingEngine) -> str:
        """Return a text that the model wrote: it is like what the model's users write, and never the same."""
        start = tuple(self._source.randrange(engine.vocabulary_size) for _ in range(START_TOKENS))
        request = GenerationRequest(
            prompt_ids=start,
            max_tokens=self._source.randint(*PROMPT_TOKENS),
            sampling=SamplingParameters(),
            seed=self._source.randint(0, SEED_MAX),
            stop=(),
            priority=AUDIT_PRIORITY,
        )
        parts = []
        async with engine.generate(request) as chunks:
            async for chunk in chunks:
                parts.append(chunk.text)
        return "".join(parts)

    async def _audit(self, signed: SignedReceipt, engine: WritingEngine, model_id: ModelId) -> None:
        receipt = signed.receipt
        answer = self._store.answer_of(receipt.request_id, receipt.executor)
        group = self._epochs.group()
        model = group.get_epoch_model(model_id)
        is_ours = receipt.executor == self._chain.account
        if not isinstance(answer, AnswerEvidence) or model is None or model.cid != receipt.model_cid:
            return
        if is_ours or not receipt.is_verifiable:
            return
        kept = kept_answer(answer)
        band = bands_of(self._chain.state, group)(receipt.executor, receipt.node_id, model_id)
        figures = await read_figures(engine, kept, band, model.context_length)
        if figures is None:
            return
        verdict, reason = judge_figures(figures, band)
        log.info("a decoy is audited", executor=receipt.executor, verdict=verdict.value, tokens=figures.tokens)
        if verdict is Verdict.INVALID:
            log.warning("a decoy's answer is not the model's; it is challenged", executor=receipt.executor, why=reason)
            self._given.keep(receipt_digest(receipt), to_bytes(AuditEvidence(signed, kept)))
            self._proven.add(signed)
