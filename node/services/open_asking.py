"""Asks by open prompt: draws, funds, posts, waits for the one answer that wins, checks it, pays it, once.

What is decided is told to the caller before anything is signed, so that it can be written down: after a crash the same
answer is paid, never another one, and never twice.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from node.ports import (
    CallFailedError,
    Chain,
    Content,
    ContentUnavailableError,
    Network,
    Sealing,
    SealingError,
    Store,
    WallClock,
)
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Address, Cid, ModelId, PeerId, RequestId, TokenAmount
from node.protocol.open_prompts import (
    ARRIVAL_SECONDS_MAX,
    Answered,
    OpenPrompt,
    Posted,
    decided_from,
    default_turn_seconds,
    draw_order,
    turn_of,
)
from node.protocol.pricing import next_receipts_root, price, receipt_digest
from node.protocol.receipts import countersigned
from node.protocol.records import EpochGroup, SignedReceipt
from node.services.checks import TEMPLATE_TOKENS_MAX
from node.services.epochs import EpochBook
from node.services.faults import Evidence, Fault, FaultBook
from node.services.frames import Payment, SignedVoucherFrame, prompt_commitment_of, request_digest
from node.services.node_naming import is_its_node
from node.services.open_board import WAITING_PER_PAYER_MAX, Entry, OpenBoard
from node.services.open_frames import SETTLE_METHOD, SettleOpen
from node.services.open_receipts import open_receipt, open_request
from node.services.payments import PayerBook
from node.services.presence import PresenceTable
from node.services.prompt_content import (
    ANSWER_BYTES_MAX,
    AnswerContent,
    PromptContent,
    PromptContentError,
    prompt_bytes,
    read_answer,
    read_sealed,
    sealed_bytes,
)
from node.services.vouchers import PaymentError

log = structlog.get_logger(__name__)

AT_ONCE_MAX = WAITING_PER_PAYER_MAX - 2
"""Prompts out at once; more wait here. Fewer than others pass on, for whom an answer may arrive a little later."""
DRAWN_DEFAULT = 3
"""Executors that get a turn, and whose channel is funded for it: one that fails costs the user a turn's time."""
POST_SECONDS_MAX = 3.0
"""How long this node's own gossip may take to judge the prompt."""
FETCH_SECONDS_MAX = 10.0
"""How long the content of an answer is looked for: its executor said that it is there."""
SETTLE_SECONDS_MAX = 30.0
SETTLE_TRIES = 5
SETTLE_PAUSE_SECONDS = 3.0


class OpenAskError(Exception):
    """An open prompt came to nothing, and nothing was paid. `code` as of GatewayError."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Decision:
    """The one answer that is paid."""

    executor: Address
    peer_id: PeerId
    result_cid: Cid
    receipt: SignedReceipt
    """Signed by the executor alone so far."""
    paid_before: TokenAmount
    """Total of the channel's vouchers before: as long as it is that, this answer was not paid."""


@dataclass(frozen=True, slots=True)
class OpenResult:
    """An answer that is paid."""

    decision: Decision
    content: AnswerContent
    settled: bool
    """Whether the executor has the payment. If not, it is in the books and goes with the next."""


@dataclass(slots=True)
class OpenAskingParts:
    """What asking needs of the node."""

    chain: Chain
    network: Network
    content: Content
    store: Store
    epochs: EpochBook
    presence: PresenceTable
    board: OpenBoard
    payer: PayerBook
    faults: FaultBook
    """The gateway's."""
    sealing: Sealing
    wall_clock: WallClock
    random_bytes: Callable[[int], bytes] = secrets.token_bytes


