"""Keeps the daemon's services running: restarts what crashes, with growing pauses, and says so.

Purpose: a fault in one duty must not stop another, and must never be silent.
Detail: each service is an async function that runs until cancelled. One that raises is started again after a pause
that doubles with each crash and falls back after a healthy period. One that crashes too often within a window is
given up: an essential service then takes the daemon down (the caller sees ServiceGaveUpError), any other stays
`failed` in the status while the rest goes on.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum

import structlog
import trio

log = structlog.get_logger(__name__)

ServiceRun = Callable[[], Awaitable[None]]
"""Does a duty until it is cancelled. Returning means that there is nothing left to do: it is not started again."""

ERROR_CHARACTERS_MAX = 500
"""Of the last error kept for the status; the log has all of it."""


class ServiceState(StrEnum):
    """Where a service stands."""

    WAITING = "waiting"
    """Not started yet."""
    RUNNING = "running"
    BACKING_OFF = "backing off"
    """Crashed; it will be started again after a pause."""
    FINISHED = "finished"
    """It returned: there is nothing left to do."""
    FAILED = "failed"
    """It crashed too often and was given up."""


class ServiceGaveUpError(Exception):
    """An essential service crashed too often; the daemon can't do its work without it."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} crashed too often, last with: {reason}")
        self.name = name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How patient the supervisor is."""

    backoff_seconds_min: float = 0.5
    """The first pause. Too short and a crash loop burns a core; too long and a hiccup costs requests."""
    backoff_seconds_max: float = 60
    """Pauses double up to this. Too long and a service sleeps through a stage although its cause is mended."""
    healthy_seconds: float = 120
    """A service that ran so long is taken as mended: its next pause is the shortest again."""
    crashes_max: int = 10
    """As many crashes within the window are one too many."""
    window_seconds: float = 600


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the service again after a pause."""

    pause_seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave the service stopped."""


def after_crash(policy: RestartPolicy, crashes: tuple[float, ...], ran_seconds: float, streak: int) -> Restart | GiveUp:
    """Decide what follows a crash.

    `crashes` are the times of all crashes remembered, this one last; `ran_seconds` how long the service ran before
    it; `streak` how many crashes in a row, this one included, came without a healthy period before them.
    """
    within = [at for at in crashes if at > crashes[-1] - policy.window_seconds]
    if len(within) >= policy.crashes_max:
        return GiveUp()
    exponent = 0 if ran_seconds >= policy.healthy_seconds else streak - 1
    return Restart(min(policy.backoff_seconds_min * 2**exponent, policy.backoff_seconds_max))


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as `quern status` shows it."""

    name: str
    state: ServiceState
    restarts: int
    last_error: str | None
    """Kind and message of the last crash; None where it never crashed."""


@dataclass(slots=True)
class _Service:
    name: str
    run: ServiceRun
    essential: bool
    state: ServiceState = ServiceState.WAITING
    restarts: int = 0
    last_error: str | None = None
    crashes: list[float] = field(default_factory=list)
    streak: int = 0


class Supervisor:
    """Runs services in one nursery, in the order in which they were added."""

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        self._policy = policy or RestartPolicy()
        self._services: dict[str, _Service] = {}

    def add(self, name: str, run: ServiceRun, *, essential: bool = False) -> None:
        """Register a service before `run`; raise ValueError for a name that is taken.

        An `essential` service that has to be given up ends `run` with ServiceGaveUpError.
        """
        if name in self._services:
            raise ValueError(f"service {name} is already there")
        self._services[name] = _Service(name, run, essential)

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """Return where each service stands."""
        return tuple(
            ServiceStatus(service.name, service.state, service.restarts, service.last_error)
            for service in self._services.values()
        )

    async def run(self) -> None:
        """Run all services until cancelled, or until each has finished or failed.

        Raises ServiceGaveUpError when an essential service is given up; everything else is stopped by then.
        """
        try:
            async with trio.open_nursery() as nursery:
                for service in self._services.values():
                    nursery.start_soon(self._keep_running, service, name=f"service {service.name}")
        except* ServiceGaveUpError as group:
            given_up = _first_leaf(group)
        else:
            return
        raise given_up

    async def _keep_running(self, service: _Service) -> None:
        while True:
            started = trio.current_time()
            service.state = ServiceState.RUNNING
            try:
                await service.run()
            except Exception as error:  # whatever a service raises must not reach its neighbours
                decision = self._note_crash(service, error, ran_seconds=trio.current_time() - started)
            else:
                service.state = ServiceState.FINISHED
                log.info("service finished", service=service.name)
                return
            if isinstance(decision, GiveUp):
                service.state = ServiceState.FAILED
                reason = service.last_error or ""
                log.critical("service given up", service=service.name, crashes=len(service.crashes), error=reason)
                if service.essential:
                    raise ServiceGaveUpError(service.name, reason)
                return
            service.state = ServiceState.BACKING_OFF
            await trio.sleep(decision.pause_seconds)
            service.restarts += 1

    def _note_crash(self, service: _Service, error: Exception, *, ran_seconds: float) -> Restart | GiveUp:
        now = trio.current_time()
        service.streak = 1 if ran_seconds >= self._policy.healthy_seconds else service.streak + 1
        service.crashes = [at for at in service.crashes if at > now - self._policy.window_seconds] + [now]
        service.last_error = describe_error(error)
        decision = after_crash(self._policy, tuple(service.crashes), ran_seconds, service.streak)
        log.error(
            "service crashed",
            service=service.name,
            error=service.last_error,
            restart_in_seconds=decision.pause_seconds if isinstance(decision, Restart) else None,
        )
        log.debug("traceback of the crash", service=service.name, exc_info=error)
        return decision


def describe_error(error: BaseException) -> str:
    """Return kind and message of an error in one bounded line; of a group, those of its first leaf."""
    leaf = _first_leaf(error)
    text = " ".join(f"{type(leaf).__name__}: {leaf}".split())
    return text if len(text) <= ERROR_CHARACTERS_MAX else text[: ERROR_CHARACTERS_MAX - 1] + "…"


def _first_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
