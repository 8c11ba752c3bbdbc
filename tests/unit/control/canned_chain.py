"""The chain's side of a daemon made of canned answers, for tests of the command line."""

from collections.abc import Awaitable, Callable

from node.control.chain_methods import IntentsParams, SponsorParams, Wish
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

ACCOUNT = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
CENT = str(10**16)


class CannedChainOperations:
    """Answers without a chain; wishes are remembered and done, but for sponsoring, which is refused."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []

    async def status(self) -> ChainStatusView:
        return ChainStatusView(
            chain_id=1,
            account=ACCOUNT,
            endpoints=["https://one.example", "https://two.example"],
            head_block=12,
            confirmed_block=10,
            epoch=3,
            stage="FORM",
            next_stage_block=40,
            gas_balance=CENT,
            token_balance=None,
            low_balance=True,
            gas_reserve=str(5 * 10**16),
            intents_pending=1,
            intents_failed=2,
            intents_done=3,
            gas_spent=77,
        )

    async def intents(self, params: IntentsParams) -> IntentsView:
        pending = IntentView(
            key="claim/3",
            status="pending",
            reason="",
            gas_used=0,
            steps=[StepView(status="sent", nonce=4, transaction="0xabc")],
        )
        failed = IntentView(
            key="commit/3",
            status="failed",
            reason="WrongStage: wanted epoch 3",
            gas_used=5,
            steps=[StepView(status="done", nonce=3, transaction="0xdef")],
        )
        return IntentsView(intents=[pending, failed] if params.all else [pending], pending_only=not params.all)

    async def participants(self) -> ChainParticipantsView:
        participant = ChainParticipantView(
            account=ACCOUNT,
            peer_id="12D3KooWself",
            nodes=["gpu0 (tiny)"],
            weight=1,
            deposited=CENT,
            standing="undercollateralised",
        )
        return ChainParticipantsView(participants=[participant], total_weight=3)

    async def collateral(self) -> CollateralView:
        return CollateralView(
            account=ACCOUNT,
            registered=True,
            standing="barred",
            deposited=CENT,
            unbonding="0",
            available_at=0,
            barred_until=42,
            min_collateral=CENT,
        )

    async def channels(self) -> ChannelsView:
        channel = ChannelView(
            payer=ACCOUNT, payee="0xpayee", deposited=CENT, redeemed="0", promised="1", unlock_time=1_800_000_000
        )
        return ChannelsView(channels=[channel])

    async def prompts(self) -> PromptsView:
        prompt = PromptView(
            prompt_id=7,
            user=ACCOUNT,
            executor="0xexecutor",
            model_id="tiny",
            state="answered",
            price=CENT,
            result_cid="bafkanswer",
            until_block=99,
        )
        return PromptsView(prompts=[prompt])

    async def carry_out(self, wish: Wish, emit: Callable[[ChainProgress], Awaitable[None]]) -> ChainDoneView:
        if isinstance(wish, SponsorParams):
            raise RpcError(ErrorCode.REFUSED, "this needs more than there is", "See `quern earnings`.")
        self.wishes.append(wish)
        await emit(ChainProgress(message="transaction 1 of 1 is sent"))
        return ChainDoneView(key="operator/x", what=f"did {wish.kind}", transactions=["0x12"], gas_used=44_000)
