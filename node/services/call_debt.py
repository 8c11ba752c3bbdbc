"""What a gateway owes an executor for one call, and how it is paid: in steps as tokens come, at the end exactly."""

import contextlib
import math
from collections.abc import Sequence

import structlog
import trio

from node.ports import Call, CallFailedError
from node.protocol.codec import to_bytes
from node.protocol.identifiers import TokenAmount
from node.protocol.pricing import next_receipts_root, price
from node.protocol.records import ModelRecord, SignedReceipt
from node.services.answers import AnswerSummary
from node.services.desk import Desk
from node.services.frames import InferenceRequest, Payment, SignedVoucherFrame
from node.services.payment_rounds import Round
from node.services.terms import NOTHING, unit_price_of
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

LEAVING_SECONDS_MAX = 0.5
"""For the last payment to an executor that is left because its user goes."""


class CallDebt:
    """The debt of one call; a `Debtor` (payment_rounds.py). Nothing is owed until `begin`.

    `token_ids` are all that came, as they come. Whoever adds to them calls `pay_soon` once there are `due_tokens`.
    """

    def __init__(
        self,
        desk: Desk,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        token_ids: Sequence[int],
    ) -> None:
        self._desk = desk
        self._call = call
        self._request = request
        self._model = model
        self._summary = summary
        self._token_ids = token_ids
        self.unit_price = unit_price_of(desk.chain.parameters.unit_price, is_free=request.free)
        self.due_tokens = math.inf
        """How many tokens make the next voucher due or, once it is, urgent."""
        self.unpaid_tokens_max = 0
        """How many tokens the executor gives before they are paid; 0 before it said so."""
        self.unpaid: PaymentError | None = None
        """Why what came could not be paid."""
        self._prompt_tokens = 0
        self._step_price = 0
        self._step_tokens = 0
        self._paid = 0
        """Booked for this call."""
        self._telling = 0
        """Of it, what a voucher was sent for, or is about to be."""
        self._told = 0
        """Of it, what the executor was sent a voucher for."""
        self._round: Round | None = None
        """The round that this call opened and has to pay."""
        self._is_in_round = False
        self._due = trio.Event()
        self._paying = trio.Lock()

    @property
    def _owed(self) -> TokenAmount:
        """Price of all that came in this call, the prompt included."""
        return price(self._prompt_tokens, len(self._token_ids), self._model, self.unit_price)

    def begin(self, prompt_tokens: int, unpaid_tokens_max: int) -> None:
        """The executor has read the prompt, and gives so many tokens before they are paid."""
        self._prompt_tokens = prompt_tokens
        self.unpaid_tokens_max = unpaid_tokens_max
        # Half of the allowance: the voucher is there before the executor would have to wait for it.
        self._step_tokens = max(1, unpaid_tokens_max // 2)
        self._step_price = price(0, self._step_tokens, self._model, self.unit_price)
        self._set_next_step()
        if self._step_price > 0:  # the prompt is a step of its own
            self.pay_soon()

    def pay_soon(self) -> None:
        """A step is due, or cannot wait any more: then half of what was left to give unpaid is given too."""
        rounds, executor = self._desk.rounds, self._request.executor
        if self._is_in_round:
            self.due_tokens = math.inf
            rounds.hurry(executor)
            return
        given = len(self._token_ids)
        urgent = self.due_tokens + self._step_tokens // 2
        self._is_in_round = urgent > given  # else the executor waits for this voucher already
        self.due_tokens = urgent if self._is_in_round else math.inf
        self._round = rounds.join(executor, self) if self._is_in_round else None
        if self._round is not None or not self._is_in_round:
            self._due.set()

    async def keep_paying(self, scope: trio.CancelScope) -> None:
        """Pay for the prompt, and then for each step: beside taking tokens, for nobody is to wait for a disk. Cancels
        `scope` if something cannot be paid (`unpaid`).
        """
        while True:
            await self._due.wait()
            self._due = trio.Event()
            opened, self._round = self._round, None
            if opened is not None and not await self._desk.rounds.until_over(self._request.executor, opened):
                continue  # somebody else has paid for all in it
            try:
                await self.pay()
            except PaymentError as error:
                self.unpaid = error
                scope.cancel()
                return

    async def pay(self, signed: SignedReceipt | None = None) -> None:
        """Pay what is owed for this call; with `signed`, also countersign it, for it is complete.

        Raises PaymentError.
        """
        executor, payer, rounds = self._request.executor, self._desk.payer, self._desk.rounds
        signature = signed.payer_signature if signed else b""
        if self._request.free:
            if signed is not None:
                await self._send(Payment(None, NOTHING, signature))
            return
        if self._paying.locked():
            await self._paying.acquire()
        else:
            self._paying.acquire_nowait()  # without the turn that trio takes for a free lock
        try:  # what was paid in all is told in the order in which it grew
            if signed is None and self._owed <= self._told:
                return  # somebody else has paid it meanwhile
            root = next_receipts_root(payer.receipts_root(executor), signed.receipt) if signed else None
            payment = rounds.sign(executor, self, root)
            await rounds.publish(payment)
            self._telling = payment.paid
            await self._send(Payment(payment.frame, TokenAmount(payment.paid), signature))
            self._told = payment.paid
        finally:
            self._paying.release()

    async def pay_what_is_due(self) -> None:
        """Leave without debts: the user goes, what came before is paid. A voucher that comes too late for this call is
        made good by the next one.
        """
        if self._owed == self._told:
            return
        leaving = trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVING_SECONDS_MAX)
        with leaving, contextlib.suppress(PaymentError):
            await self.pay()

    def leave(self) -> None:
        """The call has ended: its debt is in no round any more."""
        self._desk.rounds.leave(self._request.executor, self)

    def missing(self) -> int:
        """What it owes and is not booked yet."""
        return self._owed - self._paid

    def book(self, amount: int) -> int:
        """So much more was signed for; return what was in all."""
        self._paid += amount
        self._summary.price += amount
        self._set_next_step()
        return self._paid

    def tell(self, frame: SignedVoucherFrame, paid: int) -> None:
        """Send a voucher that was signed for others too, if that takes no waiting and nothing is ahead of it."""
        if paid <= self._telling:
            return
        if self._paying.locked() or not self._call.may_send_now:
            self.wake()
            return
        self._call.send_now(to_bytes(Payment(frame, TokenAmount(paid), b"")))
        self._telling = self._told = paid

    def wake(self) -> None:
        """Pay what is owed, at once."""
        self._round = None  # not to be waited for, and perhaps somebody else's by now; if it is open, paying ends it
        self._due.set()

    def _set_next_step(self) -> None:
        """Say when the next step is due: counted once for each payment, and not for each token."""
        self._is_in_round = False
        if self._step_price > 0:
            per_token = price(0, 1, self._model, self.unit_price)
            self.due_tokens = -(-(self._paid + self._step_price) // per_token) - self._prompt_tokens

    async def _send(self, payment: Payment) -> None:
        """Send a payment. If the call has ended, what came before its end is still to be read, and then says why."""
        try:
            await self._call.send(to_bytes(payment))
        except CallFailedError as error:
            log.debug("a payment found the call ended", peer=self._call.peer_id, reason=str(error))
