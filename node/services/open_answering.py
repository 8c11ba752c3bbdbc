"""Answers open prompts: waits for its turn, checks that the payer can pay, answers, takes the payment.

What an executor risks is its work: an open prompt is paid when its answer is there. So before it works it looks whether
the payer's channel holds the price above all its vouchers, and whether the payer owes it for another answer; and it
begins only when nobody before it has answered.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
import trio

from node.ports import (
    Call,
    CallFailedError,
    Chain,
    Content,
    ContentUnavailableError,
    Engine,
    EngineFailedError,
    EngineRefusedError,
    Network,
    RuleFollower,
    Sealing,
    SealingError,
    Store,
    WallClock,
)
from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address, Cid, RequestId
from node.protocol.open_prompts import ARRIVAL_SECONDS_MAX, Answered, OpenAnswer, Posted, Turn, turn_of
from node.protocol.pricing import receipt_digest
from node.protocol.receipts import countersigned, is_signed_by_payer
from node.protocol.records import SignedReceipt
from node.services.batches import BatchService
from node.services.epochs import EpochBook
from node.services.funding import Funding
from node.services.node_naming import named_node
from node.services.open_board import Entry, OpenBoard
from node.services.open_debts import Debt, OpenDebts
from node.services.open_frames import SETTLE_METHOD, read_settlement
from node.services.open_receipts import is_of_receipt, open_receipt, open_request, seed_of
from node.services.presence import PresenceTable
from node.services.prompt_content import (
    ANSWER_BYTES_MAX,
    PROMPT_BYTES_MAX,
    AnswerContent,
    PromptContent,
    answer_bytes,
    read_answer,
    read_prompt,
    read_sealed,
    sealed_bytes,
)
from node.services.receipt_book import ReceiptBookKeeper
from node.services.receipting import answer_evidence
from node.services.seeding import AnswerSeed
from node.services.tabs import PayeeBook, Tab
from node.services.vouchers import PaymentError
from node.services.whole_answers import whole_answer

log = structlog.get_logger(__name__)

AT_ONCE_MAX = 4
"""Open prompts answered side by side: users at a gateway are not to wait behind them."""
WAITING_MAX = 64
"""Prompts whose turn is still to come; more are left to others."""
PUBLISH_SECONDS = 2
"""An answer is given up so long before its turn ends: one that is late by a second is not paid."""
SEALED_EXTRA_BYTES = 16 * 1024
"""What sealing adds to a prompt, at most."""
LOOK_SECONDS_MAX = 5.0
"""How long an answer that was announced by another is looked for."""
SETTLE_CALLS_MAX = 16


UNANSWERABLE = (ContentUnavailableError, SealingError, EngineFailedError, EngineRefusedError, ValueError)
"""Why a prompt stays unanswered: its content, or the engine."""


@dataclass(slots=True)
class OpenAnsweringParts:
    """What answering needs of the node."""

    chain: Chain
    network: Network
    content: Content
    store: Store
    epochs: EpochBook
    presence: PresenceTable
    board: OpenBoard
    batches: BatchService
    engines: Sequence[Engine]
    payments: PayeeBook
    """The executor's: both are paid over the same channels."""
    funding: Funding
    """The executor's: what one has set aside, the other cannot."""
    is_free: bool
    """Whether this node serves free of charge. Open prompts are paid for, so it leaves them to others."""
    sealing: Sealing
    wall_clock: WallClock
    book: ReceiptBookKeeper | None = None
    """The executor's: keeps what auditors may ask for."""


