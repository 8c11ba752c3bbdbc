"""What the daemon shows and does on chain for its operator: the control socket's chain methods over the chain port."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from node.amounts import tokens_to_amount
from node.chain.endpoints import Endpoint
from node.chain.rpc import RpcError as ChainRpcError
from node.chain.rpc import RpcUnavailableError
from node.control.chain_methods import IntentsParams, Wish
from node.control.chain_views import (
    ChainDoneView,
    ChainParticipantsView,
    ChainParticipantView,
    ChainProgress,
    ChainStatusView,
    ChannelsView,
    ChannelView,
    CollateralView,
    IntentsView,
    IntentView,
    PromptsView,
    PromptView,
    StepView,
)
from node.control.jsonrpc import ErrorCode, RpcError
from node.operations.chain_wishes import Outlook, plan, prompt_state, standing
from node.ports import ActionOutcome, ActionStatus, Chain, SignedVoucher, WallClock
from node.protocol.chain_state import CollateralState, PromptState
from node.protocol.identifiers import Hash32
from node.services.timing import position
from node.settings.schema import Settings
from node.store.chain_tables import ChainTables, StoredIntent, StoredStep

INTENTS_SHOWN_MAX = 200
"""An answer over the control socket is at most a mebibyte."""
PROMPTS_SHOWN_MAX = 200
CHANNELS_SHOWN_MAX = 500
PARTICIPANTS_SHOWN_MAX = 1000
CONFIRM_SECONDS_MAX = 600.0
"""How long an operator is kept waiting. What is in the outbox then goes on by itself."""
LOOK_SECONDS = 0.5
"""Between two looks at how far an intent has come."""


class OperatorsChain(Chain, Protocol):
    """The chain port, with what only an operator asks."""

    @property
    def low_balance(self) -> bool:
        """Whether the account holds less of the gas coin than its reserve."""

    async def gas_balance(self) -> int:
        """Wei of the account."""

    def gas_spent(self) -> tuple[int, int]:
        """(transactions confirmed, gas they used)."""


class VoucherBooks(Protocol):
    """The newest vouchers, by which a channel's promises are told."""

    def issued_vouchers(self) -> tuple[SignedVoucher, ...]:
        """Of every channel this node pays from."""

    def received_vouchers(self) -> tuple[SignedVoucher, ...]:
        """Of every channel this node is paid from."""


