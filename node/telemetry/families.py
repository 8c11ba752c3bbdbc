"""The daemon's status as families of metrics: pure functions from the views that the control socket shows.

Names follow Prometheus: base units in the name, `_total` for what only grows (its client adds it). Amounts of money are
in tokens, not in base units: a metric is a float, and the books are exact elsewhere. Every label has a bounded set of
values: this daemon's services, ML nodes, gossip topics, HTTP statuses.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from node.alerts.kinds import AlertKind
from node.control.chain_views import ChainStatusView
from node.control.node_views import NodesView
from node.control.peer_views import BansView
from node.control.views import ContentView, EarningsView, EngineView, EpochView, GossipView, ServiceView, StatusView
from node.engine.states import NodeState
from node.protocol.stages import Stage
from node.services.broker import NodeView as BrokerView
from node.services.faults import Fault
from node.services.trade import Counts

BASE_UNITS_PER_TOKEN = 10**18
"""Of the token and of the gas coin alike."""


Labels = TypeVar("Labels", bound=tuple[str, ...])


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=float(value))


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter without labels; its exposed name ends in `_total`."""
    return CounterMetricFamily(name, text, value=float(value))


def labelled(
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    labels: Sequence[str],
    values: Mapping[Labels, float],
) -> Metric:
    """Return a family with one sample for each combination of labels."""
    metric = family(name, text, labels=labels)
    for combination, value in values.items():
        metric.add_metric(combination, float(value))
    return metric


def status_families(view: StatusView) -> Iterator[Metric]:
    """Everything of the daemon at a glance."""
    yield InfoMetricFamily("quern_build", "The daemon.", value={"version": view.version, "network": view.network_id})
    yield gauge("quern_uptime_seconds", "Since the daemon's start.", view.uptime_seconds)
    yield gauge("quern_registered", "1 if the account is a participant bound to this peer.", view.registered)
    yield gauge("quern_peers", "Connected peers.", view.peers)
    yield gauge("quern_running_requests", "Requests that this node's engines answer now.", view.running_requests)
    yield gauge("quern_head_block", "Newest block seen.", view.head_block)
    yield gauge("quern_confirmed_block", "Newest block that is acted on.", view.confirmed_block)
    if view.epoch is not None:
        yield gauge("quern_epoch", "Number of the epoch.", view.epoch)
    stages = {(stage.name.lower(),): float(stage.name.lower() == view.stage.lower()) for stage in Stage}
    yield labelled(GaugeMetricFamily, "quern_stage", "1 for the stage of the epoch.", ("stage",), stages)
    yield from engine_families(view.engines)
    yield from service_families(view.services)
    if view.gossip is not None:
        yield from gossip_families(view.gossip)
    if view.content is not None:
        yield from content_families(view.content)


def engine_families(engines: Sequence[EngineView]) -> Iterator[Metric]:
    """ML nodes of this daemon."""
    ready = {(engine.node_id, engine.model_id): float(engine.ready) for engine in engines}
    yield labelled(
        GaugeMetricFamily, "quern_engine_ready", "1 if the ML node has its model ready.", ("node", "model"), ready
    )


def service_families(services: Sequence[ServiceView]) -> Iterator[Metric]:
    """Duties under the supervisor."""
    up = {(service.name,): float(service.state in ("running", "finished")) for service in services}
    restarts = {(service.name,): float(service.restarts) for service in services}
    yield labelled(GaugeMetricFamily, "quern_service_up", "1 if the service runs or is done.", ("service",), up)
    yield labelled(CounterMetricFamily, "quern_service_restarts", "Restarts after a crash.", ("service",), restarts)


def gossip_families(view: GossipView) -> Iterator[Metric]:
    """Gossip since the start."""
    counts = {
        "published_items": view.published_items,
        "published_messages": view.published_messages,
        "received_messages": view.received_messages,
        "delivered_messages": view.delivered_messages,
        "delivered_items": view.delivered_items,
        "duplicates": view.duplicates,
        "forwarded_frames": view.forwarded_frames,
    }
    yield labelled(
        CounterMetricFamily,
        "quern_gossip_events",
        "What gossip did, by kind.",
        ("kind",),
        {(kind,): count for kind, count in counts.items()},
    )
    dropped = {(reason,): count for reason, count in view.dropped.items()}
    yield labelled(CounterMetricFamily, "quern_gossip_dropped", "Dropped, by reason.", ("reason",), dropped)
    yield counter("quern_gossip_received_bytes", "Bytes of gossip from peers.", view.bytes_received)
    yield counter("quern_gossip_sent_bytes", "Bytes of gossip to peers.", view.bytes_sent)
    yield counter("quern_gossip_cpu_seconds", "CPU time of judging and forwarding.", view.cpu_seconds)
    mesh = {(topic,): count for topic, count in view.mesh.items()}
    yield labelled(GaugeMetricFamily, "quern_gossip_mesh_peers", "Peers in a topic's mesh.", ("topic",), mesh)


