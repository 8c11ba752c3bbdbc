"""What the daemon does for its operator: the control socket's methods over the running services."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from node.chain.adapter import EvmChain
from node.chain.rpc import RpcError as ChainRpcError
from node.chain.rpc import RpcUnavailableError
from node.control.gateway_views import content_view
from node.control.gossip_views import gossip_view
from node.control.jsonrpc import ErrorCode, RpcError
from node.control.methods import AskParams, ConnectParams
from node.control.views import (
    AskEvent,
    AskView,
    ConnectView,
    DoctorView,
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
from node.doctor.findings import Finding, fault, ok, warning
from node.doctor.network import judge_network
from node.engine.adapter import EngineNode
from node.models.content import ContentAdapter
from node.network.adapter import LibP2PNetwork
from node.operations.duties import epoch_view
from node.ports import CallFailedError, WallClock
from node.protocol.calibration import bands_in_words
from node.protocol.chain_state import ChainState
from node.protocol.empty_epochs import unpaid_epochs
from node.protocol.identifiers import Cid, ModelId
from node.protocol.pricing import price
from node.protocol.records import ModelRecord
from node.services.checks import reading_tokens_max
from node.services.epochs import EpochBook
from node.services.frames import Prompt, Turn
from node.services.gateway import ChatRequest, Gateway, GatewayError
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceTable
from node.services.prompt_asks import AskMode
from node.services.prompt_desk import DeskError, PromptDesk, PromptWish
from node.services.redeeming import Planned
from node.services.timing import position
from node.settings.schema import Settings
from node.store.books import Books
from node.supervisor import Supervisor
from node.version import package_version

REDEEM_PLAN_SHOWN_MAX = 256


@dataclass(frozen=True, slots=True)
class Parts:
    """The running parts that operations look at."""

    settings: Settings
    chain: EvmChain
    network: LibP2PNetwork
    content: ContentAdapter
    store: Books
    epochs: EpochBook
    presence: PresenceTable
    gateway: Gateway | None
    prompts: PromptDesk
    engines: Sequence[EngineNode]
    supervisor: Supervisor
    network_id: str
    api_url: str | None
    content_address: str
    running_requests: Callable[[], int]
    redeem_plan: Callable[[], tuple[Planned, ...]]
    started_at: int
    wall_clock: WallClock


class DaemonOperations:
    """Implements node.control.methods.Operations."""

    def __init__(self, parts: Parts, stop: Callable[[], None]) -> None:
        self._parts = parts
        self._stop = stop
        self._slots = PocSlots(parts.chain, parts.epochs)

    async def status(self) -> StatusView:
        """The daemon at a glance."""
        parts, chain = self._parts, self._parts.chain
        where = position(chain)
        participant = chain.state.participants.get(chain.account)
        return StatusView(
            version=package_version(),
            uptime_seconds=parts.wall_clock() - parts.started_at,
            roles=[role.value for role in parts.settings.node.roles],
            account=chain.account,
            peer_id=parts.network.peer_id,
            addresses=list(parts.network.addresses),
            network_id=parts.network_id,
            chain_id=chain.chain_id,
            head_block=chain.head.number,
            confirmed_block=chain.head.confirmed,
            epoch=where.epoch,
            stage=where.stage.name,
            registered=participant is not None and participant.peer_id == parts.network.peer_id,
            peers=len(parts.network.peers()),
            reachability=parts.network.discovery.status().reachability,
            running_requests=parts.running_requests(),
            api_url=parts.api_url,
            content_address=parts.content_address,
            engines=[
                EngineView(
                    node_id=engine.node_id,
                    model_id=settings.model_id,
                    ready=engine.model_id is not None,
                    state=engine.state.value,
                )
                for engine, settings in zip(parts.engines, parts.settings.engines, strict=True)
            ],
            services=[
                ServiceView(name=s.name, state=s.state.value, restarts=s.restarts, last_error=s.last_error)
                for s in parts.supervisor.statuses()
            ],
            gossip=gossip_view(parts.network.gossip_metrics()),
            content=content_view(parts.content),
        )

    async def peers(self) -> PeersView:
        """Connected peers."""
        present = {record.peer_id: (account, record) for account, record in self._parts.presence.present().items()}
        views = []
        for peer in self._parts.network.peers():
            account, record = present.get(peer.peer_id, (None, None))
            views.append(
                PeerView(
                    peer_id=peer.peer_id,
                    address=peer.address,
                    latency_ms=peer.latency_ms,
                    account=account,
                    models=list(record.models) if record else [],
                    load=record.load if record else None,
                )
            )
        return PeersView(peers=views)

    async def models(self) -> ModelsView:
        """Models of the registry."""
        chain = self._parts.chain
        group = self._parts.epochs.group()
        return ModelsView(
            models=[
                ModelView(
                    model_id=model.model_id,
                    name=model.name,
                    cid=model.cid,
                    version=model.version,
                    active=model.active,
                    in_epoch=group.get_epoch_model(model.model_id) is not None,
                    price_per_token=str(price(0, 1, model, chain.parameters.unit_price)),
                    held=await self._holds(model.cid),
                    served_by=[engine.node_id for engine in self._parts.engines if engine.model_id == model.model_id],
                    executors=sum(
                        any(node.model_id == model.model_id for node in member.ml_nodes) for member in group.members
                    ),
                    calibrated=bands_in_words(chain.state.calibrations.get(model.model_id)),
                )
                for model in sorted(chain.state.models.values(), key=lambda model: model.model_id)
            ]
        )

    async def epoch(self) -> EpochView:
        """Where the epoch stands."""
        return await epoch_view(self._parts.chain, self._parts.epochs, self._parts.store, self._slots)

    async def earnings(self) -> EarningsView:
        """The books."""
        chain, store = self._parts.chain, self._parts.store
        answers, output_tokens, receipts_price = store.receipt_totals()
        result = self._parts.epochs.newest_result()
        shares = {share.account: share.cumulative for share in result.rewards} if result else {}
        plan = self._parts.redeem_plan()
        redeemed = sum(c.redeemed for c in chain.state.channels.values() if c.payee == chain.account)
        try:
            token_balance, gas_balance = await chain.token_balance(chain.account), await chain.gas_balance()
        except (RpcUnavailableError, ChainRpcError) as error:
            raise RpcError(
                ErrorCode.UNAVAILABLE, f"the balances cannot be read: {error}", "Is the chain's endpoint up?"
            ) from error
        return EarningsView(
            account=chain.account,
            answers=answers,
            output_tokens=output_tokens,
            receipts_price=str(receipts_price),
            vouchers_received=str(sum(signed.voucher.cumulative for signed in store.received_vouchers())),
            vouchers_redeemed=str(redeemed),
            vouchers_open=str(sum(planned.outstanding for planned in plan)),
            vouchers_at_risk=str(sum(planned.outstanding for planned in plan if not planned.is_safe)),
            redeem_plan=[_redeem_view(planned) for planned in plan[:REDEEM_PLAN_SHOWN_MAX]],
            vouchers_issued=str(sum(signed.voucher.cumulative for signed in store.issued_vouchers())),
            rewards_cumulative=str(shares.get(chain.account, 0)),
            rewards_claimed=str(chain.state.claimed.get(chain.account, 0)),
            token_balance=str(token_balance),
            gas_balance=str(gas_balance),
            gas_spent=chain.gas_spent()[1],
        )

    async def ask(self, params: AskParams, emit: Callable[[AskEvent], Awaitable[None]]) -> AskView:
        """Ask the network, over the gateway or on chain."""
        model = self._choose_model(params.model)
        turns = tuple(Turn(message.role, message.content) for message in params.messages)
        started = trio.current_time()
        with trio.move_on_after(params.deadline_seconds):
            if params.on_chain and params.open:
                raise RpcError(ErrorCode.REFUSED, "a prompt is asked on chain or openly, not both", "Choose one.")
            if params.on_chain or params.open:
                mode = AskMode.CHAIN if params.on_chain else AskMode.OPEN
                return await self._ask_desk(mode, model, turns, params, started, emit)
            return await self._ask_gateway(model, turns, params, started, emit)
        raise RpcError(
            ErrorCode.UNAVAILABLE,
            f"there was no complete answer within {params.deadline_seconds:.0f} s",
            "Ask for fewer tokens or allow more time; `quern prompts list` shows prompts that go on."
            if params.on_chain or params.open
            else "Ask for fewer tokens or allow more time.",
        )

    async def doctor(self) -> DoctorView:
        """Check what only the running daemon can."""
        findings = [self._participant(), self._results(), self._peering(), *self._network(), self._content()]
        findings += self._engine_findings()
        findings += [
            fault(f"service {s.name}", s.last_error or "it was given up", "See the log, then restart the daemon.")
            for s in self._parts.supervisor.statuses()
            if s.state.value == "failed"
        ]
        return DoctorView(findings=findings)

    async def connect(self, params: ConnectParams) -> ConnectView:
        """Dial a peer."""
        try:
            await self._parts.network.connect(params.address)
        except CallFailedError as error:
            raise RpcError(
                ErrorCode.UNAVAILABLE, error.message, "Is the peer running, and the address complete with /p2p/…?"
            ) from error
        return ConnectView(peer_id=params.address.rpartition("/")[2])

    async def stop(self) -> StopView:
        """Stop the daemon."""
        self._stop()
        return StopView(stopping=True)

    async def _ask_gateway(
        self,
        model: ModelRecord,
        turns: tuple[Turn, ...],
        params: AskParams,
        started: float,
        emit: Callable[[AskEvent], Awaitable[None]],
    ) -> AskView:
        if self._parts.gateway is None:
            raise RpcError(
                ErrorCode.REFUSED, "this daemon is not a gateway", 'Add "gateway" to [node] roles, or ask --on-chain.'
            )
        texts = []
        chat = ChatRequest(model.model_id, Prompt(turns), params.max_tokens, private=params.private)
        try:
            async with self._parts.gateway.ask(chat) as answer:
                async for part in answer:
                    texts.append(part.text)
                    await emit(AskEvent(text=part.text))
        except GatewayError as error:
            raise RpcError(ErrorCode.UNAVAILABLE, error.message, "See `quern models` and `quern peers`.") from error
        summary = answer.summary
        return AskView(
            text="".join(texts),
            model_id=model.model_id,
            request_id=summary.request_id.hex(),
            executor=", ".join(summary.executors),
            prompt_tokens=summary.prompt_tokens,
            output_tokens=summary.output_tokens,
            price=str(summary.price),
            finish_reason=summary.finish_reason,
            seconds=trio.current_time() - started,
            transaction=None,
        )

    async def _ask_desk(
        self,
        mode: AskMode,
        model: ModelRecord,
        turns: tuple[Turn, ...],
        params: AskParams,
        started: float,
        emit: Callable[[AskEvent], Awaitable[None]],
    ) -> AskView:
        """Hand a prompt in and wait for its answer. It goes on at the desk if the operator does not wait."""
        desk = self._parts.prompts
        wish = prompt_wish(mode, model, Prompt(turns), params)
        try:
            handed_in = await desk.hand_in(wish)
            async for ask in desk.changes(handed_in.ask_id):
                await emit(AskEvent(text="", state=f"{ask.ask_id}: {ask.state.value}"))
            content = await desk.answer(ask)
        except DeskError as error:
            raise RpcError(
                ErrorCode.UNAVAILABLE, error.message, "See `quern prompts list`, and the balance in `quern earnings`."
            ) from error
        await emit(AskEvent(text=content.text))
        return AskView(
            text=content.text,
            model_id=model.model_id,
            request_id=ask.ask_id,
            executor=ask.executor or "",
            prompt_tokens=ask.prompt_tokens,
            output_tokens=ask.output_tokens,
            price=str(ask.price),
            finish_reason=content.finish_reason,
            seconds=trio.current_time() - started,
            transaction=None if ask.transaction_hash is None else "0x" + ask.transaction_hash.hex(),
        )

    def _choose_model(self, wanted: str | None) -> ModelRecord:
        state: ChainState = self._parts.chain.state
        active = {model.model_id: model for model in state.get_governance_models()}
        if wanted is not None:
            if ModelId(wanted) not in active:
                known = ", ".join(sorted(active)) or "none"
                raise RpcError(ErrorCode.REFUSED, f"there is no active model {wanted}", f"Active models: {known}.")
            return active[ModelId(wanted)]
        if len(active) != 1:
            known = ", ".join(sorted(active)) or "none"
            raise RpcError(
                ErrorCode.REFUSED, f"there are {len(active)} active models: {known}", "Name one with --model."
            )
        return next(iter(active.values()))

    async def _holds(self, cid: Cid) -> bool:
        return await self._parts.content.has(cid)

    def _participant(self) -> Finding:
        chain = self._parts.chain
        participant = chain.state.participants.get(chain.account)
        if participant is None:
            return warning(
                "participant",
                f"{chain.account} is not registered",
                "It registers at the start; see the log. It needs gas coins for that.",
            )
        if participant.peer_id != self._parts.network.peer_id:
            return fault(
                "participant",
                "the chain binds this account to another peer id",
                "Is a second daemon running with this account? If not, restart this one with register_on_start.",
            )
        return ok("participant", f"registered with {len(participant.ml_nodes)} ML nodes")

    def _results(self) -> Finding:
        chain = self._parts.chain
        unpaid = unpaid_epochs(position(chain).epoch, chain.state, chain.account)
        if unpaid:
            return warning("results", unpaid, "See `quern why-not-paid EPOCH` and `quern poc EPOCH`.")
        newest = max(chain.state.results, default=None)
        return ok("results", "none yet" if newest is None else f"the newest is of epoch {newest}")

    def _peering(self) -> Finding:
        count = len(self._parts.network.peers())
        if count == 0:
            return warning("peers", "no peer is connected", "Set [p2p] bootstrap, or open the listening port.")
        return ok("peers", f"{count} connected, {len(self._parts.presence.present())} participants present")

    def _network(self) -> list[Finding]:
        network = self._parts.network
        on_loopback = network.discovery.dialer.surroundings.loopback
        return judge_network(network.discovery.status(), network.clock_skew_seconds(), on_loopback=on_loopback)

    def _content(self) -> Finding:
        return ok("content", f"served at {self._parts.content_address}")

    def _engine_findings(self) -> list[Finding]:
        if not self._parts.engines:
            return [ok("engines", "none configured")]
        findings = []
        for engine, settings in zip(self._parts.engines, self._parts.settings.engines, strict=True):
            check = f"engine {engine.node_id}"
            status = engine.status()
            if engine.model_id is not None:
                findings.append(ok(check, f"{engine.model_id} is ready"))
                if status.caution:
                    findings.append(warning(check, status.caution, "Start its server as docs/operators.md says."))
                continue
            level = fault if status.given_up or status.outside else warning
            reason = f"{settings.model_id} is not ready: {status.why_not_drawn}"
            findings.append(level(check, reason, status.remedy or "See `quern nodes`."))
        return findings


def prompt_wish(mode: AskMode, model: ModelRecord, prompt: Prompt, params: AskParams) -> PromptWish:
    """Return what the desk is asked for: paid for are the prompt, however many tokens it makes, and the answer."""
    most = min(reading_tokens_max(prompt) + params.max_tokens, model.context_length)
    return PromptWish(mode, model.model_id, prompt, most, max_output_tokens=params.max_tokens, private=params.private)


def _redeem_view(planned: Planned) -> RedeemView:
    return RedeemView(
        payer=planned.payer,
        amount=str(planned.outstanding),
        is_safe=planned.is_safe,
        plan=planned.reason.value,
    )
