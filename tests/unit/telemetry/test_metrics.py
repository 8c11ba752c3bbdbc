"""Metrics: what Prometheus gets is what the daemon knows, bounded, and every graph of the dashboard has its metric."""

import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import trio
import trio.testing
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from netsim.engine import SimulatedEngine
from node.alert_wiring import Watching
from node.alerts.desk import AlertDesk
from node.alerts.kinds import AlertKind
from node.alerts.watch import HeadAge
from node.api.server import bind_api
from node.api_wiring import Serving
from node.control.chain_methods import chain_method_table
from node.control.methods import method_table
from node.control.node_methods import node_method_table
from node.control.node_views import NodesView, NodeView
from node.control.peer_methods import peer_method_table
from node.control.peer_views import BansView
from node.control.views import ContentView, GossipView, StatusView
from node.protocol.identifiers import ModelId, RequestId
from node.protocol.records import ModelRecord
from node.services.answer_cache import AnswerCache
from node.services.answers import AnswerPart, AnswerSummary
from node.services.asking import AnswerStream
from node.services.broker import Broker
from node.services.embedding import Embeddings
from node.services.embedding_frames import EmbeddingInput
from node.services.faults import Fault
from node.services.frames import Prompt
from node.services.gateway import ChatRequest, GatewayError
from node.services.local_chat import LocalChat
from node.services.trade import Counts
from node.settings.sections.metrics import MetricsSettings
from node.supervisor import Supervisor
from node.telemetry.families import gauge
from node.telemetry.gateway import MeasuredAsker, MeasuredVectors
from node.telemetry.instruments import MODELS_MAX, OTHER, Instruments
from node.telemetry.scrape import SOURCE_SECONDS_MAX, Scraper, Source, gather, make_metrics_app
from node.telemetry_wiring import add_metrics, make_scraper
from tests.builders import NODE, TINY, account, model
from tests.unit.control.canned import CannedOperations
from tests.unit.control.canned_chain import CannedChainOperations

DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "grafana-dashboard.json"
SUFFIXES = ("_bucket", "_count", "_sum", "_total", "_info")


class FullOperations(CannedOperations):
    """A status in which nothing is missing."""

    async def status(self) -> StatusView:
        gossip = GossipView(
            published_items=1, published_messages=1, received_messages=7, delivered_messages=5, delivered_items=5,
            duplicates=2, forwarded_frames=3, dropped={"budget": 4}, bytes_received=100, bytes_sent=200,
            cpu_seconds=0.5, cpu_milliseconds_per_delivery=100.0, peers=1, mesh={"poc": 3},
        )  # fmt: skip
        content = ContentView(
            served_bytes=1000, answers={"200": 9}, connections=2, connections_accepted=3, slow_readers_cut=0,
            fetched_bytes=50, duplicate_bytes=1, sources_dropped=0,
        )  # fmt: skip
        return (await super().status()).model_copy(update={"gossip": gossip, "content": content})


@dataclass
class CannedAnswer:
    """Four tokens in two pieces, a second apart; then a failure, if there is one."""

    summary: AnswerSummary
    failure: GatewayError | None = None

    async def __aiter__(self) -> AsyncIterator[AnswerPart]:
        await trio.sleep(0.3)
        yield AnswerPart("a", (1,))
        await trio.sleep(0.06)
        yield AnswerPart("bcd", (2, 3, 4))
        if self.failure is not None:
            raise self.failure


@dataclass
class CannedGateway:
    at_once: GatewayError | None = None
    later: GatewayError | None = None
    cached: bool = False

    def models(self) -> tuple[ModelRecord, ...]:
        return (model(),)

    @asynccontextmanager
    async def ask(self, chat: ChatRequest) -> AsyncIterator[AnswerStream]:
        if self.at_once is not None:
            raise self.at_once
        summary = AnswerSummary(RequestId(bytes(32)), chat.model_id, (account(1), account(2)), 9, 4, 50, "stop")
        summary.cached = self.cached
        yield CannedAnswer(summary, self.later)


async def ask(gateway: MeasuredAsker, model_id: ModelId = TINY, *, leave: bool = False) -> None:
    async with gateway.ask(ChatRequest(model_id, Prompt(text="x"))) as answer:
        async for _ in answer:
            if leave:
                break


def values(instruments: Instruments) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for metric in instruments.registry.collect()
        for sample in metric.samples
    }


