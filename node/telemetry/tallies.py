"""A histogram of what happens for every token: counted in plain numbers, made into Prometheus' form when it is asked.

prometheus_client's own takes a lock and two objects for each value, which is as much as reading the token takes.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Tally:
    """The values of one label. For one thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many values are at most each bound, as Prometheus wants it."""
        totals, total = [], 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            totals.append((bound, float(total)))
        return totals

    @property
    def sum(self) -> float:
        """All values together."""
        return self._sum


class Tallies(Collector):
    """A histogram with one label, for few values of it: whoever asks for a tally bounds them."""

    def __init__(
        self, name: str, documentation: str, label: str, *, bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._bounds = tuple(map(float, bounds))
        self._tallies: dict[str, Tally] = {}
        registry.register(self)

    def labels(self, value: str) -> Tally:
        """Return the tally of a label's value."""
        if value not in self._tallies:
            self._tallies[value] = Tally(self._bounds)
        return self._tallies[value]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, tally in self._tallies.items():
            family.add_metric([value], buckets=tally.buckets(), sum_value=tally.sum)
        yield family
