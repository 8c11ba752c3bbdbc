"""Connects the watch over this node to its parts, and the desk to the operator's webhook."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from node.alerts.desk import AlertDesk
from node.alerts.duties import missed_duties
from node.alerts.judging import GIB, Limits
from node.alerts.watch import AlertWatch, EngineLook, HeadAge, Vitals
from node.alerts.webhook import Origin, Webhook
from node.chain.adapter import EvmChain
from node.control.alert_methods import alert_method_table
from node.control.methods import Method
from node.engine.adapter import EngineNode
from node.engine.alerts import ENGINE_RECOVERED, AlertHook
from node.engine.endpoint import VLLM_API
from node.engine.states import NodeState
from node.network.adapter import LibP2PNetwork
from node.operations.alerts import DaemonAlertOperations
from node.ports import WallClock
from node.private_files import PrivateFileError, read_private_file
from node.protocol.empty_epochs import unpaid_epochs
from node.services.poc_slots import PocSlots
from node.services.timing import position
from node.settings import Settings, SettingsError
from node.supervisor import Supervisor
from p2p.standing import Standing


@dataclass(frozen=True, slots=True)
class Watching:
    """The parts that others need. `desk.report` is where an engine that gives up says so."""

    desk: AlertDesk
    webhook: Webhook | None
    head_age: HeadAge
    methods: dict[str, Method]


def make_desk(settings: Settings, wall_clock: WallClock) -> AlertDesk:
    """Return the desk that takes trouble in. Without a webhook it tells nobody."""
    alerts = settings.alerts
    return AlertDesk(alerts.kinds if alerts.webhook_url else (), alerts.min_interval_seconds, wall_clock)


def engine_hook(desk: AlertDesk, node_id: str) -> AlertHook:
    """Return what an ML node calls with its trouble: it is told at once, not at the next look."""

    def hook(kind: str, message: str) -> None:
        if kind == ENGINE_RECOVERED:
            desk.withdraw(node_id)
        else:
            desk.report(kind, node_id, message)

    return hook


def watch_over(
    settings: Settings,
    chain: EvmChain,
    network: LibP2PNetwork,
    standing: Standing,
    engines: Sequence[EngineNode],
    slots: PocSlots,
    supervisor: Supervisor,
    desk: AlertDesk,
    network_id: str,
    wall_clock: WallClock,
    out_of_budget: Callable[[], str],
) -> Watching:
    """Have this node watched. Raises SettingsError if the webhook's secret cannot be read."""
    alerts = settings.alerts
    head_age = HeadAge(chain)
    without_proofs = {engine.node_id for engine in settings.engines if engine.api != VLLM_API}
    vitals = Vitals(
        engines=lambda: [
            look_at(engine, wanted.model_id) for engine, wanted in zip(engines, settings.engines, strict=True)
        ],
        services=supervisor.statuses,
        gas_low=lambda: chain.low_balance,
        head_seconds=head_age.seconds,
        directory=settings.node.data_dir,
        peers=lambda: len(network.peers()),
        peers_expected=bool(settings.p2p.bootstrap),
        bans_since=lambda: [ban.since for ban in standing.bans()],
        missed=lambda: missed_duties(
            chain.state, chain.schedule, chain.account, chain.head.confirmed, without_proofs, slots.known
        ),
        failed_transactions=chain.failed_intents,
        wall_clock=wall_clock,
        out_of_budget=out_of_budget,
        no_result=lambda: unpaid_epochs(position(chain).epoch, chain.state, chain.account),
    )
    limits = Limits(alerts.chain_silent_seconds_max, alerts.disk_free_gib_min * GIB)
    supervisor.add("chain head", head_age.run)
    supervisor.add("watch", AlertWatch(vitals, limits, desk).run)
    webhook = None
    if alerts.webhook_url:
        origin = Origin(chain.account, network.peer_id, network_id)
        webhook = Webhook(alerts.webhook_url, webhook_secret(settings), origin, wall_clock)
        supervisor.add("alerts", partial(webhook.run, desk.notices))
    operations = DaemonAlertOperations(desk, webhook)
    return Watching(desk, webhook, head_age, alert_method_table(operations))


def look_at(engine: EngineNode, model_id: str) -> EngineLook:
    """Return how an engine is now."""
    status = engine.status()
    return EngineLook(
        node_id=engine.node_id,
        model_id=model_id,
        ready=engine.model_id is not None,
        failed=status.state is NodeState.FAILED,
        given_up=status.given_up,
        held=status.held,
        outside=status.outside,
        restarts=engine.restarts,
        reason=status.last_error,
    )


def webhook_secret(settings: Settings) -> bytes:
    """Return the secret by which notices are signed; empty without one. Raises SettingsError if it cannot be read."""
    path = settings.alerts.secret_file
    if path is None:
        return b""
    try:
        secret = read_private_file(path).strip()
    except PrivateFileError as error:
        raise SettingsError(f"[alerts] secret_file: {error}") from error
    if not secret:
        raise SettingsError(f"[alerts] secret_file: {path} is empty")
    return secret
