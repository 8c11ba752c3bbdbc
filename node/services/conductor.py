"""One answer from several executors: who is asked when, who is left, and how the stream goes on unbroken.

One executor at a time gives the answer. A second is asked beside it only before the first token, if that is long in
coming (a *hedge*); whoever gives a token first goes on, the other is cancelled at once. When the one that gives fails,
the next goes on after what came. All of this ends with the answer, or when nobody is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from node.ports import CallFailedError
from node.protocol.identifiers import Address
from node.protocol.records import ModelRecord
from node.protocol.routing import ExecutorChoice
from node.services.answers import AnswerPart, AnswerSummary
from node.services.candidate_line import EXECUTORS_TRIED_MAX, CandidateLine
from node.services.errors import GatewayError, readable
from node.services.executor_part import ExecutorParts, Running
from node.services.fault_reports import report_fault
from node.services.faults import DETAIL_CHARACTERS_MAX, ExecutorFaultError, Fault
from node.services.frames import InferenceRequest
from node.services.groups import sole_error
from node.services.outlet import Outlet
from node.services.patience import hedge_seconds
from node.services.refusals import retry_after_seconds
from node.services.timing import position
from node.services.trade import Trade
from node.services.transcript import Continuation, Transcript
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

READER_SECONDS_MAX = 25.0
"""How long a user may leave a part unread. Below the time after which an executor gives up an unpaid answer (30 s)."""
REFUSALS_BELIEVED = 2
"""Executors that must call a request bad before its user is told so: one alone may have a wrong clock, or lie."""
USERS_FAULT = frozenset({"bad-request", "too-long"})
"""Words of an executor by which the request itself is at fault."""
BUSY = "busy"
BUSY_SECONDS = 1.0
"""When to ask again, if a busy executor does not say."""
UNFAULTED = frozenset({BUSY, "superseded", "stale-seed", "no-seed", "terms", "replayed", "unread"}) | USERS_FAULT
"""Words that are no fault, or not yet known to be one."""
FAULT_OF = {"lost": Fault.LOST, "unreachable": Fault.LOST, "deadline": Fault.LOST}
"""All other words mean that it failed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How an executor's part ended: well, if there is no error."""

    running: Running
    error: CallFailedError | PaymentError | None


