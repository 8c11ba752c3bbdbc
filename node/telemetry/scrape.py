"""`GET /metrics`: reads the daemon's status when Prometheus asks for it, adds what was measured, writes it all down.

A source that fails or takes too long is left out and `quern_source_up` says which; the rest is told all the same.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog
import trio
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from node.supervisor import describe_error
from node.telemetry.families import labelled

log = structlog.get_logger(__name__)

SOURCE_SECONDS_MAX = 5.0
"""Prometheus gives up after ten by default; a chain that does not answer must not cost the rest."""
SCRAPE_SECONDS_MIN = 1.0
"""Whoever asks more often gets the same again: asking costs the daemon work."""


@dataclass(frozen=True, slots=True)
class Source:
    """A part of the status. `read` may wait and may fail."""

    name: str
    read: Callable[[], Awaitable[Iterable[Metric]]]


class Families:
    """Families of metrics as a collector of Prometheus' client."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


class Scraper:
    """Gathers all metrics. `measured` are those that are counted as things happen."""

    def __init__(self, sources: Sequence[Source], measured: Sequence[CollectorRegistry]) -> None:
        self._sources = sources
        self._measured = [*measured, _process_registry()]
        self._lock = trio.Lock()
        self._newest: tuple[float, list[Metric]] | None = None

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics as text in the format that `accept` asks for, and its content type."""
        families = await self._families()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Families([*families, *(m for part in self._measured for m in part.collect())]))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    async def _families(self) -> list[Metric]:
        async with self._lock:
            if self._newest is None or trio.current_time() - self._newest[0] >= SCRAPE_SECONDS_MIN:
                self._newest = (trio.current_time(), await gather(self._sources))
            return self._newest[1]


async def gather(sources: Sequence[Source]) -> list[Metric]:
    """Read all sources side by side; return what came, and which of them did."""
    found: dict[str, list[Metric]] = {}

    async def read(source: Source) -> None:
        try:
            with trio.fail_after(SOURCE_SECONDS_MAX):
                found[source.name] = list(await source.read())
        except Exception as error:  # one part that cannot be read must not hide the others
            log.warning("a part of the metrics cannot be read", source=source.name, reason=describe_error(error))

    async with trio.open_nursery() as nursery:
        for source in sources:
            nursery.start_soon(read, source)
    up = {(source.name,): float(source.name in found) for source in sources}
    families = [metric for source in sources for metric in found.get(source.name, ())]
    text = "1 if this part of the metrics could be read."
    return [*families, labelled(GaugeMetricFamily, "quern_source_up", text, ("source",), up)]


def make_metrics_app(scraper: Scraper) -> Starlette:
    """Return the application that serves `/metrics`."""

    async def metrics(request: Request) -> Response:
        body, content_type = await scraper.exposition(request.headers.get("accept", ""))
        return PlainTextResponse(body, headers={"Content-Type": content_type})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])


def _process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