class OpenAsking:
    """The payer's side of open prompts."""

    def __init__(self, parts: OpenAskingParts) -> None:
        self._parts = parts
        self._places = trio.CapacityLimiter(AT_ONCE_MAX)

    async def ask(
        self,
        content: PromptContent,
        *,
        max_tokens: int,
        private: bool,
        posted: Callable[[Cid], None],
        decided: Callable[[Decision], None],
    ) -> OpenResult:
        """Ask, and pay at most `max_tokens` tokens, prompt included. Raises OpenAskError.

        `posted` is told when the prompt is out, `decided` before the answer is paid: what it does must be durable.
        """
        async with self._places:
            return await self._ask(content, max_tokens, private, posted, decided)

    async def _ask(
        self,
        content: PromptContent,
        max_tokens: int,
        private: bool,
        posted: Callable[[Cid], None],
        decided: Callable[[Decision], None],
    ) -> OpenResult:
        parts = self._parts
        group = parts.epochs.group()
        model = group.get_epoch_model(content.model_id)
        if model is None:
            raise OpenAskError("model-not-found", f"there is no model {content.model_id} in this epoch")
        request_id = RequestId(parts.random_bytes(32))
        limit = TokenAmount(price(max_tokens, 0, model, parts.chain.parameters.unit_price))
        funded = await self._fund(self._candidates(request_id, group, content.model_id), limit)
        try:
            peers = {member.participant: member.peer_id for member in group.members}
            cid = await self._add(content, [peers[executor] for executor in funded] if private else [])
            prompt = OpenPrompt(
                request_id=request_id,
                epoch=group.epoch,
                model_id=content.model_id,
                prompt_cid=cid,
                max_tokens=max_tokens,
                price_limit=limit,
                drawn=funded,
                turn_seconds=default_turn_seconds(max_tokens),
                reply_key=parts.sealing.public_key if private else b"",
            )
            await parts.network.publish(prompt, urgent=True)
            entry = await self._until_posted(request_id)
            posted(cid)
            answered, answer = await self._until_decided(entry, content)
            return await self._pay(answered, answer, peers[answered.executor], decided)
        finally:
            for executor in funded:
                parts.payer.release(executor, limit)

    async def settle(self, decision: Decision) -> bool:
        """Pay what was decided before a crash, unless it was; return whether the executor has the payment.

        Raises PaymentError if the channel cannot be made to hold it.
        """
        executor, payer = decision.executor, self._parts.payer
        if payer.issued(executor) != decision.paid_before:
            return await self._deliver(decision, self._payment(decision))
        cost = decision.receipt.receipt.price
        await payer.reserve(executor, cost)
        try:
            return await self._deliver(decision, self._payment(decision))
        finally:
            payer.release(executor, cost)

    async def read(self, result_cid: Cid, model_id: ModelId, *, sealed: bool) -> AnswerContent:
        """Return an answer. Raises ContentUnavailableError, PromptContentError, SealingError."""
        parts = self._parts
        data = await parts.content.read_bytes(result_cid, parts.presence.providers(), limit_bytes=ANSWER_BYTES_MAX)
        if sealed:
            data = parts.sealing.open(read_sealed(data), model_id)
        return read_answer(data)

    async def _until_posted(self, request_id: RequestId) -> Entry:
        with trio.move_on_after(POST_SECONDS_MAX):
            return await self._parts.board.until_posted(request_id)
        raise OpenAskError(
            "failed",
            "this node would not pass on its own prompt: it is not registered, an epoch began just now, or too many of "
            "its prompts are open; ask again",
        )

    def _candidates(self, request_id: RequestId, group: EpochGroup, model_id: ModelId) -> list[Address]:
        """Those drawn first of all that are present with the model ready; who failed lately only if all have."""
        present = self._parts.presence.present()
        able = [
            executor
            for executor in draw_order(request_id, group, model_id)
            if executor in present
            and model_id in present[executor].models
            and not present[executor].free  # it takes no vouchers, and open prompts are paid for
            and executor != self._parts.chain.account
        ]
        if not able:
            raise OpenAskError("no-executor", f"nobody who serves {model_id} is present; try again later")
        good = [executor for executor in able if not self._parts.faults.is_faulty(executor)]
        return (good or able)[:DRAWN_DEFAULT]

    async def _fund(self, candidates: list[Address], limit: TokenAmount) -> tuple[Address, ...]:
        """Reserve the price in the channel to each; return those for whom that went well, in order."""
        payer = self._parts.payer
        reserved: set[Address] = set()
        failures: list[str] = []

        async def reserve(executor: Address) -> None:
            try:
                await payer.reserve(executor, limit)
                reserved.add(executor)
            except PaymentError as error:
                failures.append(str(error))

        try:
            async with trio.open_nursery() as nursery:
                for executor in candidates:
                    nursery.start_soon(reserve, executor)
        except BaseException:  # who asked went away meanwhile
            for executor in reserved:
                payer.release(executor, limit)
            raise
        if not reserved:
            raise OpenAskError("payment", "; ".join(failures))
        return tuple(executor for executor in candidates if executor in reserved)

    async def _add(self, content: PromptContent, readers: list[PeerId]) -> Cid:
        """Store the prompt as content, sealed if there are `readers`."""
        try:
            data = prompt_bytes(content)
            if readers:
                data = sealed_bytes(self._parts.sealing.seal_for_peers(data, content.model_id, readers))
        except (PromptContentError, SealingError) as error:
            raise OpenAskError("bad-request", str(error)) from error
        return await self._parts.content.add_bytes(data)

    async def _until_decided(self, entry: Entry, content: PromptContent) -> tuple[Answered, AnswerContent]:
        """Wait for the answer that wins among those whose content is what its receipt says."""
        parts, posted = self._parts, entry.posted
        while (now := parts.wall_clock()) <= posted.deadline + ARRIVAL_SECONDS_MAX:
            found = parts.board.winner(entry)
            turn = None if found is None else turn_of(posted, found.executor)
            if found is not None and turn is not None and now >= decided_from(turn):
                answer = await self._checked(entry, content, found)
                if answer is not None:
                    return found, answer
                entry.unusable.add(found.executor)
                continue
            until = posted.deadline + ARRIVAL_SECONDS_MAX + 1 if turn is None else decided_from(turn)
            with trio.move_on_after(until - now):
                await entry.changed.wait()
        raise OpenAskError("failed", "nobody gave a good answer in time; nothing was paid")

    async def _checked(self, entry: Entry, content: PromptContent, answered: Answered) -> AnswerContent | None:
        """Return the content of an answer if it is to be had and is what the receipt says; else None."""
        posted = entry.posted
        try:
            with trio.fail_after(FETCH_SECONDS_MAX):
                answer = await self.read(
                    answered.answer.result_cid, posted.prompt.model_id, sealed=posted.prompt.is_sealed
                )
        except (ContentUnavailableError, SealingError, ValueError, trio.TooSlowError) as error:
            is_there = not isinstance(error, ContentUnavailableError | trio.TooSlowError)
            fault = Fault.GARBAGE if is_there else Fault.LOST
            self._blame(posted, content, answered, fault, f"the answer is of no use: {type(error).__name__}")
            return None
        stated = answered.answer.receipt.receipt
        seen = open_receipt(
            posted,
            content,
            answer,
            entry.model,
            self._parts.chain.parameters.unit_price,
            executor=answered.executor,
            node_id=stated.node_id,
            at=stated.at,
            by_rule=stated.is_verifiable,
        )
        if stated != seen or not _is_plausible(content, answer):
            self._blame(posted, content, answered, Fault.RECEIPT, "the answer is not what its receipt says")
            return None
        if not await is_its_node(self._parts.chain, self._parts.epochs, stated):
            self._blame(posted, content, answered, Fault.RECEIPT, "the receipt names a node that it does not have")
            return None
        return answer

    def _blame(self, posted: Posted, content: PromptContent, answered: Answered, fault: Fault, detail: str) -> None:
        """Keep evidence of an answer that is not paid; its executor is asked after the others for a while."""
        request, receipt = open_request(posted, content, answered.executor), answered.answer.receipt
        log.warning("an answer to an open prompt is not paid", executor=answered.executor, reason=detail)
        self._parts.faults.add(
            Evidence(
                at=self._parts.wall_clock(),
                participant=answered.executor,
                request_id=request.request_id,
                model_id=request.model_id,
                code=fault.value,
                detail=detail,
                request_digest=request_digest(request),
                prompt_commitment=prompt_commitment_of(request),
                output_tokens=receipt.receipt.output_tokens,
                output_commitment=receipt.receipt.output_commitment,
                frame=to_bytes(answered.answer),
                receipt=receipt,
            )
        )

    async def _pay(
        self, answered: Answered, answer: AnswerContent, peer_id: PeerId, decided: Callable[[Decision], None]
    ) -> OpenResult:
        receipt = answered.answer.receipt
        before = TokenAmount(self._parts.payer.issued(answered.executor))
        decision = Decision(answered.executor, peer_id, answered.answer.result_cid, receipt, before)
        decided(decision)
        payment = self._payment(decision)  # nothing is awaited between: no other payment comes in between
        return OpenResult(decision, answer, await self._deliver(decision, payment))

    def _payment(self, decision: Decision) -> Payment:
        """Sign a voucher for the answer, or take the newest if one was signed since it was decided."""
        parts, receipt = self._parts, decision.receipt.receipt
        signature = parts.chain.sign(receipt_digest(receipt))
        if parts.payer.issued(decision.executor) == decision.paid_before:
            root = next_receipts_root(parts.payer.receipts_root(decision.executor), receipt)
            frame = parts.payer.pay(decision.executor, receipt.price, root)
            parts.store.save_receipt(countersigned(decision.receipt, signature))
        else:
            known = parts.store.issued_voucher(parts.payer.channel_of(decision.executor))
            if known is None:
                raise AssertionError("what was issued is in the store")
            frame = SignedVoucherFrame(known.voucher, known.signature)
        return Payment(frame, receipt.price, signature)

    async def _deliver(self, decision: Decision, payment: Payment) -> bool:
        payload = to_bytes(SettleOpen(decision.receipt.receipt.request_id, payment))
        for attempt in range(1, SETTLE_TRIES + 1):
            try:
                async with self._parts.network.call(
                    decision.peer_id, SETTLE_METHOD, payload, deadline_seconds=SETTLE_SECONDS_MAX
                ) as call:
                    await call.receive()
            except trio.EndOfChannel:
                return True
            except CallFailedError as error:
                log.warning(
                    "the payment of an open prompt's answer was not taken",
                    executor=decision.executor,
                    attempt=attempt,
                    reason=str(error),
                )
            await trio.sleep(SETTLE_PAUSE_SECONDS)
        return False


def _is_plausible(content: PromptContent, answer: AnswerContent) -> bool:
    """Whether the tokens that are charged for can be those of the prompt: a token is at least one byte of it."""
    prompt = content.prompt
    most = prompt.text_bytes + TEMPLATE_TOKENS_MAX * (len(prompt.turns) + 1)
    if prompt.token_ids and answer.prompt_ids != prompt.token_ids:
        return False
    if content.max_output_tokens and len(answer.token_ids) > content.max_output_tokens:
        return False
    return bool(prompt.token_ids) or len(answer.prompt_ids) <= most
