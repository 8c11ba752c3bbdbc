"""Has one executor give its part of an answer: on its terms, with its price reserved, and remembers how it did."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import trio

from node.ports import CallFailedError
from node.protocol.asking import REQUEST_BYTES_MAX
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Address, PeerId, TokenAmount
from node.protocol.pricing import price
from node.protocol.records import ModelRecord
from node.protocol.seeds import SeedShareError
from node.services.answers import AnswerPart, AnswerSummary
from node.services.attempt import Attempt
from node.services.candidate_line import CandidateLine
from node.services.checks import prompt_tokens_max
from node.services.errors import GatewayError
from node.services.fault_reports import report_refuted_shares
from node.services.frames import METHOD, InferenceRequest, SignedRequest, request_digest
from node.services.groups import sole_error
from node.services.outlet import Outlet
from node.services.patience import Patience, patience
from node.services.seeding import with_seed_source
from node.services.terms import unit_price_of
from node.services.trade import Trade
from node.services.transcript import Continuation, Transcript
from node.services.unreceived import Unreceived
from node.services.vouchers import PaymentError

CALL_SECONDS_MAX = 3600.0


@dataclass(slots=True, eq=False)
class Running:
    """An executor that was asked and has not ended."""

    executor: Address
    request: InferenceRequest
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    attempt: Attempt | None = None


class ExecutorParts:
    """The parts of one answer. `line` tells who else could be asked, `give` hands a piece to the user."""

    def __init__(
        self,
        trade: Trade,
        model: ModelRecord,
        summary: AnswerSummary,
        transcript: Transcript,
        line: CandidateLine,
        outlet: Outlet,
        give: Callable[[AnswerPart], Awaitable[None]],
    ) -> None:
        self._trade = trade
        self._model = model
        self._summary = summary
        self._transcript = transcript
        self._line = line
        self._outlet = outlet
        self._give = give

    async def run(
        self,
        running: Running,
        peer_id: PeerId,
        continuation: Continuation,
        *,
        claim: Callable[[], bool],
        meanwhile: Callable[[], None],
    ) -> CallFailedError | PaymentError | None:
        """Have the executor go on with the answer; return why it did not end it well, None if it did.

        `claim` is as of Attempt; `meanwhile` is called once its money is reserved. Whoever cancels the scope of
        `running` asks for no reason. Raises GatewayError if nobody can be asked so.
        """
        error: CallFailedError | PaymentError | None = None
        self._trade.in_flight[running.executor] += 1
        try:
            # Who fails in the moment it is cancelled raises a group of both, of which the scope leaves a group of one.
            with sole_error(), running.scope:
                await self._ask(running, peer_id, continuation, claim, meanwhile)
        except (CallFailedError, PaymentError) as caught:
            error = caught
        finally:
            self._trade.in_flight[running.executor] -= 1
            if not self._trade.in_flight[running.executor]:
                del self._trade.in_flight[running.executor]
            self._measure(running)
        return error

    async def _ask(
        self,
        running: Running,
        peer_id: PeerId,
        continuation: Continuation,
        claim: Callable[[], bool],
        meanwhile: Callable[[], None],
    ) -> None:
        trade = self._trade
        request = running.request = self._on_its_terms(running.request)
        most, is_asked = self._most(request), False
        if not request.free:
            await trade.desk.payer.reserve(running.executor, most)
        try:
            meanwhile()
            payload = to_bytes(SignedRequest(request, trade.desk.chain.sign(request_digest(request))))
            if len(payload) > REQUEST_BYTES_MAX:
                raise GatewayError("too-long", f"the conversation has more than {REQUEST_BYTES_MAX} bytes")
            trade.announce(request)
            is_asked = True
            async with trade.network.call(peer_id, METHOD, payload, deadline_seconds=CALL_SECONDS_MAX) as call:
                running.attempt = Attempt(
                    trade.desk,
                    call,
                    request,
                    self._model,
                    self._summary,
                    self._transcript,
                    continuation,
                    self._patience_with(running.executor),
                    claim=claim,
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
            report_refuted_shares(self._trade, record.seed_revealed)
        request = replace(request, free=record is not None and record.free)
        begun = seed.share if seed is not None else None
        try:
            return with_seed_source(request, begun, record.seed_commitment if record is not None else b"")
        except SeedShareError as error:
            raise CallFailedError("no-seed", str(error)) from error
