"""A daemon made of canned answers, for tests of the control socket and of the command line."""

from collections.abc import Awaitable, Callable

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.methods import AskParams, ConnectParams
from node.control.views import (
    AskEvent,
    AskView,
    ConnectView,
    DoctorView,
    DutyView,
    EarningsView,
    EngineView,
    EpochView,
    ModelsView,
    ModelView,
    PeersView,
    PeerView,
    RedeemView,
    ServiceView,
    StatusView,
    StopView,
)
from node.doctor.findings import ok

ACCOUNT = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


class CannedOperations:
    """Answers without a daemon; `ask` gives one event per word of the question, its model is `tiny`."""

    def __init__(self) -> None:
        self.asks_cancelled = 0
        self.hold_answers = trio.Event()
        self.hold_answers.set()
        self.broken_epoch = False

    async def status(self) -> StatusView:
        return StatusView(
            version="0",
            uptime_seconds=3700,
            roles=["gateway"],
            account=ACCOUNT,
            peer_id="12D3KooWself",
            addresses=["/ip4/127.0.0.1/tcp/1/p2p/12D3KooWself"],
            network_id="n",
            chain_id=1,
            head_block=2,
            confirmed_block=1,
            epoch=0,
            stage="serve",
            registered=True,
            peers=1,
            api_url=None,
            content_address=None,
            engines=[EngineView(node_id="gpu0", model_id="tiny", ready=True, state="serving")],
            services=[ServiceView(name="mining", state="running", restarts=2, last_error="ValueError: [odd] text")],
        )

    async def peers(self) -> PeersView:
        await self.hold_answers.wait()
        peer = PeerView(
            peer_id="12D3KooWother", address="/ip4/1.2.3.4/tcp/1", latency_ms=5, account=None, models=[], load=None
        )
        return PeersView(peers=[peer])

    async def models(self) -> ModelsView:
        model = ModelView(
            model_id="tiny",
            name="Tiny",
            cid="bafy",
            version=1,
            active=True,
            in_epoch=True,
            price_per_token="1000",
            held=True,
            served_by=["gpu0"],
            executors=3,
            calibrated=["vllm on nvidia h200"],
        )
        return ModelsView(models=[model])

    async def epoch(self) -> EpochView:
        if self.broken_epoch:
            raise ZeroDivisionError("a fault with a secret: hunter2")
        return EpochView(
            epoch=1,
            stage="generate",
            block=50,
            stage_first_block=45,
            next_stage="exchange",
            next_stage_block=60,
            blocks_left=10,
            next_duty="commit the batch of gpu0",
            members=3,
            own_weight=5,
            total_weight=15,
            last_result_epoch=0,
            duties=[
                DutyView(
                    kind="mine",
                    node_id="gpu0",
                    model_id="tiny",
                    state="now",
                    first_block=45,
                    end_block=64,
                    blocks_left=14,
                )
            ],
            epoch_first_block=40,
            epoch_end_block=100,
            change_epoch=7,
        )

    async def earnings(self) -> EarningsView:
        return EarningsView(
            account=ACCOUNT,
            answers=1,
            output_tokens=2,
            receipts_price="3",
            vouchers_received="5",
            vouchers_redeemed="3",
            vouchers_open="5",
            vouchers_at_risk="2",
            redeem_plan=[RedeemView(payer=ACCOUNT, amount="5", is_safe=False, plan="it waits for the epoch's end")],
            vouchers_issued="0",
            rewards_cumulative="7",
            rewards_claimed="7",
            token_balance="10",
            gas_balance="11",
            gas_spent=12,
        )

    async def doctor(self) -> DoctorView:
        return DoctorView(findings=[ok("peers", "1 peer")])

    async def connect(self, params: ConnectParams) -> ConnectView:
        return ConnectView(peer_id=params.address)

    async def stop(self) -> StopView:
        return StopView(stopping=True)

    async def ask(self, params: AskParams, emit: Callable[[AskEvent], Awaitable[None]]) -> AskView:
        if params.model not in (None, "tiny"):
            raise RpcError(ErrorCode.REFUSED, f"no model {params.model}", "See `quern models`.")
        words = params.messages[-1].content.split()
        try:
            for word in words:
                await emit(AskEvent(text=word + " "))
                await trio.lowlevel.checkpoint()
        except BaseException:
            self.asks_cancelled += 1
            raise
        return AskView(
            text=" ".join(words),
            model_id="tiny",
            request_id="00",
            executor=ACCOUNT,
            prompt_tokens=1,
            output_tokens=len(words),
            price=str(5 * 10**17),
            finish_reason="stop",
            seconds=0.1,
            transaction=None,
        )
