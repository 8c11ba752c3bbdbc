"""Connects metrics to the daemon's views: what the control socket shows is what Prometheus reads."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import structlog
from prometheus_client.core import Metric

from node.alert_wiring import Watching
from node.api.server import ApiPortError, bind_api, serve_api
from node.api_wiring import Serving
from node.control.chain_views import ChainStatusView
from node.control.methods import Method, NoParams
from node.control.node_views import NodesView
from node.control.peer_views import BansView
from node.control.views import EarningsView, EpochView, StatusView, View
from node.services.answer_cache import AnswerCache
from node.services.broker import Broker
from node.services.gateway import Gateway
from node.settings.sections.metrics import MetricsSettings
from node.supervisor import Supervisor
from node.telemetry.families import (
    alert_families,
    ban_families,
    broker_families,
    cache_families,
    chain_families,
    earnings_families,
    epoch_families,
    gauge,
    local_chat_families,
    node_families,
    routing_families,
    status_families,
)
from node.telemetry.scrape import Scraper, Source, make_metrics_app

log = structlog.get_logger(__name__)

Shown = TypeVar("Shown", bound=View)


def add_metrics(settings: MetricsSettings, scraper: Scraper, supervisor: Supervisor) -> None:
    """Serve metrics, if they are wanted. A port that is taken costs the metrics, not the daemon."""
    if not settings.enabled:
        return
    try:
        listener = bind_api(settings.host, settings.port, name="the metrics", key="[metrics] port")
    except ApiPortError as error:
        log.warning("there are no metrics", reason=str(error))
        return
    host, port = listener.getsockname()[:2]
    log.info("metrics are served", url=f"http://{host}:{port}/metrics")
    supervisor.add("metrics", partial(serve_api, make_metrics_app(scraper), listener))


def make_scraper(
    methods: Mapping[str, Method], serving: Serving, watching: Watching, broker: Broker, gateway: Gateway | None
) -> Scraper:
    """Return the scraper of all metrics. `methods` are those of the control socket."""

    desk, webhook, head_age = watching.desk, watching.webhook, watching.head_age
    chat, cache = serving.chat, serving.cache

    async def head() -> Iterable[Metric]:
        return [gauge("quern_head_age_seconds", "Since the newest block came.", head_age.seconds())]

    async def own() -> Iterable[Metric]:
        delivered, failed = (0, 0) if webhook is None else (webhook.delivered, webhook.failed)
        kinds = [alert.kind.value for alert, _ in desk.present()]
        kept = AnswerCache(0) if cache is None else cache
        asked: Iterator[Metric] = iter(())
        if gateway is not None:
            asked = routing_families(gateway.running, gateway.counts, gateway.faults.counts)
        return [
            *broker_families(broker.views(), broker.load),
            *asked,
            *alert_families(kinds, delivered=delivered, failed=failed, dropped=desk.dropped),
            *local_chat_families(chat.running, chat.answered, chat.failed, chat.seconds_total),
            *cache_families(kept.hits, kept.misses, len(kept), kept.bytes_kept),
        ]

    sources = [
        Source("status", _reader(methods, "status", StatusView, status_families)),
        Source("epoch", _reader(methods, "epoch", EpochView, epoch_families)),
        Source("earnings", _reader(methods, "earnings", EarningsView, earnings_families)),
        Source("chain", _reader(methods, "chain_status", ChainStatusView, chain_families)),
        Source("nodes", _reader(methods, "nodes", NodesView, node_families)),
        Source("bans", _reader(methods, "peer_bans", BansView, ban_families)),
        Source("head", head),
        Source("own", own),
    ]
    return Scraper(sources, [serving.instruments.registry])


def _reader(
    methods: Mapping[str, Method], name: str, view_type: type[Shown], families: Callable[[Shown], Iterator[Metric]]
) -> Callable[[], Awaitable[Iterable[Metric]]]:
    async def read() -> Iterable[Metric]:
        view = await methods[name].run(NoParams(), _ignore)
        if not isinstance(view, view_type):
            raise TypeError(f"{name} answers {type(view).__name__}")
        return families(view)

    return read


async def _ignore(_view: View) -> None:
    pass