class DaemonChainOperations:
    """Implements node.control.chain_methods.ChainOperations. `outbox` is the one that `chain` sends from."""

    def __init__(
        self, settings: Settings, chain: OperatorsChain, outbox: ChainTables, books: VoucherBooks, wall_clock: WallClock
    ) -> None:
        self._settings = settings
        self._chain = chain
        self._outbox = outbox
        self._books = books
        self._wall_clock = wall_clock

    async def status(self) -> ChainStatusView:
        """The chain at a glance."""
        chain, counts = self._chain, self._outbox.intent_counts()
        where = position(chain)
        gas_balance, token_balance = await self._balances()
        return ChainStatusView(
            chain_id=chain.chain_id,
            account=chain.account,
            endpoints=[Endpoint(url).name for url in self._settings.chain.rpc_urls],
            head_block=chain.head.number,
            confirmed_block=chain.head.confirmed,
            epoch=where.epoch,
            stage=where.stage.name,
            next_stage_block=where.next_block,
            gas_balance=None if gas_balance is None else str(gas_balance),
            token_balance=None if token_balance is None else str(token_balance),
            low_balance=chain.low_balance,
            gas_reserve=str(tokens_to_amount(self._settings.chain.gas_reserve_ether)),
            intents_pending=counts[ActionStatus.PENDING],
            intents_failed=counts[ActionStatus.FAILED],
            intents_done=counts[ActionStatus.DONE],
            gas_spent=chain.gas_spent()[1],
        )

    async def intents(self, params: IntentsParams) -> IntentsView:
        """The outbox."""
        found = self._outbox.intents(limit=INTENTS_SHOWN_MAX, pending_only=not params.all)
        return IntentsView(intents=[_intent_view(intent) for intent in found], pending_only=not params.all)

    async def participants(self) -> ChainParticipantsView:
        """All participants."""
        state, epoch = self._chain.state, position(self._chain).epoch
        weights = dict(state.group_weights(epoch))
        by_weight = sorted(state.participants.values(), key=lambda p: (-weights.get(p.participant, 0), p.participant))
        return ChainParticipantsView(
            participants=[
                ChainParticipantView(
                    account=participant.participant,
                    peer_id=participant.peer_id,
                    nodes=[f"{node.node_id} ({', '.join(node.models)})" for node in participant.ml_nodes],
                    weight=weights.get(participant.participant, 0),
                    deposited=str(state.collateral.get(participant.participant, CollateralState()).deposited),
                    standing=standing(state, participant.participant, epoch),
                )
                for participant in by_weight[:PARTICIPANTS_SHOWN_MAX]
            ],
            total_weight=sum(weights.values()),
        )

    async def collateral(self) -> CollateralView:
        """This account's collateral."""
        state, account = self._chain.state, self._chain.account
        held = state.collateral.get(account, CollateralState())
        return CollateralView(
            account=account,
            registered=account in state.participants,
            standing=standing(state, account, position(self._chain).epoch),
            deposited=str(held.deposited),
            unbonding=str(held.unbonding),
            available_at=held.available_at if held.unbonding else 0,
            barred_until=held.barred_until,
            min_collateral=str(state.min_collateral),
        )

    async def channels(self) -> ChannelsView:
        """This account's payment channels."""
        account = self._chain.account
        signed = (*self._books.issued_vouchers(), *self._books.received_vouchers())
        promised = {item.voucher.channel_id: item.voucher.cumulative for item in signed}
        own = [c for c in self._chain.state.channels.values() if account in (c.payer, c.payee)]
        own.sort(key=lambda c: (c.payer != account, c.payer, c.payee))
        return ChannelsView(
            channels=[
                ChannelView(
                    payer=channel.payer,
                    payee=channel.payee,
                    deposited=str(channel.deposited),
                    redeemed=str(channel.redeemed),
                    promised=str(promised.get(channel.channel_id, channel.redeemed)),
                    unlock_time=channel.unlock_time,
                )
                for channel in own[:CHANNELS_SHOWN_MAX]
            ]
        )

    async def prompts(self) -> PromptsView:
        """This account's prompts."""
        account = self._chain.account
        own = [
            prompt
            for _, prompt in sorted(self._chain.state.prompts.items(), reverse=True)
            if account in (prompt.submitted.user, _executor(prompt))
        ]
        return PromptsView(prompts=[_prompt_view(prompt) for prompt in own[:PROMPTS_SHOWN_MAX]])

    async def carry_out(self, wish: Wish, emit: Callable[[ChainProgress], Awaitable[None]]) -> ChainDoneView:
        """Do what is wished, and wait until it is confirmed."""
        try:
            balance = await self._chain.token_balance(self._chain.account)
        except (RpcUnavailableError, ChainRpcError) as error:
            raise RpcError(
                ErrorCode.UNAVAILABLE, f"the chain cannot be asked: {error}", "Nothing was sent. Is its endpoint up?"
            ) from error
        planned = plan(wish, self._outlook(balance))
        key = f"operator/{wish.kind}/{secrets.token_hex(8)}"
        await self._chain.submit(key, planned.action)
        outcome = await self._wait(key, emit)
        if outcome.status is ActionStatus.FAILED:
            raise RpcError(
                ErrorCode.REFUSED,
                f"the contract refused: {outcome.reason}",
                f"It used {outcome.gas_used} gas; no tokens moved." if outcome.gas_used else "It cost nothing.",
            )
        intent = self._outbox.intent(key)
        steps: Sequence[StoredStep] = () if intent is None else intent.steps
        return ChainDoneView(
            key=key,
            what=planned.what,
            transactions=[_hex(step.transaction_hash) for step in steps if step.transaction_hash is not None],
            gas_used=outcome.gas_used,
        )

    async def _wait(self, key: str, emit: Callable[[ChainProgress], Awaitable[None]]) -> ActionOutcome:
        told = ""
        with trio.move_on_after(CONFIRM_SECONDS_MAX):
            while True:
                intent = self._outbox.intent(key)
                if intent is not None and (now := progress_in_words(intent)) != told:
                    told = now
                    await emit(ChainProgress(message=told))
                with trio.move_on_after(LOOK_SECONDS):
                    return await self._chain.outcome(key)
        raise RpcError(
            ErrorCode.UNAVAILABLE,
            f"it is not confirmed after {CONFIRM_SECONDS_MAX:.0f} s: {told}",
            f"It stays in the outbox as {key} and will still be sent: do not repeat it. See `quern chain intents`.",
        )

    def _outlook(self, token_balance: int) -> Outlook:
        return Outlook(
            account=self._chain.account,
            state=self._chain.state,
            head_block=self._chain.head.number,
            now=self._wall_clock(),
            token_balance=token_balance,
            registers_itself=self._settings.participant.register_on_start,
        )

    async def _balances(self) -> tuple[int | None, int | None]:
        try:
            return await self._chain.gas_balance(), await self._chain.token_balance(self._chain.account)
        except (RpcUnavailableError, ChainRpcError):
            return None, None  # an outage must not hide the rest


def progress_in_words(intent: StoredIntent) -> str:
    """Return how far an intent has come."""
    if intent.outcome.status is not ActionStatus.PENDING:
        return "confirmed" if intent.outcome.status is ActionStatus.DONE else "failed"
    for number, step in enumerate(intent.steps, 1):
        place = f"transaction {number} of {len(intent.steps)}"
        match step.status:
            case "done":
                continue
            case "mined":
                return f"{place} is in a block; waiting until that is confirmed"
            case "sent":
                return f"{place} is sent; waiting for a block"
            case _:
                return f"{place} is in the outbox"
    return "waiting"


def _intent_view(intent: StoredIntent) -> IntentView:
    return IntentView(
        key=intent.key,
        status=intent.outcome.status.value,
        reason=intent.outcome.reason,
        gas_used=intent.outcome.gas_used,
        steps=[
            StepView(
                status=step.status,
                nonce=step.nonce,
                transaction=None if step.transaction_hash is None else _hex(step.transaction_hash),
            )
            for step in intent.steps
        ],
    )


def _prompt_view(prompt: PromptState) -> PromptView:
    answered = prompt.answered
    until = None
    if prompt.ended is None:
        until = prompt.submitted.deadline_block if prompt.is_open else prompt.settles_after
    return PromptView(
        prompt_id=prompt.submitted.prompt_id,
        user=prompt.submitted.user,
        executor=_executor(prompt),
        model_id=prompt.submitted.model_id,
        state=prompt_state(prompt),
        price=str(prompt.submitted.max_price if answered is None else answered.price),
        result_cid=None if answered is None else answered.result_cid,
        until_block=until,
    )


def _executor(prompt: PromptState) -> str:
    return prompt.submitted.executor if prompt.answered is None else prompt.answered.executor


def _hex(transaction_hash: Hash32) -> str:
    return "0x" + transaction_hash.hex()
