"""What a process took of the machine: processor seconds of its own and of the kernel for it, and how often it was put
to sleep and woken."""

import resource
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

GIB = 1024**3
BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Cost:
    """Of moving so many bytes, or of a process since its start."""

    user: float
    """Processor seconds in the program."""
    system: float
    """Processor seconds in the kernel on its behalf, copies above all."""
    waits: float
    """Times a thread gave up its core because it had to wait."""
    preemptions: float
    """Times its core was taken away: others had to do."""

    @classmethod
    def so_far(cls) -> Self:
        """Return what this process took since it began."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(used.ru_utime, used.ru_stime, used.ru_nvcsw, used.ru_nivcsw)

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """Read what `told` wrote."""
        return cls(told["user"], told["system"], told["waits"], told["preemptions"])

    def told(self) -> dict[str, float]:
        """Return this in a form for JSON."""
        return {"user": self.user, "system": self.system, "waits": self.waits, "preemptions": self.preemptions}

    def since(self, before: Self) -> "Cost":
        """Return what came between."""
        return Cost(
            self.user - before.user,
            self.system - before.system,
            self.waits - before.waits,
            self.preemptions - before.preemptions,
        )

    def per_gib(self, moved: int) -> "Cost":
        """Return what it would be for a GiB, if it was for so many bytes."""
        part = GIB / moved
        return Cost(self.user * part, self.system * part, self.waits * part, self.preemptions * part)

    @property
    def seconds(self) -> float:
        """Processor seconds in all."""
        return self.user + self.system

    def __add__(self, other: "Cost") -> "Cost":
        """Return both together."""
        return Cost(
            self.user + other.user,
            self.system + other.system,
            self.waits + other.waits,
            self.preemptions + other.preemptions,
        )


NO_COST = Cost(0.0, 0.0, 0.0, 0.0)


def middle(costs: Iterable[Cost]) -> Cost:
    """Return the median of each figure."""
    known = list(costs)
    return Cost(
        median(cost.user for cost in known),
        median(cost.system for cost in known),
        median(cost.waits for cost in known),
        median(cost.preemptions for cost in known),
    )


def line_of(name: str, per_gib: list[Cost]) -> str:
    """Return a line of a table: medians, with the lowest and the highest sum of processor seconds."""
    shown = middle(per_gib)
    sums = [cost.seconds for cost in per_gib]
    blocks = GIB // BLOCK_BYTES
    return (
        f"{name:26} {median(sums):6.2f} ({min(sums):.2f} to {max(sums):.2f}) {shown.user:6.2f} {shown.system:6.2f}"
        f" {shown.waits / blocks:7.1f} {shown.preemptions / blocks:7.1f}"
    )


HEADER = f"{'processor seconds per GiB':26} {'all':>6} {'':16} {'user':>6} {'system':>6} {'waits':>7} {'preempted':>9}"
"""Of the table; the last two are per MiB."""