class CannedNodes:
    async def nodes(self) -> NodesView:
        node = NodeView(
            node_id="gpu0", state="serving", state_seconds=9, model_id="tiny", place="", engine="vllm 0.32.0",
            hardware="cpu", phase="", running_requests=3, restarts=2, last_error="", given_up=False, drained=False,
            why_not_drawn="", remedy="",
        )  # fmt: skip
        return NodesView(nodes=[node])

    async def drain(self, _params: object) -> NodeView:
        raise NotImplementedError

    resume = restart = drain


class CannedPeers:
    async def bans(self) -> BansView:
        return BansView(bans=[], refused_connections={"banned": 5})

    async def ban(self, _params: object) -> BansView:
        raise NotImplementedError

    pardon = ban


class CannedFaults:
    counts: ClassVar[dict[Fault, int]] = {Fault.SILENT: 6}


class CannedRouting:
    running = 1
    counts = Counts(requests=9, hedges=4, failovers=3, refused_busy=2)
    faults = CannedFaults()


class NoChain:
    """A head that never comes."""

    async def heads(self) -> AsyncIterator[None]:
        await trio.sleep_forever()
        yield None


def whole_scraper() -> Scraper:
    desk = AlertDesk(list(AlertKind), 3600, lambda: 0)
    watching = Watching(desk, None, HeadAge(NoChain()), {})  # type: ignore[arg-type]
    serving = Serving(None, LocalChat([], tuple), AnswerCache(10), Instruments())
    methods = method_table(FullOperations()) | chain_method_table(CannedChainOperations())
    methods |= node_method_table(CannedNodes()) | peer_method_table(CannedPeers())  # type: ignore[arg-type]
    broker = Broker([SimulatedEngine(NODE, TINY, "honest", 0.0, 1)])
    return make_scraper(methods, serving, watching, broker, CannedRouting())  # type: ignore[arg-type]


async def text_of(scraper: Scraper) -> str:
    transport = httpx.ASGITransport(app=make_metrics_app(scraper))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        reply = await client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return reply.text


async def test_everything_the_status_shows_is_there_in_a_form_prometheus_reads() -> None:
    text = await text_of(whole_scraper())
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["quern_peers",] == 1
    assert samples["quern_engine_ready", "gpu0", "tiny"] == 1
    assert samples["quern_service_restarts_total", "mining"] == 2
    assert samples["quern_gossip_dropped_total", "budget"] == 4
    assert samples["quern_content_served_bytes_total",] == 1000
    assert samples["quern_stage", "serve"] == 1
    assert samples["quern_stage", "load"] == 0
    assert samples["quern_source_up", "chain"] == 1
    assert samples["quern_node_state", "gpu0", "serving"] == 1
    assert samples["quern_node_restarts_total", "gpu0"] == 2
    assert samples["quern_refused_connections_total", "banned"] == 5
    assert samples["quern_broker_places", "node-1"] > 0
    assert samples["quern_gateway_hedges_total",] == 4
    assert samples["quern_gateway_fail_overs_total",] == 3
    assert samples["quern_gateway_refused_busy_total",] == 2
    assert samples["quern_gateway_executor_faults_total", "silent"] == 6
    assert {key[1] for key in samples if key[0] == "quern_source_up" and not samples[key]} == set()
    assert samples["process_resident_memory_bytes",] > 1e6
    names = [name for name, *_ in samples]
    assert {name for name in names if not name.startswith(("quern_", "process_"))} == set()


async def test_every_graph_of_the_dashboard_has_its_metric() -> None:
    scraper = whole_scraper()
    gateway = MeasuredAsker(CannedGateway(), Instruments())
    known = {family.name for family in text_string_to_metric_families(await text_of(scraper))}
    known |= {metric.name for metric in gateway._instruments.registry.collect()}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(expressions) > 40
    for expression in expressions:
        names = re.findall(r"\b(?:quern|process)_[a-z_]+", expression)
        assert names, expression
        for name in names:
            bases = {name, *(name.removesuffix(suffix) for suffix in SUFFIXES)}
            assert bases & known, f"{name} of {expression}"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


async def test_a_source_that_fails_or_hangs_costs_only_itself(autojump_clock: trio.testing.MockClock) -> None:
    async def good() -> Iterable[Metric]:
        return [gauge("good", "It is there.", 1)]

    async def bad() -> Iterable[Metric]:
        raise OSError("no endpoint answers")

    async def slow() -> Iterable[Metric]:
        await trio.sleep_forever()
        return []

    began = trio.current_time()
    families = await gather([Source("bad", bad), Source("slow", slow), Source("good", good)])
    assert trio.current_time() - began == SOURCE_SECONDS_MAX
    assert [family.name for family in families] == ["good", "quern_source_up"]
    up = {sample.labels["source"]: sample.value for sample in families[-1].samples}
    assert up == {"bad": 0, "slow": 0, "good": 1}


