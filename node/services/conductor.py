"""One answer from several executors: who is asked when, who is left, and how the stream goes on unbroken.

One executor at a time gives the answer. A second is asked beside it only before the first token, if that is long in
coming (a *hedge*); whoever gives a token first goes on, the other is cancelled at once. When the one that gives fails,
the next goes on after what came. All of this ends with the answer, or when nobody is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
import trio

from node.ports import CallFailedError
from node.protocol.asking import REQUEST_BYTES_MAX
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Address, TokenAmount
from node.protocol.pricing import price, tokens_commitment
from node.protocol.records import ModelRecord
from node.protocol.routing import ExecutorChoice
from node.protocol.seeds import SeedShareError
from node.services.answers import AnswerPart, AnswerSummary
from node.services.attempt import Attempt
from node.services.candidate_line import EXECUTORS_TRIED_MAX, CandidateLine
from node.services.checks import prompt_tokens_max
from node.services.errors import GatewayError
from node.services.faults import (
    DETAIL_CHARACTERS_MAX,
    FRAME_BYTES_KEPT_MAX,
    Evidence,
    ExecutorFaultError,
    Fault,
)
from node.services.frames import (
    METHOD,
    InferenceRequest,
    SignedRequest,
    prompt_commitment_of,
    request_digest,
)
from node.services.groups import sole_error
from node.services.outlet import Outlet
from node.services.patience import Patience, hedge_seconds, patience
from node.services.refusals import retry_after_seconds
from node.services.seeding import with_seed_source
from node.services.terms import unit_price_of
from node.services.timing import position
from node.services.trade import Trade
from node.services.transcript import Continuation, Transcript
from node.services.unreceived import Unreceived
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

CALL_SECONDS_MAX = 3600.0
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


@dataclass(slots=True, eq=False)
class Running:
    """An executor that was asked and has not ended."""

    executor: Address
    request: InferenceRequest
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    attempt: Attempt | None = None


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
        error: CallFailedError | PaymentError | None = None
        self._trade.in_flight[running.executor] += 1
        try:
            # Who fails in the moment it is cancelled raises a group of both, of which the scope leaves a group of one.
            with sole_error(), running.scope:
                await self._ask(nursery, choice, running, continuation)
        except (CallFailedError, PaymentError) as caught:
            error = caught
        finally:
            self._trade.in_flight[running.executor] -= 1
            if not self._trade.in_flight[running.executor]:
                del self._trade.in_flight[running.executor]
            self._measure(running)
        if not running.scope.cancelled_caught:
            self._ended.send_nowait(Ended(running, error))

    async def _ask(
        self, nursery: trio.Nursery, choice: ExecutorChoice, running: Running, continuation: Continuation
    ) -> None:
        """Have one executor give the rest of the answer."""
        trade = self._trade
        request = running.request = self._on_its_terms(running.request)
        most, is_asked = self._most(request), False
        if not request.free:
            await trade.desk.payer.reserve(running.executor, most)
        try:
            self._prepare_another(nursery)
            payload = to_bytes(SignedRequest(request, trade.desk.chain.sign(request_digest(request))))
            if len(payload) > REQUEST_BYTES_MAX:
                raise GatewayError("too-long", f"the conversation has more than {REQUEST_BYTES_MAX} bytes")
            trade.announce(request)
            is_asked = True
            async with trade.network.call(choice.peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
                running.attempt = Attempt(
                    trade.desk,
                    call,
                    request,
                    self._model,
                    self._summary,
                    self._transcript,
                    continuation,
                    self._patience_with(running.executor),
                    claim=lambda: self._claim(running),
                    outlet=self._outlet,
                    give=self._give,
                )
                await running.attempt.run()
        finally:
            if is_asked:
                self._note_unreceived(running)
            if not request.free:
                trade.desk.payer.release(running.executor, most)

    def _note_unreceived(self, running: Running) -> None:
        """Write down that an executor has a signed request for which this node has no receipt."""
        request, attempt = running.request, running.attempt
        if request.private or (attempt is not None and attempt.has_receipt):
            return  # of a private answer no token is drawn, whatever is booked
        if not self._trade.unreceived.has_room(request.epoch, running.executor):
            return
        asked = Unreceived(
            running.executor,
            request_digest(request),
            request.request_id,
            request.model_id,
            tokens_max=request.max_tokens if attempt is None else attempt.tokens_given_at_most,
            ended_at=self._trade.wall_clock(),
        )
        self._trade.unreceived.add(request.epoch, asked)

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

    def _patience_with(self, executor: Address) -> Patience:
        speeds, model_id, now = self._trade.speeds, self._model.model_id, trio.current_time()
        return patience(
            speeds.slow_first_seconds(model_id, without=executor),
            speeds.pace(model_id, now),
            alone=self._line.untried() is None,
        )

    def _measure(self, running: Running) -> None:
        """Remember how fast it was, though it was not fast enough."""
        attempt, now = running.attempt, trio.current_time()
        if attempt is None:
            return
        speeds, model_id = self._trade.speeds, self._model.model_id
        if attempt.first_seconds is not None:
            speeds.add_first(running.executor, model_id, attempt.first_seconds, now)
        elif running.scope.cancelled_caught:
            speeds.add_first(running.executor, model_id, now - attempt.began, now)
        if attempt.token_seconds is not None:
            speeds.add_pace(running.executor, model_id, attempt.token_seconds, now)

    def _most(self, request: InferenceRequest) -> TokenAmount:
        """What an executor can cost at most."""
        tokens = min(self._model.context_length, prompt_tokens_max(request) + request.max_tokens)
        unit_price = unit_price_of(self._trade.desk.chain.parameters.unit_price, is_free=request.free)
        return price(tokens, 0, self._model, unit_price)

    def _on_its_terms(self, request: InferenceRequest) -> InferenceRequest:
        """Say whether it serves for nothing, and where the seed comes from: from who began the answer, or from it."""
        record, seed = self._trade.record_of(request.executor), self._summary.seed
        if record is not None:
            self._check_shares(record.seed_revealed)
        request = replace(request, free=record is not None and record.free)
        begun = seed.share if seed is not None else None
        try:
            return with_seed_source(request, begun, record.seed_commitment if record is not None else b"")
        except SeedShareError as error:
            raise CallFailedError("no-seed", str(error)) from error

    def _check_shares(self, secret: bytes) -> None:
        """Hold earlier halves of seeds against a secret that has been published since."""
        for given, refuted in self._trade.shares.refuted_by(secret):
            self._trade.faults.add(
                Evidence(
                    at=self._trade.wall_clock(),
                    participant=given.share.executor,
                    request_id=given.request_id,
                    model_id=given.model_id,
                    code=Fault.SEED.value,
                    detail="its half of a seed is not the one that its published secret gives",
                    request_digest=given.request_digest,
                    prompt_commitment=given.prompt_commitment,
                    output_tokens=0,
                    output_commitment=tokens_commitment(()),
                    frame=to_bytes(refuted),
                    receipt=None,
                )
            )

    def _report(self, running: Running, error: ExecutorFaultError) -> None:
        at = self._trade.wall_clock()
        if not self._trade.faults.is_news(running.executor, error.fault, at):
            return
        token_ids = running.attempt.token_ids if running.attempt is not None else []
        self._trade.faults.add(
            Evidence(
                at=at,
                participant=running.executor,
                request_id=running.request.request_id,
                model_id=running.request.model_id,
                code=error.fault.value,
                detail=readable(error.message, DETAIL_CHARACTERS_MAX),
                request_digest=request_digest(running.request),
                prompt_commitment=prompt_commitment_of(running.request),
                output_tokens=len(token_ids),
                output_commitment=tokens_commitment(token_ids),
                frame=b"" if running.request.private else error.frame[:FRAME_BYTES_KEPT_MAX],
                receipt=error.receipt,
            )
        )


def readable(text: str, characters_max: int) -> str:
    """Return what strangers wrote as it may stand in a line of a log or in an error: bounded, nothing unprintable."""
    return "".join(character for character in text[:characters_max] if character.isprintable())


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