def content_families(view: ContentView) -> Iterator[Metric]:
    """Content since the start."""
    yield counter("quern_content_served_bytes", "Bytes of blocks given to peers.", view.served_bytes)
    yield counter("quern_content_fetched_bytes", "Verified bytes fetched.", view.fetched_bytes)
    yield counter("quern_content_duplicate_bytes", "Bytes of blocks that came a second time.", view.duplicate_bytes)
    yield counter("quern_content_sources_dropped", "Sources that lied, stalled or failed.", view.sources_dropped)
    yield gauge("quern_content_connections", "Connections to the content gateway.", view.connections)
    answers = {(status,): count for status, count in view.answers.items()}
    yield labelled(
        CounterMetricFamily, "quern_content_answers", "Answers of the content gateway.", ("status",), answers
    )


def epoch_families(view: EpochView) -> Iterator[Metric]:
    """The epoch and this node's place in it."""
    yield gauge("quern_epoch_blocks_left", "Blocks until the next stage.", view.blocks_left)
    yield gauge("quern_epoch_members", "Participants of the group in charge.", view.members)
    yield gauge("quern_weight", "This node's weight in the group.", view.own_weight)
    yield gauge("quern_group_weight", "Weight of the whole group.", view.total_weight)


def earnings_families(view: EarningsView) -> Iterator[Metric]:
    """The books."""
    yield counter("quern_answers", "Answers that this node gave for the network.", view.answers)
    yield counter("quern_answer_tokens", "Output tokens of them.", view.output_tokens)
    amounts = {
        "receipts": view.receipts_price,
        "vouchers_received": view.vouchers_received,
        "vouchers_redeemed": view.vouchers_redeemed,
        "vouchers_open": view.vouchers_open,
        "vouchers_at_risk": view.vouchers_at_risk,
        "vouchers_issued": view.vouchers_issued,
        "rewards_earned": view.rewards_cumulative,
        "rewards_claimed": view.rewards_claimed,
    }
    yield labelled(
        GaugeMetricFamily,
        "quern_money_tokens",
        "Sums of the books in tokens: what answers cost, vouchers, rewards.",
        ("kind",),
        {(kind,): tokens(amount) for kind, amount in amounts.items()},
    )
    yield gauge("quern_token_balance_tokens", "Tokens of the account.", tokens(view.token_balance))
    yield gauge("quern_gas_balance_coins", "Gas coins of the account.", tokens(view.gas_balance))
    yield counter("quern_gas_spent_gas", "Gas of confirmed transactions.", view.gas_spent)


def chain_families(view: ChainStatusView) -> Iterator[Metric]:
    """The outbox and the reserve of gas coins."""
    intents = {"pending": view.intents_pending, "failed": view.intents_failed, "done": view.intents_done}
    yield labelled(
        GaugeMetricFamily,
        "quern_chain_intents",
        "Intents of the outbox by status.",
        ("status",),
        {(status,): count for status, count in intents.items()},
    )
    yield gauge("quern_gas_low", "1 if the account has less than gas_reserve_ether.", view.low_balance)
    yield gauge("quern_gas_reserve_coins", "The reserve of the settings.", tokens(view.gas_reserve))


def tokens(amount: str) -> float:
    """Return an amount in base units as tokens, for eyes and graphs only."""
    return int(amount) / BASE_UNITS_PER_TOKEN


