"""Rates: how much of something may be had per minute, in a bucket that fills steadily. Time is the caller's."""

from dataclasses import dataclass

SECONDS_PER_MINUTE = 60.0


@dataclass(slots=True)
class Bucket:
    """Holds at most a minute's worth. What is taken beyond it is a debt that the next minutes pay."""

    per_minute: int
    level: float
    at: float
    """Seconds of the caller's clock at which `level` was true."""

    @classmethod
    def full(cls, per_minute: int, at: float) -> "Bucket":
        """Return a bucket from which nothing was taken yet."""
        return cls(per_minute, float(per_minute), at)

    def wait_seconds(self, amount: float, at: float) -> float:
        """Return how long until `amount` can be had; 0 if it can be had now.

        More than a minute's worth can be had when the bucket is full: it would never be otherwise.
        """
        self._fill(at)
        missing = min(amount, float(self.per_minute)) - self.level
        return max(0.0, missing * SECONDS_PER_MINUTE / self.per_minute)

    def take(self, amount: float, at: float) -> None:
        """Take `amount`, or give some back if it is negative."""
        self._fill(at)
        self.level = min(float(self.per_minute), self.level - amount)

    def _fill(self, at: float) -> None:
        gained = max(0.0, at - self.at) * self.per_minute / SECONDS_PER_MINUTE
        self.level = min(float(self.per_minute), self.level + gained)
        self.at = max(self.at, at)
