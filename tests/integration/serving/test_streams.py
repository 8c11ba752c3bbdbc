"""Answers over real libp2p on loopback: an executor that dies, a user who leaves. The chain is the simulator's."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio
from coincurve import PrivateKey

from netsim.chain import SimulatedChain
from netsim.clock import wall_clock
from netsim.content import ContentExchange, SimulatedContent
from netsim.ledger import Ledger, simulated_consent
from netsim.scenario import MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.network.adapter import open_network
from node.protocol.identifiers import TokenAmount
from node.protocol.records import MLNodeRegistration
from node.services.batches import BatchService
from node.services.broker import Broker
from node.services.epochs import EpochBook
from node.services.executor import Executor
from node.services.faults import Fault, load_evidence
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.payments import PayerBook
from node.services.presence import PresenceService, PresenceTable
from node.services.registration import RegistrationService
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of
from tests.unit.services.scripted import CHAT, REQUEST_ID, CountingEngine, honest_tokens
from tests.unit.services.serving_network import DEPOSIT, GATEWAY, NODE, PLENTY, UNPAID_TOKENS_MAX

BLOCK_SECONDS = 0.3
TOKENS = 120
pytestmark = pytest.mark.timeout(120)


@dataclass
class Node:
    """One node of the network; cancelling its scope ends its process, as far as others can tell."""

    number: int
    scope: trio.CancelScope
    store: Books
    engine: CountingEngine
    payer: PayerBook
    gateway: Gateway | None
    address: str


async def run_node(
    number: int,
    ledger: Ledger,
    exchange: ContentExchange,
    bootstrap: tuple[str, ...],
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    key: PrivateKey = key_of(number)
    chain = SimulatedChain(ledger, key, confirmations=1)
    with trio.CancelScope() as scope:
        async with (
            open_network(
                seed=bytes([number]) * 32,
                listen=["/ip4/127.0.0.1/tcp/0"],
                announce=[],
                bootstrap=bootstrap,
                network_id="test",
                account=chain.account,
                sign=chain.sign,
                wall_clock=wall_clock,
            ) as network,
            trio.open_nursery() as nursery,
        ):
            # The simulated registry checks a stand-in for the peer's signature.
            network.sign_as_peer = lambda _: simulated_consent(network.peer_id)  # type: ignore[method-assign]
            content = SimulatedContent(exchange, f"host-{number}", 1)
            store = Books(Database(":memory:"), chain.account)
            router = GossipRouter(network)
            presence = PresenceTable(chain, wall_clock)
            epochs = EpochBook(chain, content, store, presence)
            batches = BatchService(network, router, presence)
            payer = PayerBook(chain, store, channel_deposit=DEPOSIT, budget=PLENTY)
            engine = CountingEngine(NODE, MODEL_ID, "honest", 0.0, number)
            serves = number != GATEWAY
            executor = Executor(
                chain, network, store, epochs, batches, Broker([engine] if serves else [], {NODE: 4}),
                unpaid_tokens_max=UNPAID_TOKENS_MAX, wall_clock=wall_clock,
            )  # fmt: skip
            gateway = (
                None
                if serves
                else Gateway(chain, network, store, epochs, presence, batches, payer, wall_clock=wall_clock)
            )
            nodes = [MLNodeRegistration(NODE, (MODEL_ID,), "simulated")] if serves else []
            presence_service = PresenceService(
                chain, network, router, presence,
                content=None, loaded_models=lambda: [MODEL_ID] if serves else [], load=lambda: 0, version="test",
                wall_clock=wall_clock, seeds=executor.seeds.announcement,
            )  # fmt: skip
            for service in (
                RegistrationService(chain, network, nodes), presence_service, epochs, batches, router, payer,
            ):  # fmt: skip
                nursery.start_soon(service.run)
            task_status.started(Node(number, scope, store, engine, payer, gateway, network.addresses[0]))
            await trio.sleep_forever()


@asynccontextmanager
async def network_of(executors: int) -> AsyncIterator[dict[int, Node]]:
    trace = Trace()
    group = tuple(sorted(((account(n), 1) for n in range(1, executors + 1)), key=lambda e: e[0].lower()))
    ledger = Ledger(PARAMETERS, BLOCK_SECONDS, 1, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.produce_blocks)
        nodes: dict[int, Node] = {}
        for number in (GATEWAY, *range(1, executors + 1)):
            bootstrap = tuple(node.address for node in nodes.values())
            nodes[number] = await nursery.start(run_node, number, ledger, exchange, bootstrap)
        gateway = nodes[GATEWAY].gateway
        assert gateway is not None
        with trio.fail_after(60):
            while len(gateway.candidates(REQUEST_ID, MODEL_ID)) < executors:
                await trio.sleep(0.1)
            for number in range(1, executors + 1):
                await nodes[GATEWAY].payer.reserve(account(number), TokenAmount(1))
        yield nodes
        nursery.cancel_scope.cancel()


async def test_an_executor_that_dies_is_noticed_at_once_and_the_stream_goes_on() -> None:
    chat = replace(CHAT, max_tokens=TOKENS)
    async with network_of(2) as nodes:
        gateway = nodes[GATEWAY].gateway
        assert gateway is not None
        began = trio.current_time()
        async with gateway.ask(chat) as answer:
            async for _ in answer:
                usual = trio.current_time() - began
                break
        times, tokens = [], []
        killed_at = 0.0
        with trio.fail_after(30):
            async with gateway.ask(chat) as answer:
                async for part in answer:
                    times.append(trio.current_time())
                    tokens += part.token_ids
                    if len(times) == 10:
                        (giver,) = [n for n in (1, 2) if account(n) in answer.summary.executors]
                        nodes[giver].scope.cancel()
                        killed_at = times[-1]
        assert tokens == await honest_tokens(chat)
        assert answer.summary.executors == (account(giver), account(3 - giver))
        assert answer.summary.finish_reason == "length"
        (found,) = load_evidence(nodes[GATEWAY].store, limit=9)
        assert (found.participant, found.code) == (account(giver), Fault.LOST.value)  # not by its silence
        gap = max(later - earlier for earlier, later in itertools.pairwise(times) if later > killed_at)
        print(f"gap {1000 * gap:.0f} ms, usual time to the first token {1000 * usual:.0f} ms")  # noqa: T201


async def test_a_user_who_leaves_stops_the_engine() -> None:
    async with network_of(1) as nodes:
        gateway, engine = nodes[GATEWAY].gateway, nodes[1].engine
        assert gateway is not None
        async with gateway.ask(replace(CHAT, max_tokens=400)) as answer:
            async for _ in answer:
                break
        so_far = engine.generated
        with trio.fail_after(5):
            while not engine.stopped_at:
                await trio.sleep(0.01)
        assert engine.generated - so_far <= UNPAID_TOKENS_MAX