class OpenAnswering:
    """The executor's side of open prompts."""

    def __init__(self, parts: OpenAnsweringParts) -> None:
        self._parts = parts
        self._debts = OpenDebts(parts.store, parts.wall_clock)
        self._send, self._receive = trio.open_memory_channel[Entry](WAITING_MAX)
        self._waiting = 0
        self._in_work: set[Address] = set()
        """Payers for whom an answer is being made: the next one is begun when that is paid."""
        self._changed = trio.Event()
        """Set when an answer is given up, paid or forgiven; then there is a new one."""
        self._tabs: dict[RequestId, Tab] = {}
        """One for each unpaid answer, open all the time: a voucher of another request that overtakes its payment, or
        comes long before it, must not be taken for a gift."""
        parts.board.on_posted(self._notice)
        parts.network.serve(SETTLE_METHOD, self.settle, concurrency=SETTLE_CALLS_MAX)

    async def run(self) -> None:
        """Answer for ever."""
        limit = trio.CapacityLimiter(AT_ONCE_MAX)
        async with trio.open_nursery() as nursery:
            async for entry in self._receive:
                nursery.start_soon(self._in_turn, limit, entry)

    def _notice(self, entry: Entry) -> None:
        """A prompt is on the board: take it if this node was drawn and could answer now."""
        if turn_of(entry.posted, self._parts.chain.account) is None or self._engine(entry) is None:
            return
        if self._waiting >= WAITING_MAX:
            log.info("an open prompt is left to others: too many wait for their turn")
            return
        self._waiting += 1
        self._send.send_nowait(entry)

    async def _in_turn(self, limit: trio.CapacityLimiter, entry: Entry) -> None:
        try:
            turn = turn_of(entry.posted, self._parts.chain.account)
            if turn is None:
                raise AssertionError("noticed prompts are those this node was drawn for")
            await trio.sleep(max(0, turn.begin - self._parts.wall_clock()))
            with trio.move_on_after(max(0, turn.end - PUBLISH_SECONDS - self._parts.wall_clock())) as time_left:
                async with self._only_answer_for(entry.posted.payer), limit:
                    await self._answer(entry, turn)
            if time_left.cancelled_caught:
                log.info("an open prompt was not answered within this node's turn; others go on", turn=turn.index)
            await self._forgive_if_lost(entry, turn)
        finally:
            self._waiting -= 1

    @asynccontextmanager
    async def _only_answer_for(self, payer: Address) -> AsyncIterator[None]:
        """Wait until `payer` owes nothing, and has nothing else in work here: it can take one answer unpaid, never two.

        An honest payer's next prompt waits for seconds. A thief's waits until its turn is over.
        """
        while payer in self._in_work or self._debts.refusal(payer) is not None:
            await self._changed.wait()
        self._in_work.add(payer)
        try:
            yield
        finally:
            self._in_work.discard(payer)
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _answer(self, entry: Entry, turn: Turn) -> None:
        posted = entry.posted
        reason = await self._refusal(entry)
        if reason is not None:
            log.info("an open prompt is left to others", turn=turn.index, reason=reason)
            return
        engine = self._engine(entry)
        if engine is None:
            return
        try:
            content = await self._read(posted)
            async with self._parts.funding.held(posted.payer, posted.prompt.price_limit):
                answer = await whole_answer(
                    engine,
                    entry.model,
                    content,
                    tokens_max=posted.prompt.max_tokens,
                    seed=seed_of(posted, content),
                    private=posted.prompt.is_sealed,
                )
            cid = await self._store_answer(posted, answer)
        except (CallFailedError, *UNANSWERABLE) as error:
            # A sealed prompt's text must not reach the log, not even by way of what an error quotes.
            why = type(error).__name__ if posted.prompt.is_sealed else str(error)[:200]
            log.warning("an open prompt could not be answered", turn=turn.index, reason=why)
            return
        if await self._answered_before(entry):
            return
        try:
            await self._publish(entry, content, answer, cid, engine)
        except PaymentError as error:
            log.info("an answer to an open prompt is not given", reason=str(error))

    async def _publish(
        self, entry: Entry, content: PromptContent, answer: AnswerContent, cid: Cid, engine: Engine
    ) -> None:
        """Sign the receipt, write down what is owed, say it. From here on the answer is out."""
        parts, posted = self._parts, entry.posted
        receipt = open_receipt(
            posted,
            content,
            answer,
            entry.model,
            parts.chain.parameters.unit_price,
            executor=parts.chain.account,
            node_id=named_node(parts.chain, parts.epochs, engine.node_id),
            at=parts.wall_clock(),
            by_rule=not isinstance(engine, RuleFollower) or engine.draws_by_rule,
        )
        signed = SignedReceipt(receipt, parts.chain.sign(receipt_digest(receipt)))
        if parts.book is not None:
            request = open_request(posted, content, parts.chain.account)
            drawn = AnswerSeed(seed_of(posted, content), None)
            parts.book.keep(signed, answer_evidence(request, answer.prompt_ids, answer.token_ids, drawn), ())
        parts.store.save_receipt(signed)  # what is signed is booked, whenever its payer signs and whether it pays
        self._tabs[receipt.request_id] = await self._open_tab(signed)
        self._debts.add(Debt(signed, parts.wall_clock()))
        await parts.store.durable()
        await parts.network.publish(OpenAnswer(cid, signed), urgent=True)
        log.info("an open prompt is answered", tokens=receipt.output_tokens, price=receipt.price)

    async def _refusal(self, entry: Entry) -> str | None:
        """Return why this node does not work on a prompt; None if it does."""
        if await self._answered_before(entry):
            return "it is answered"
        posted = entry.posted
        if self._parts.is_free:
            return "answers are free here, and no vouchers are taken"
        if self._parts.funding.free(posted.payer) < posted.prompt.price_limit:
            return "the payer's channel to this node does not hold the price, or is being emptied"
        return None

    async def _answered_before(self, entry: Entry) -> bool:
        """Whether somebody whose turn was earlier gave an answer that is there, and is what its receipt says.

        Without the look at it, an executor that announces what it does not have would keep all others from answering.
        """
        while (winner := self._parts.board.winner(entry)) is not None:
            if await self._is_usable(entry, winner):
                return True
            log.warning("an executor announced an answer that is of no use", executor=winner.executor)
            entry.unusable.add(winner.executor)
        return False

    async def _is_usable(self, entry: Entry, answered: Answered) -> bool:
        parts, receipt = self._parts, answered.answer.receipt.receipt
        try:
            with trio.fail_after(LOOK_SECONDS_MAX):
                data = await parts.content.read_bytes(
                    answered.answer.result_cid, parts.presence.providers(), limit_bytes=ANSWER_BYTES_MAX
                )
            if entry.posted.prompt.is_sealed:
                read_sealed(data)  # all that is to be seen of it
                return True
            return is_of_receipt(read_answer(data), receipt)
        except (ContentUnavailableError, ValueError, trio.TooSlowError):
            return False

    async def _read(self, posted: Posted) -> PromptContent:
        parts, prompt = self._parts, posted.prompt
        data = await parts.content.read_bytes(
            prompt.prompt_cid, parts.presence.providers(), limit_bytes=PROMPT_BYTES_MAX + SEALED_EXTRA_BYTES
        )
        if prompt.is_sealed:
            data = parts.sealing.open(read_sealed(data), prompt.model_id)
        return read_prompt(data, prompt.model_id)

    async def _store_answer(self, posted: Posted, answer: AnswerContent) -> Cid:
        parts, prompt = self._parts, posted.prompt
        data = answer_bytes(answer)
        if prompt.is_sealed:
            data = sealed_bytes(parts.sealing.seal_for_key(data, prompt.model_id, prompt.reply_key))
        return await parts.content.add_bytes(data)

    async def _forgive_if_lost(self, entry: Entry, turn: Turn) -> None:
        """When all answers of earlier turns must be here: if one of them wins, this node is owed nothing."""
        await trio.sleep(max(0, turn.begin + 2 * ARRIVAL_SECONDS_MAX - self._parts.wall_clock()))
        winner = self._parts.board.winner(entry)
        if winner is not None and winner.executor != self._parts.chain.account:
            self._debts.drop(entry.posted.prompt.request_id)
        self._close_tabs()

    async def _open_tab(self, receipt: SignedReceipt) -> Tab:
        """Begin to be paid for an answer that is complete. Raises PaymentError for a bad debtor."""
        price = receipt.receipt.price
        tab = self._parts.payments.begin(receipt.receipt.payer, allowance=price)
        await tab.charge(price, allowance=price)
        tab.close(receipt)
        return tab

    def _close_tabs(self) -> None:
        """End the tabs of answers for which nothing is owed any more: paid, lost to another, or forgiven."""
        for request_id in [identity for identity in self._tabs if self._debts.get(identity) is None]:
            tab = self._tabs.pop(request_id)
            tab.charged = tab.credited  # what an answer that did not win would have cost is no bad debt
            self._parts.payments.end(tab)
        self._notify()

    async def settle(self, call: Call) -> None:
        """Take the payment for an answer. Raises CallFailedError."""
        try:
            settlement = read_settlement(call.payload)
        except (SchemaError, ValueError) as error:
            raise CallFailedError("bad-request", str(error)[:200]) from error
        debt = self._debts.get(settlement.request_id)
        if debt is None:
            if self._debts.was_paid(settlement.request_id):
                return  # the payment came twice: what the first did stands
            raise CallFailedError("unknown-answer", "no payment is expected for this request")
        receipt = debt.receipt.receipt
        if not is_signed_by_payer(countersigned(debt.receipt, settlement.payment.receipt_signature)):
            # Before the payer's books are touched: a stranger's attempts must not count against it.
            raise CallFailedError("unpaid", "the receipt is not signed by the payer")
        try:
            tab = self._tabs.get(receipt.request_id) or await self._open_tab(debt.receipt)
            self._tabs[receipt.request_id] = tab
            await self._parts.payments.accept(tab, settlement.payment)
        except PaymentError as error:
            raise CallFailedError("unpaid", str(error)) from error
        settled = tab.settled
        if settled is None:
            raise CallFailedError("unpaid", f"the answer costs {receipt.price}; {tab.owed} of it are missing")
        self._parts.store.save_receipt(settled)
        if not receipt.is_private:  # a receipt commits to the prompt's tokens: whoever guesses them would find it
            self._parts.batches.add_receipt(settled)
        self._debts.paid(settlement.request_id)
        self._close_tabs()
        log.info("the answer to an open prompt is paid", price=receipt.price)

    def _engine(self, entry: Entry) -> Engine | None:
        model_id = entry.posted.prompt.model_id
        return next((engine for engine in self._parts.engines if engine.model_id == model_id), None)
