"""Looks at the daemon every few seconds and hands what it finds to the desk."""

import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.alerts.desk import AlertDesk
from node.alerts.judging import (
    BAN_WINDOW_SECONDS,
    EngineFacts,
    Facts,
    Limits,
    MissedDuty,
    ServiceFacts,
    judge,
)
from node.ports import Chain
from node.supervisor import ServiceState, ServiceStatus

LOOK_SECONDS = 15.0
"""Trouble is known this much later. Looking costs less than a millisecond."""
BAN_TIMES_MAX = 1024


class HeadAge:
    """How long ago the newest block came, by this machine's own clock: a chain that stands still has no other sign."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._changed_at: float | None = None

    def seconds(self) -> float:
        """Seconds since a new head was seen; 0 before the first."""
        return 0.0 if self._changed_at is None else trio.current_time() - self._changed_at

    async def run(self) -> None:
        """Follow the chain for ever."""
        newest = -1
        async for head in self._chain.heads():
            if head.number != newest:
                newest, self._changed_at = head.number, trio.current_time()


@dataclass(frozen=True, slots=True)
class EngineLook:
    """An ML node at one moment."""

    node_id: str
    model_id: str
    ready: bool
    failed: bool
    restarts: int
    reason: str
    given_up: bool = False
    held: bool = False
    outside: str = ""


@dataclass(frozen=True, slots=True)
class Vitals:
    """Where to look."""

    engines: Callable[[], Sequence[EngineLook]]
    services: Callable[[], Sequence[ServiceStatus]]
    gas_low: Callable[[], bool]
    head_seconds: Callable[[], float]
    directory: Path
    """Whose disk must not fill up."""
    peers: Callable[[], int]
    peers_expected: bool
    bans_since: Callable[[], Sequence[float]]
    """When each ban in force began (UNIX seconds)."""
    missed: Callable[[], Sequence[MissedDuty]]
    failed_transactions: Callable[[], int]
    wall_clock: Callable[[], int]
    out_of_budget: Callable[[], str] = str
    """Why this gateway can pay for no more; empty if it can."""
    no_result: Callable[[], str] = str
    """Why epochs that this node had weight in have no result; empty if the last one has."""


@dataclass(slots=True)
class _EngineMemory:
    ready_at: float
    """When it was last ready, or first seen."""
    restarts_when_ready: int


@dataclass(slots=True)
class AlertWatch:
    """Remembers what one look cannot tell: for how long, and how much more than before."""

    vitals: Vitals
    limits: Limits
    desk: AlertDesk
    _engines: dict[str, _EngineMemory] = field(default_factory=dict)
    _lonely_since: float | None = None
    _met_peers: bool = False
    _failed_before: int | None = None

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.desk.look(judge(await self.facts(), self.limits))
            await trio.sleep(LOOK_SECONDS)

    async def facts(self) -> Facts:
        """Return what there is to see now."""
        vitals = self.vitals
        now = trio.current_time()
        peers = vitals.peers()
        self._met_peers = self._met_peers or peers > 0
        if peers:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = now
        failed = vitals.failed_transactions()
        if self._failed_before is None:
            self._failed_before = failed  # what failed before this start was told then
        ban_times = deque(vitals.bans_since(), maxlen=BAN_TIMES_MAX)
        horizon = vitals.wall_clock() - BAN_WINDOW_SECONDS
        return Facts(
            engines=[self._engine(look, now) for look in vitals.engines()],
            failed_services=[
                ServiceFacts(service.name, service.last_error or "unknown")
                for service in vitals.services()
                if service.state is ServiceState.FAILED
            ],
            gas_low=vitals.gas_low(),
            head_seconds=vitals.head_seconds(),
            disk_free_bytes=await trio.to_thread.run_sync(_free_bytes, vitals.directory),
            peers=peers,
            peers_expected=vitals.peers_expected or self._met_peers,
            lonely_seconds=0.0 if self._lonely_since is None else now - self._lonely_since,
            new_bans=sum(since > horizon for since in ban_times),
            missed=vitals.missed(),
            failed_transactions=max(0, failed - self._failed_before),
            out_of_budget=vitals.out_of_budget(),
            no_result=vitals.no_result(),
        )

    def _engine(self, look: EngineLook, now: float) -> EngineFacts:
        memory = self._engines.setdefault(look.node_id, _EngineMemory(now, look.restarts))
        if look.ready:
            memory.ready_at, memory.restarts_when_ready = now, look.restarts
        # One that is being started again after a failure has not recovered yet.
        failed = not look.ready and (look.failed or look.restarts > memory.restarts_when_ready)
        reason = look.reason or f"it was started again {look.restarts - memory.restarts_when_ready} times"
        return EngineFacts(
            node_id=look.node_id,
            model_id=look.model_id,
            ready=look.ready,
            failed=failed,
            not_ready_seconds=now - memory.ready_at,
            reason=reason,
            given_up=look.given_up,
            held=look.held,
            outside=look.outside,
        )


def _free_bytes(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
