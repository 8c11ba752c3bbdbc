"""Which trouble there is: a pure function of what the daemon knows of itself, looked at every few seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.alerts.kinds import Alert, AlertKind, make_alert

GIB = 1024**3
ENGINE_SECONDS_MAX = 1800.0
"""Loading a large model takes many minutes, and longer than this only if something is wrong."""
PEERS_SECONDS_MAX = 300.0
BANS_MAX = 10
"""New bans within the window below. A quiet network has one in days."""
BAN_WINDOW_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An ML node. `failed`: it died or does not start, and is started again."""

    node_id: str
    model_id: str
    ready: bool
    failed: bool
    not_ready_seconds: float
    """For how long it has not been ready; 0 if it is."""
    reason: str
    given_up: bool = False
    held: bool = False
    """Its operator drained it: that it does not serve is no news to him."""
    outside: str = ""
    """Why its version is outside the network's range; empty if it is not."""


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A supervised service that was given up."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class MissedDuty:
    """Something that this node had to put on chain in an epoch, and did not."""

    epoch: int
    duty: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked at."""

    engines: Sequence[EngineFacts] = ()
    failed_services: Sequence[ServiceFacts] = ()
    gas_low: bool = False
    head_seconds: float = 0.0
    """Since the newest block came."""
    disk_free_bytes: int | None = None
    peers: int = 1
    peers_expected: bool = False
    """Whether there is anybody to be connected to: peers are configured, or were seen."""
    lonely_seconds: float = 0.0
    """For how long no peer has been connected."""
    new_bans: int = 0
    """Within BAN_WINDOW_SECONDS."""
    missed: Sequence[MissedDuty] = ()
    failed_transactions: int = 0
    """Intents that failed for good since the daemon's start."""
    no_result: str = ""
    """Why epochs that this node had weight in have no result; empty if the last one has."""
    out_of_budget: str = ""
    """Why this gateway can pay for no more answers: its budget is spent; empty if it is not."""


@dataclass(frozen=True, slots=True)
class Limits:
    """From which figures on it is trouble."""

    head_seconds_max: float
    disk_free_bytes_min: int


def judge(facts: Facts, limits: Limits) -> tuple[Alert, ...]:
    """Return all trouble there is now."""
    return tuple(_trouble(facts, limits))


def _trouble(facts: Facts, limits: Limits) -> Iterator[Alert]:
    for engine in facts.engines:
        yield from _trouble_of(engine)
    for service in facts.failed_services:
        yield make_alert(AlertKind.SERVICE_FAILED, service.name, f"{service.name} was given up: {service.reason}")
    if facts.gas_low:
        yield make_alert(AlertKind.LOW_GAS, "account", "the account holds less of the gas coin than its reserve")
    if facts.head_seconds > limits.head_seconds_max:
        yield make_alert(AlertKind.CHAIN_LAG, "chain", f"no block came for {facts.head_seconds:.0f} s")
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < limits.disk_free_bytes_min:
        yield make_alert(AlertKind.DISK, "data directory", f"{facts.disk_free_bytes / GIB:.1f} GiB are free")
    if facts.peers_expected and facts.peers == 0 and facts.lonely_seconds > PEERS_SECONDS_MAX:
        message = f"no peer has been connected for {facts.lonely_seconds / 60:.0f} min"
        yield make_alert(AlertKind.NO_PEERS, "peers", message)
    if facts.new_bans >= BANS_MAX:
        message = f"{facts.new_bans} peers were banned within {BAN_WINDOW_SECONDS / 60:.0f} min"
        yield make_alert(AlertKind.BAN_STORM, "peers", message)
    for duty in facts.missed:
        message = f"in epoch {duty.epoch} this node did not {duty.duty}"
        yield make_alert(AlertKind.MISSED_DUTY, f"epoch {duty.epoch}: {duty.duty}", message)
    if facts.no_result:
        yield make_alert(AlertKind.NO_RESULT, "results", facts.no_result)
    if facts.failed_transactions:
        message = f"{facts.failed_transactions} intents failed for good since the start"
        yield make_alert(AlertKind.TRANSACTION_FAILED, f"{facts.failed_transactions}", message)
    if facts.out_of_budget:
        yield make_alert(AlertKind.BUDGET_SPENT, "payments", f"the budget is spent: {facts.out_of_budget}")


def _trouble_of(engine: EngineFacts) -> Iterator[Alert]:
    node = engine.node_id
    if engine.held:
        return
    if engine.outside:
        yield make_alert(AlertKind.ENGINE_OUTSIDE_RANGE, node, f"{node} does not serve: {engine.outside}")
    elif engine.given_up:
        yield make_alert(AlertKind.ENGINE_GIVEN_UP, node, f"the engine of {node} was given up: {engine.reason}")
    elif engine.failed:
        yield make_alert(AlertKind.ENGINE_FAILED, node, f"the engine of {node} failed: {engine.reason}")
    elif not engine.ready and engine.not_ready_seconds > ENGINE_SECONDS_MAX:
        message = f"{engine.model_id} has not been ready for {engine.not_ready_seconds / 60:.0f} min"
        yield make_alert(AlertKind.ENGINE_NOT_READY, node, message)