async def test_who_asks_too_often_gets_the_same_again(autojump_clock: trio.testing.MockClock) -> None:
    reads = 0

    async def count() -> Iterable[Metric]:
        nonlocal reads
        reads += 1
        return [gauge("reads", "How often.", reads)]

    scraper = Scraper([Source("count", count)], [])
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(scraper.exposition, "")
    assert reads == 1
    await trio.sleep(2)
    await scraper.exposition("application/openmetrics-text; version=1.0.0")
    assert reads == 2


async def test_times_and_tokens_of_an_answer_are_measured(autojump_clock: trio.testing.MockClock) -> None:
    instruments = Instruments()
    await ask(MeasuredAsker(CannedGateway(), instruments))
    found = values(instruments)
    assert found["quern_gateway_requests_total tiny ok"] == 1
    assert found["quern_gateway_tokens_total tiny prompt"] == 9
    assert found["quern_gateway_tokens_total tiny output"] == 4
    assert found["quern_gateway_first_token_seconds_sum tiny"] == pytest.approx(0.3)
    assert found["quern_gateway_inter_token_seconds_sum tiny"] == pytest.approx(0.02)
    assert found["quern_gateway_answer_seconds_sum tiny"] == pytest.approx(0.36)


async def test_each_end_of_a_request_is_counted_as_what_it_was(autojump_clock: trio.testing.MockClock) -> None:
    instruments = Instruments()
    with pytest.raises(GatewayError):
        await ask(MeasuredAsker(CannedGateway(at_once=GatewayError("no-executor", "x")), instruments))
    with pytest.raises(GatewayError):
        await ask(MeasuredAsker(CannedGateway(later=GatewayError("failed", "x")), instruments))
    await ask(MeasuredAsker(CannedGateway(), instruments), leave=True)
    with trio.move_on_after(0.1):
        await ask(MeasuredAsker(CannedGateway(), instruments))
    await ask(MeasuredAsker(CannedGateway(cached=True), instruments))
    found = values(instruments)
    outcomes = {key.split()[-1]: value for key, value in found.items() if key.startswith("quern_gateway_requests_t")}
    assert outcomes == {"no-executor": 1, "failed": 1, "left": 2, "cached": 1}
    assert found["quern_gateway_answer_seconds_count tiny"] == 0


class CannedVectors:
    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        if not inputs:
            raise GatewayError("bad-request", "no inputs")
        return Embeddings(model_id, (b"",), 7, 70)


async def test_vectors_are_counted_by_how_they_ended() -> None:
    instruments = Instruments()
    vectors = MeasuredVectors(CannedVectors(), lambda: [model()], instruments)
    await vectors.embed(TINY, [EmbeddingInput(text="x")])
    with pytest.raises(GatewayError):
        await vectors.embed(TINY, [])
    found = values(instruments)
    assert (
        found["quern_gateway_embeddings_total tiny ok"] == found["quern_gateway_embeddings_total tiny bad-request"] == 1
    )
    assert found["quern_gateway_tokens_total tiny prompt"] == 7


async def test_names_that_users_invent_do_not_become_labels(autojump_clock: trio.testing.MockClock) -> None:
    instruments = Instruments()
    for number in range(5):
        await ask(MeasuredAsker(CannedGateway(), instruments), ModelId(f"invented-{number}"))
    assert values(instruments)["quern_gateway_requests_total other ok"] == 5
    labels = {instruments.model_label(f"m{number}", known=True) for number in range(2 * MODELS_MAX)}
    assert len(labels) == MODELS_MAX + 1
    assert OTHER in labels


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_daemon() -> None:
    listener = bind_api("127.0.0.1", 0)
    supervisor = Supervisor()
    add_metrics(MetricsSettings(port=listener.getsockname()[1]), Scraper([], []), supervisor)
    assert supervisor.statuses() == ()
    add_metrics(MetricsSettings(enabled=False), Scraper([], []), supervisor)
    assert supervisor.statuses() == ()
    add_metrics(MetricsSettings(port=0), Scraper([], []), supervisor)
    assert [status.name for status in supervisor.statuses()] == ["metrics"]
    listener.close()
