"""One executor's part of an answer, from the gateway's side: takes tokens, has them paid, checks the receipt."""

import math
from collections.abc import Awaitable, Callable

import structlog
import trio

from node.ports import Call, CallFailedError
from node.protocol.claims import NOT_ASKED, ClaimsHash, claims_of
from node.protocol.dossiers import AnswerEvidence
from node.protocol.identifiers import TokenAmount
from node.protocol.pricing import receipt_digest
from node.protocol.receipts import countersigned, is_signed_by_executor
from node.protocol.records import ModelRecord, SignedReceipt
from node.protocol.seeds import SeedShareError
from node.services.answers import AnswerPart, AnswerSummary
from node.services.call_debt import CallDebt
from node.services.checks import TokenChecks, check_opening, read_frame
from node.services.desk import Desk
from node.services.faults import ExecutorFaultError, Fault
from node.services.frames import (
    ExecutorFrame,
    InferenceRequest,
    Opening,
    SignedVoucherFrame,
    Tokens,
    asking_of,
)
from node.services.groups import sole_error
from node.services.node_naming import is_its_node
from node.services.outlet import Outlet
from node.services.patience import CLOSING_SECONDS_MAX, PATIENT_TOKENS, SLOW_SECONDS_MIN, Patience
from node.services.receipting import answer_evidence, is_the_same_answer, receipt_of
from node.services.seeding import AnswerSeed, seed_of_opening
from node.services.timing import position
from node.services.token_frames import read_plain_tokens
from node.services.transcript import Continuation, DiffersError, Transcript
from node.services.unreceived import tokens_given_at_most
from node.services.vouchers import PaymentError

__all__ = ["AnswerPart", "AnswerSummary", "Attempt"]  # others know the first two by this module

log = structlog.get_logger(__name__)

ACKNOWLEDGE_SECONDS_MAX = 5.0
"""How long an executor may take to book its last voucher."""
WATCH_SLACK = 0.2
"""Part of the silence allowed by which the watch may be early."""


