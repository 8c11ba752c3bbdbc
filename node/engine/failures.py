"""What a node makes of its failures: when it is tried again, when it is given up, when its operator is told."""

import math
from dataclasses import dataclass

from node.supervisor import GiveUp, Restart, RestartPolicy, after_crash

RESTARTS = RestartPolicy(
    backoff_seconds_min=1, backoff_seconds_max=60, healthy_seconds=300, crashes_max=8, window_seconds=3600
)
"""Eight failures in an hour are no hiccup: each may cost minutes of loading and a GPU at full power."""
REMOTE_RETRY_SECONDS_MAX = 30.0
REMOTE_CRASHES_MAX = 2**31
"""Asking a server of somebody else costs nothing, and it may come back after a weekend: it is never given up."""
REMOTE_RESTARTS = RestartPolicy(
    backoff_seconds_min=1,
    backoff_seconds_max=REMOTE_RETRY_SECONDS_MAX,
    healthy_seconds=300,
    crashes_max=REMOTE_CRASHES_MAX,
    window_seconds=3600,
)
CRASHES_REMEMBERED_MAX = 64
STREAK_MAX = 16
"""The pause has reached its longest by then; larger exponents would overflow."""
ALERT_FAILURES = 3
"""Failures in a row before the operator is told: one restart is routine."""
ERROR_CHARACTERS_MAX = 600


@dataclass(slots=True)
class FailureRecord:
    """The failures of one node since it last ran well. Times are seconds of one clock."""

    policy: RestartPolicy
    retry_at: float = 0.0
    given_up: bool = False
    last_error: str = ""
    outside: str = ""
    """Why the engine's version is outside the network's range; empty if it is not known to be."""
    streak: int = 0
    crashes: tuple[float, ...] = ()

    def note(self, now: float, ready_at: float, reason: str) -> None:
        """Note a failure of a server that was ready since `ready_at`, infinite if it never was."""
        self.outside, self.last_error = "", reason[-ERROR_CHARACTERS_MAX:]
        ran = max(0.0, now - ready_at)
        self.streak = 1 if ran >= self.policy.healthy_seconds else min(self.streak + 1, STREAK_MAX)
        recent = (at for at in self.crashes if at > now - self.policy.window_seconds)
        self.crashes = (*recent, now)[-CRASHES_REMEMBERED_MAX:]
        match after_crash(self.policy, self.crashes, ran, self.streak):
            case Restart(pause):
                self.retry_at = now + pause
            case GiveUp():
                self.given_up, self.retry_at = True, math.inf

    def note_outside(self, now: float, reason: str) -> bool:
        """Note that the version is outside the range; return whether that is news.

        Another start of the same installation would have the same version; somebody else's server may be renewed.
        """
        news = self.outside != reason
        self.outside = self.last_error = reason
        self.given_up = self.policy.crashes_max != REMOTE_CRASHES_MAX
        self.retry_at = math.inf if self.given_up else now + self.policy.backoff_seconds_max
        return news

    def forgive(self) -> None:
        """Begin anew: the operator asks for it, or another model is to be served."""
        self.retry_at, self.given_up, self.streak, self.crashes, self.outside = 0.0, False, 0, (), ""