def node_families(view: NodesView) -> Iterator[Metric]:
    """ML nodes: their states, restarts and work."""
    nodes = view.nodes
    states = {(node.node_id, state.value): float(node.state == state.value) for node in nodes for state in NodeState}
    yield labelled(GaugeMetricFamily, "quern_node_state", "1 for the ML node's state.", ("node", "state"), states)
    given_up = {(node.node_id,): float(node.given_up) for node in nodes}
    yield labelled(GaugeMetricFamily, "quern_node_given_up", "1 if it failed too often.", ("node",), given_up)
    drawn = {(node.node_id,): float(not node.why_not_drawn) for node in nodes}
    text = "1 if nothing that the node knows of keeps the network from drawing it."
    yield labelled(GaugeMetricFamily, "quern_node_drawn", text, ("node",), drawn)
    running = {(node.node_id,): float(node.running_requests) for node in nodes}
    yield labelled(GaugeMetricFamily, "quern_node_running", "Requests at its server.", ("node",), running)
    restarts = {(node.node_id,): float(node.restarts) for node in nodes}
    yield labelled(CounterMetricFamily, "quern_node_restarts", "Restarts of its server.", ("node",), restarts)


def ban_families(view: BansView) -> Iterator[Metric]:
    """Who is not spoken to."""
    yield gauge("quern_bans", "Peers and addresses that are banned.", len(view.bans))
    refused = {(reason,): count for reason, count in view.refused_connections.items()}
    text = "Connections turned away at the door."
    yield labelled(CounterMetricFamily, "quern_refused_connections", text, ("reason",), refused)


def broker_families(views: Sequence[BrokerView], load: int) -> Iterator[Metric]:
    """How busy the ML nodes are, as the broker sees them."""
    running = {(view.node_id,): float(view.running) for view in views}
    yield labelled(GaugeMetricFamily, "quern_broker_running", "Users' requests in places.", ("node",), running)
    places = {(view.node_id,): float(view.places) for view in views}
    yield labelled(GaugeMetricFamily, "quern_broker_places", "Places for them.", ("node",), places)
    pace = {(view.node_id,): view.tokens_per_second for view in views}
    text = "What all its places are believed to make."
    yield labelled(GaugeMetricFamily, "quern_broker_tokens_per_second", text, ("node",), pace)
    waiting = load - sum(view.running for view in views)
    yield gauge("quern_broker_waiting", "Requests that wait in line for a place.", waiting)


def routing_families(running: int, counts: Counts, faults: Mapping[Fault, int]) -> Iterator[Metric]:
    """The gateway's dealings with executors."""
    yield gauge("quern_gateway_running", "Requests of users being answered.", running)
    yield counter("quern_gateway_hedges", "Requests asked twice because the first executor was slow.", counts.hedges)
    yield counter("quern_gateway_refused_busy", "Requests that nobody had room for.", counts.refused_busy)
    text = "Answers that went on with another executor after their first token."
    yield counter("quern_gateway_fail_overs", text, counts.failovers)
    by_kind = {(fault.value,): float(count) for fault, count in faults.items()}
    text = "Executors that were left for a fault of theirs."
    yield labelled(CounterMetricFamily, "quern_gateway_executor_faults", text, ("fault",), by_kind)


def alert_families(kinds: Sequence[str], *, delivered: int, failed: int, dropped: int) -> Iterator[Metric]:
    """Trouble there is now, by kind, and how telling it goes."""
    present = {(kind.value,): float(kinds.count(kind.value)) for kind in AlertKind}
    yield labelled(GaugeMetricFamily, "quern_alerts", "Trouble there is now.", ("kind",), present)
    fates = {("delivered",): delivered, ("failed",): failed, ("dropped",): dropped}
    yield labelled(CounterMetricFamily, "quern_alert_notices", "Notices by their fate.", ("fate",), fates)


def local_chat_families(running: int, answered: int, failed: int, seconds_total: float) -> Iterator[Metric]:
    """The miner API."""
    yield gauge("quern_miner_api_running", "Answers of the miner API being given.", running)
    yield counter("quern_miner_api_answers", "Answers of the miner API.", answered)
    yield counter("quern_miner_api_failures", "Answers of it that an engine failed at.", failed)
    yield counter("quern_miner_api_seconds", "Time that its answers took together.", seconds_total)


def cache_families(hits: int, misses: int, answers: int, size: int) -> Iterator[Metric]:
    """The cache of answers; all 0 where it is off."""
    yield counter("quern_cache_hits", "Requests answered from the cache.", hits)
    yield counter("quern_cache_misses", "Requests that could have been, and were not there.", misses)
    yield gauge("quern_cache_answers", "Answers in the cache.", answers)
    yield gauge("quern_cache_bytes", "Memory they take, roughly.", size)