class Attempt:
    """A running call of `infer`.

    Raises ExecutorFaultError or another CallFailedError if another executor must go on, PaymentError if what it gave
    cannot be paid. `claim` is called with the first token: it returns False if another executor was faster. `outlet` is
    where parts for the user go, `give` waits until there is room.

    Detail: a piece that is like most (`_take_now`) is dealt with where it arrives, without waking the attempt's task.
    """

    def __init__(
        self,
        desk: Desk,
        call: Call,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        transcript: Transcript,
        continuation: Continuation,
        patience: Patience,
        *,
        claim: Callable[[], bool],
        outlet: Outlet,
        give: Callable[[AnswerPart], Awaitable[None]],
    ) -> None:
        self._desk = desk
        self._call = call
        self._request = request
        self._model = model
        self._summary = summary
        self._transcript = transcript
        self._continuation = continuation
        self._patience = patience
        self._claim = claim
        self._outlet = outlet
        self._give = give
        self.began = trio.current_time()
        self._asked_at = self.began
        self._watch = trio.CancelScope()
        self._watched_until = math.inf
        """Deadline of that, which trio takes long to tell."""
        self._prompt_ids: tuple[int, ...] = ()
        self._by_rule = True
        self._seed: AnswerSeed | None = None
        self._checks: TokenChecks | None = None
        self._claims = None if request.logprobs is None else ClaimsHash()
        self._last_frame = b""
        self._fault: Exception | None = None
        """What was wrong with a piece when nobody was there to be told of it."""
        self._waited = 0.0
        self._texts: list[str] = []
        self.token_ids: list[int] = []
        """All that came in this attempt, those that were made once more included."""
        self.has_receipt = False
        """Whether it ended as it should, with a receipt that is kept."""
        self._debt = CallDebt(desk, call, request, model, summary, self.token_ids)
        self.first_seconds: float | None = None
        """From the call to the first token."""

    @property
    def is_beyond_audit(self) -> bool:
        """Whether the executor said that it does not draw by the rule, where the request is within it."""
        return self._request.is_within_rule and not self._by_rule

    @property
    def tokens_given_at_most(self) -> int:
        """As many tokens an honest executor may have given, with those that are on the way."""
        if self._checks is None:  # it did not say yet how much it gives unpaid
            return self._request.max_tokens
        return tokens_given_at_most(len(self.token_ids), self._debt.unpaid_tokens_max, is_free=self._request.free)

    @property
    def token_seconds(self) -> float | None:
        """Average time from one token to the next, without what the user took; None before the second token."""
        return self._waited / (len(self.token_ids) - 1) if len(self.token_ids) > 1 else None

    async def run(self) -> None:
        """Take the rest of the answer to its end, and pay for it."""
        try:
            with self._watch:
                await self._run()
            if self._watch.cancelled_caught:
                silent = trio.current_time() - self._asked_at
                raise ExecutorFaultError(Fault.SILENT, f"nothing came for {silent:.1f} s")
        except ExecutorFaultError as error:
            error.frame = error.frame or self._last_frame
            raise
        except (CallFailedError, PaymentError):
            raise
        except BaseException:  # the user goes; of two tasks that are cancelled, trio may raise a group
            await self._debt.pay_what_is_due()
            raise
        finally:
            self._debt.leave()

    async def _run(self) -> None:
        first = await self._next_frame()
        if first.opening is None:
            raise ExecutorFaultError(Fault.OUT_OF_TURN, "the executor did not begin with an opening")
        checks = await self._open(first.opening)
        self._call.hand_to(self._take_now)
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._debt.keep_paying, nursery.cancel_scope)
                await self._take_all(checks)
                nursery.cancel_scope.cancel()
        if self._debt.unpaid is not None:
            raise self._debt.unpaid

    async def _take_all(self, checks: TokenChecks) -> None:
        while True:
            frame = await self._next_frame()
            if frame.tokens is not None:
                checks.add(frame.tokens)
                await self._take(frame.tokens)
                if self._transcript.finish_reason and not frame.tokens.finish_reason:
                    self._watch_until(trio.current_time() + CLOSING_SECONDS_MAX)
                    await self._debt.pay()  # a stop text that it could not see: it began in another's tokens
                    return
            elif frame.closing is not None:
                if not checks.is_complete:
                    raise ExecutorFaultError(Fault.EARLY_END, "a receipt before the end", receipt=frame.closing.receipt)
                await self._settle(frame.closing.receipt)
                return
            else:
                raise ExecutorFaultError(Fault.OUT_OF_TURN, "a second opening")

    async def _next_frame(self) -> ExecutorFrame:
        self._asked_at = trio.current_time()
        self._watch_until(self._deadline(self._asked_at))
        try:
            data = await self._call.receive()
        except trio.EndOfChannel as error:
            raise ExecutorFaultError(Fault.EARLY_END, "the answer ended without a receipt") from error
        self._last_frame = data
        if self._fault is not None:
            raise self._fault
        if self.first_seconds is not None:
            self._waited += trio.current_time() - self._asked_at
        return read_frame(data, bytes_max=self._checks.frame_bytes_max if self._checks is not None else None)

    def _deadline(self, now: float) -> float:
        if self.first_seconds is None:
            return self.began + self._patience.first
        if self._checks is not None and self._checks.is_complete:
            return now + CLOSING_SECONDS_MAX
        return now + self._patience.silence

    def _watch_until(self, deadline: float) -> None:
        """Have the attempt end at `deadline`, or a little before: moving a deadline for each token would cost more than
        reading the token.
        """
        if not 0 <= deadline - self._watched_until < self._patience.silence * WATCH_SLACK:
            self._watch.deadline = self._watched_until = deadline

    async def _open(self, opening: Opening) -> TokenChecks:
        check_opening(opening, self._request)
        await self._adopt(opening.newest_voucher)
        self._prompt_ids = opening.prompt_ids
        self._by_rule = opening.by_rule
        self._seed = self._seed_of(opening)
        self._checks = TokenChecks(self._request, opening, self._model.context_length)
        self._debt.begin(len(self._prompt_ids), opening.unpaid_tokens_max)
        return self._checks

    async def _adopt(self, newest: SignedVoucherFrame | None) -> None:
        try:
            taken_over = self._desk.payer.adopt(self._request.executor, newest)
        except PaymentError as error:  # its lie, not our lack of funds: another executor may be honest
            raise ExecutorFaultError(Fault.VOUCHER, str(error)) from error
        if taken_over and not self._request.free:
            # What was reserved was reserved above a total that turned out too low.
            self._watch_until(float("inf"))  # the chain takes its time
            await self._desk.payer.reserve(self._request.executor, TokenAmount(0))

    def _seed_of(self, opening: Opening) -> AnswerSeed:
        try:
            return seed_of_opening(self._request, opening.seed_share)
        except SeedShareError as error:
            raise ExecutorFaultError(Fault.SEED, str(error)) from error

    async def _take(self, tokens: Tokens) -> None:
        if self.first_seconds is None and tokens.token_ids:
            self.first_seconds = trio.current_time() - self.began
            if not self._claim():
                raise CallFailedError("superseded", "another executor was faster")
            self._begin_summary()
        # If this attempt's time is over it ends here, before the transcript says that the user has what it cannot give.
        await trio.lowlevel.checkpoint_if_cancelled()
        part = self._add(tokens)
        if part is not None:
            await self._hand_over(part)
        if len(self.token_ids) >= self._debt.due_tokens:
            self._debt.pay_soon()
        if self._is_slow(self._waited):
            await self._debt.pay_what_is_due()  # slow is not dishonest
            raise ExecutorFaultError(Fault.SLOW, f"{len(self.token_ids)} tokens in {self._waited:.0f} s")

    def _take_now(self, data: bytes) -> bool:
        """Take a piece like most others without waiting: some tokens with their text in the middle of an answer. Return
        False for all else, which `_take_all` then deals with.
        """
        checks = self._checks
        if checks is None or self.first_seconds is None or checks.is_complete or not self._continuation.is_new:
            return False
        now = trio.current_time()
        waited = self._waited + now - self._asked_at
        if now >= self._watched_until or (waited > SLOW_SECONDS_MIN and self._is_slow(waited)):
            return False
        tokens = self._read_quickly(data, checks)
        if tokens is None or not tokens.token_ids or tokens.finish_reason or not self._outlet.has_room():
            return False
        if self._request.stop and self._transcript.would_stop(tokens.text):
            return False
        self._asked_at, self._waited, self._last_frame = now, waited, data
        try:
            is_whole = checks.add(tokens)
            part = self._add(tokens)
            if part is not None:
                self._outlet.give_now(part)
        except Exception as fault:  # told where it ends this answer only
            self._fault = fault
            return False
        if len(self.token_ids) >= self._debt.due_tokens:
            self._debt.pay_soon()
        if is_whole or self._watched_until - now < self._patience.silence * (1 - WATCH_SLACK):
            self._watch_until(self._deadline(now))
        return True

    def _read_quickly(self, data: bytes, checks: TokenChecks) -> Tokens | None:
        """Read a piece; None for what is none, and for what is wrong: that is found again where it can be raised."""
        tokens = read_plain_tokens(data) if len(data) <= checks.frame_bytes_max else None
        if tokens is not None:
            return tokens
        try:
            return read_frame(data, bytes_max=checks.frame_bytes_max).tokens
        except ExecutorFaultError:
            return None

    def _add(self, tokens: Tokens) -> AnswerPart | None:
        """Book a piece; return what of it the user gets."""
        self.token_ids.extend(tokens.token_ids)
        self._texts.append(tokens.text)
        if self._claims is not None:
            self._claims.add(claims_of(tokens.logprobs))
        try:
            part = self._continuation.add(tokens)
        except DiffersError as error:
            raise ExecutorFaultError(Fault.DIFFERS, str(error)) from error
        if part is None:
            return None
        self._summary.output_tokens = len(self._transcript.token_ids)
        self._summary.finish_reason = self._transcript.finish_reason
        return part if part.text or part.token_ids else None

    def _is_slow(self, waited: float) -> bool:
        return waited > max(SLOW_SECONDS_MIN, self._patience.token * max(PATIENT_TOKENS, len(self.token_ids)))

    async def _hand_over(self, part: AnswerPart) -> None:
        if not self._outlet.give_now(part):
            self._watch_until(float("inf"))  # it is the user who is slow
            await self._give(part)

    def _begin_summary(self) -> None:
        summary, executor = self._summary, self._request.executor
        summary.seed = self._seed
        if executor not in summary.executors:
            summary.executors = (*summary.executors, executor)
        if not summary.prompt_tokens:
            summary.prompt_tokens = len(self._prompt_ids) - len(self._request.prefix)

    async def _settle(self, signed: SignedReceipt) -> None:
        """Check the receipt against what came, sign it, keep it, pay exactly its price."""
        await self._check_receipt(signed)
        self._watch_until(trio.current_time() + CLOSING_SECONDS_MAX + ACKNOWLEDGE_SECONDS_MAX)
        signed = countersigned(signed, self._desk.chain.sign(receipt_digest(signed.receipt)))
        self._keep(signed)
        self.has_receipt = True
        await self._debt.pay(signed)
        await self._until_acknowledged()

    def _keep(self, signed: SignedReceipt) -> None:
        """Keep the receipt and what it commits to: of what is private at most in memory."""
        desk, request, seed = self._desk, self._request, self._seed
        is_stored = not request.private and desk.answers_kept_max > 0
        is_at_hand = desk.at_hand.wants(request.request_id, is_private=request.private)
        given: AnswerEvidence | None = None
        if seed is not None and (is_stored or is_at_hand):
            given = answer_evidence(request, self._prompt_ids, self.token_ids, seed, "".join(self._texts))
        desk.store.save_receipt(signed, given if is_stored else None, answers_kept_max=desk.answers_kept_max)
        if given is not None and is_at_hand:
            desk.at_hand.keep(signed.receipt, given)

    async def _until_acknowledged(self) -> None:
        """Wait for the executor to end the call: leaving first would cancel it before it has the last voucher."""
        with trio.move_on_after(ACKNOWLEDGE_SECONDS_MAX):
            try:
                await self._call.receive()
            except (trio.EndOfChannel, CallFailedError) as end:
                log.debug("a call ended", peer=self._call.peer_id, how=repr(end))

    async def _check_receipt(self, signed: SignedReceipt) -> None:
        """Every figure that is paid for must be one that was seen here, and what is audited must be somebody's."""
        seen = receipt_of(
            self._request,
            self._model,
            self._prompt_ids,
            self.token_ids,
            self._debt.unit_price,
            epoch=position(self._desk.chain).epoch,
            node_id=signed.receipt.node_id,
            at=signed.receipt.at,
            seed=self._seed.seed if self._seed is not None else 0,
            seeded_by_user=self._request.seed is not None,
            by_rule=self._by_rule,
            claims_commitment=NOT_ASKED if self._claims is None else self._claims.commitment(),
            asking=asking_of(self._request),
        )
        if not is_signed_by_executor(signed):
            raise ExecutorFaultError(Fault.RECEIPT, "it did not sign its receipt", receipt=signed)
        if not is_the_same_answer(signed.receipt, seen, self._request):
            raise ExecutorFaultError(Fault.RECEIPT, "the receipt does not match what was given", receipt=signed)
        self._watch_until(math.inf)  # that ends by itself
        if not await is_its_node(self._desk.chain, self._desk.epochs, signed.receipt):
            raise ExecutorFaultError(Fault.RECEIPT, "the receipt names a node that it does not have", receipt=signed)