class Conductor:
    """Has one request answered. `candidates` says who may be asked now, best first."""

    def __init__(
        self,
        trade: Trade,
        request: InferenceRequest,
        model: ModelRecord,
        summary: AnswerSummary,
        outlet: Outlet,
        candidates: Callable[[], Sequence[ExecutorChoice]],
    ) -> None:
        """`request` names no executor yet."""
        self._trade = trade
        self._request = request
        self._model = model
        self._summary = summary
        self._outlet = outlet
        self._line = CandidateLine(candidates)
        self._transcript = Transcript(request.stop, begins_anew=_begins_anew(request))
        self._parts = ExecutorParts(trade, model, summary, self._transcript, self._line, outlet, self._give)
        self._refusals: list[tuple[Running, CallFailedError]] = []
        self._unpaid: PaymentError | None = None
        self._failures: dict[Address, str] = {}
        """Why each executor was left, the last time."""
        self._is_different = False
        """Somebody made the last tokens otherwise than the user has them: nobody is to make them again."""
        self._running: list[Running] = []
        self._giver: Running | None = None
        self._log = log.bind(request=request.request_id.hex()[:8], caller=summary.caller_id or None)
        # Each executor that was started sends one event, and two run at a time.
        self._ended, self._events = trio.open_memory_channel[Ended](EXECUTORS_TRIED_MAX)

    async def run(self) -> None:
        """Give the whole answer. Raises GatewayError, or trio.BrokenResourceError if the user has gone."""
        self._trade.hedges.count_request()
        self._trade.counts.requests += 1
        with sole_error():
            async with trio.open_nursery() as nursery:
                while not await self._step(nursery):
                    pass
                nursery.cancel_scope.cancel()

    async def _step(self, nursery: trio.Nursery) -> bool:
        """Start somebody or wait for somebody; return whether the answer is complete."""
        if not self._running:
            choice = await self._next_choice()
            self._start(nursery, choice)
        with trio.move_on_after(self._hedge_after()) as patience_for_first:
            event = await self._events.receive()
        if patience_for_first.cancelled_caught:
            self._hedge(nursery)
            return False
        if event.running not in self._running:
            return False  # superseded, and noticed that itself
        self._running.remove(event.running)
        if event.error is None:
            if event.running.attempt is not None and event.running.attempt.is_beyond_audit:
                unruly = ExecutorFaultError(Fault.NOT_BY_RULE, "by its own word; no audit can check its answers")
                self._report(event.running, unruly)
            else:  # or each of its answers would be news
                self._trade.faults.absolve(event.running.executor)
            seed = self._summary.seed
            self._trade.shares.keep(event.running.request, seed.share if seed is not None else None)
            await self._end("length")
            return True
        if self._giver is event.running:
            self._giver = None
            self._trade.counts.failovers += not self._is_complete()
        return await self._after_failure(event.running, event.error)

    def _start(self, nursery: trio.Nursery, choice: ExecutorChoice) -> None:
        executor = choice.participant
        self._line.start(executor)
        exactly = self._is_different and _may_go_on_anywhere(self._request)
        point = self._transcript.resume_exactly() if exactly else self._transcript.resume()
        request = replace(
            self._request,
            executor=executor,
            at=self._trade.wall_clock(),
            epoch=position(self._trade.desk.chain).epoch,
            prefix=point.prefix,
            max_tokens=self._request.max_tokens - len(point.prefix),
        )
        running = Running(executor, request)
        self._running.append(running)
        nursery.start_soon(self._run, nursery, choice, running, Continuation(self._transcript, point))

    async def _run(
        self, nursery: trio.Nursery, choice: ExecutorChoice, running: Running, continuation: Continuation
    ) -> None:
        error = await self._parts.run(
            running,
            choice.peer_id,
            continuation,
            claim=lambda: self._claim(running),
            meanwhile=lambda: self._prepare_another(nursery),
        )
        if not running.scope.cancelled_caught:
            self._ended.send_nowait(Ended(running, error))

    def _claim(self, running: Running) -> bool:
        """The first token is there: its executor goes on, and nobody else."""
        if self._giver is not None or running.scope.cancel_called:
            return False
        self._giver = running
        for other in [other for other in self._running if other is not running]:
            other.scope.cancel()
            self._running.remove(other)
            self._log.info("a hedge was decided", faster=running.executor, slower=other.executor)
        for refused, error in self._refusals:
            self._report(refused, ExecutorFaultError(Fault.REFUSED, f"{error}, which others do not say"))
        self._refusals.clear()
        return True

    def _report(self, running: Running, error: ExecutorFaultError) -> None:
        token_ids = running.attempt.token_ids if running.attempt is not None else []
        report_fault(self._trade, running.request, token_ids, error)

    async def _give(self, part: AnswerPart) -> None:
        """Hand a part to the user; a user who does not read ends the request."""
        with trio.move_on_after(READER_SECONDS_MAX) as limit:
            await self._outlet.give(part)
        if limit.cancelled_caught:
            raise GatewayError("slow-reader", f"the answer was not read for {READER_SECONDS_MAX:.0f} s; it has ended")

    async def _after_failure(self, running: Running, error: CallFailedError | PaymentError) -> bool:
        """Draw the consequences; return whether the answer is complete all the same."""
        executor = running.executor
        reason = readable(str(error), DETAIL_CHARACTERS_MAX)
        self._failures[executor] = reason
        self._log.warning("an executor failed", executor=executor, given=self._transcript.tokens_seen, reason=reason)
        if isinstance(error, PaymentError):
            self._unpaid = error
            return False
        if error.code == BUSY:
            again = trio.current_time() + (retry_after_seconds(error) or BUSY_SECONDS)
            self._trade.busy_until[executor] = again
            self._line.is_busy_until(executor, again)
        elif error.code in USERS_FAULT and not self._transcript.tokens_seen:
            self._refusals.append((running, error))
            if len(self._refusals) >= REFUSALS_BELIEVED:
                raise GatewayError(error.code, readable(error.message, DETAIL_CHARACTERS_MAX)) from error
        elif isinstance(error, ExecutorFaultError):
            self._report(running, error)
            if error.fault is not Fault.DIFFERS and not error.fault.is_dishonest:
                self._line.was_unlucky(executor)
            if error.fault is Fault.DIFFERS and not self._is_different and _may_go_on_anywhere(self._request):
                self._is_different = True
                self._line.allow_again(executor)  # it may be right; it can go on without repeating
        elif error.code not in UNFAULTED:
            fault = FAULT_OF.get(error.code, Fault.FAILED)
            self._report(running, ExecutorFaultError(fault, str(error)))
            self._line.was_unlucky(executor)
        if self._is_complete():
            await self._end("length")  # what is missing is only a receipt that could be paid
            return True
        return False

    def _is_complete(self) -> bool:
        seen = self._transcript.tokens_seen
        read = self._summary.prompt_tokens
        return bool(self._transcript.finish_reason) or (
            seen > 0 and (seen >= self._request.max_tokens or (read > 0 and read + seen >= self._model.context_length))
        )

    async def _end(self, finish_reason: str) -> None:
        """Give what was still held back."""
        if not self._transcript.finish_reason:
            part = self._transcript.end(finish_reason)
            if part is not None and (part.text or part.token_ids):
                await self._give(part)
        self._summary.output_tokens = len(self._transcript.token_ids)
        self._summary.finish_reason = self._transcript.finish_reason

    async def _next_choice(self) -> ExecutorChoice:
        """Return whom to ask next. Raises GatewayError if there is nobody."""
        while (choice := self._line.renew()) is None:
            has_begun = self._transcript.tokens_seen > 0
            if not await self._line.wait(has_begun=has_begun, is_refused=bool(self._refusals)):
                raise self._nobody_left()
        return choice

    def _nobody_left(self) -> GatewayError:
        if self._refusals:
            _, refusal = self._refusals[0]
            return GatewayError(refusal.code, readable(refusal.message, DETAIL_CHARACTERS_MAX))
        if self._line.room_at is not None:
            self._trade.counts.refused_busy += 1
            wait = max(0.0, self._line.room_at - trio.current_time())
            return GatewayError(
                "overloaded", "everybody who serves the model is busy; try again later", retry_after=wait
            )
        if self._unpaid is not None:
            return GatewayError("payment", str(self._unpaid))
        if not self._failures:
            return GatewayError("no-executor", f"nobody who serves {self._model.model_id} is present; try again later")
        reasons = "; ".join(f"{executor}: {reason}" for executor, reason in self._failures.items())
        return GatewayError("failed", f"no executor gave a complete answer: {reasons}")

    def _hedge_after(self) -> float:
        """Seconds until a second executor is asked as well."""
        if self._giver is not None or len(self._running) != 1 or self._line.untried() is None:
            return float("inf")
        return hedge_seconds(self._trade.speeds.slow_first_seconds(self._model.model_id))

    def _hedge(self, nursery: trio.Nursery) -> None:
        choice = self._line.untried()
        if self._giver is not None or choice is None or not self._trade.hedges.take():
            return
        self._trade.counts.hedges += 1
        self._log.info("the first token is late; a second executor is asked", executor=choice.participant)
        self._start(nursery, choice)

    def _prepare_another(self, nursery: trio.Nursery) -> None:
        """Have the channel of whoever is next funded meanwhile, and a connection: a change is not to wait for them."""
        choice = self._line.untried()
        record = None if choice is None else self._trade.record_of(choice.participant)
        if choice is not None and record is not None and not record.free:
            self._trade.desk.payer.prepare(choice.participant)
        if choice is not None and not self._trade.nearness.is_connected(choice.peer_id):
            nursery.start_soon(self._trade.nearness.warm, choice.peer_id)


def _begins_anew(request: InferenceRequest) -> bool:
    """Whether an answer is made once more from its beginning rather than gone on with: no rule ties the tokens after a
    change to those before it, or an engine would count or parse from the change on.
    """
    return bool(request.response_format) or not request.sampling.is_verifiable


def _may_go_on_anywhere(request: InferenceRequest) -> bool:
    """Whether going on at the exact end, without comparing, still gives an answer as it was asked for: not where a
    grammar or a count of earlier tokens would begin anew.
    """
    counts = request.sampling.frequency_penalty_milli or request.sampling.presence_penalty_milli
    return not request.response_format and not counts
