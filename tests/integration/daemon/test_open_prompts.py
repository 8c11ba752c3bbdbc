"""Open prompts over real libp2p: posted, answered, sealed, settled by a call. Chain and content are simulated."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from time import time

import trio

from netsim.chain import SimulatedChain
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger, simulated_consent
from netsim.scenario import MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.audit_wiring import make_receipt_book
from node.network.adapter import LibP2PNetwork, open_network
from node.ports import Provider
from node.prompt_sealing import PeerSealing
from node.prompt_wiring import PromptParts, add_prompt_services
from node.protocol.actions import RegisterParticipant, SubmitHardwareDiff
from node.protocol.identifiers import NodeId, TokenAmount
from node.protocol.records import MLNodeRegistration
from node.services.batches import BatchService
from node.services.epochs import EpochBook
from node.services.faults import FaultBook
from node.services.frames import Prompt, Turn
from node.services.funding import Funding
from node.services.gossip import GossipRouter
from node.services.payments import PayerBook
from node.services.presence import PresenceService, PresenceTable
from node.services.prompt_asks import AskMode, AskState
from node.services.prompt_desk import PromptDesk, PromptWish
from node.services.tabs import PayeeBook
from node.store.books import Books
from node.store.database import Database
from node.supervisor import Supervisor
from tests.builders import account, key_of

PAYER = 4
NODE = NodeId("node-1")
PATIENCE_SECONDS = 60


def wall_clock() -> int:
    return int(time())


@dataclass
class Node:
    network: LibP2PNetwork
    presence: PresenceTable
    store: Books
    desk: PromptDesk


@asynccontextmanager
async def running_nodes() -> AsyncIterator[dict[int, Node]]:
    """Three executors and a payer, all present to each other."""
    trace = Trace()
    group = tuple(sorted(((account(n), 1) for n in (1, 2, 3)), key=lambda entry: entry[0].lower()))
    ledger = Ledger(replace(PARAMETERS, epoch_blocks=100_000), 0.2, 1, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    chains: dict[int, SimulatedChain] = {}
    networks: dict[int, LibP2PNetwork] = {}
    async with AsyncExitStack() as stack:
        for number in (1, 2, 3, PAYER):
            chain = chains[number] = SimulatedChain(ledger, key_of(number), confirmations=1)
            networks[number] = await stack.enter_async_context(
                open_network(
                    seed=number.to_bytes(32),
                    listen=["/ip4/127.0.0.1/tcp/0"],
                    announce=[],
                    bootstrap=[networks[1].addresses[0]] if number != 1 else [],
                    network_id="open-prompts",
                    account=chain.account,
                    sign=chain.sign,
                    wall_clock=wall_clock,
                )
            )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.produce_blocks)
            nodes = {
                number: await _add(number, chains[number], network, exchange, nursery)
                for number, network in networks.items()
            }
            with trio.fail_after(PATIENCE_SECONDS):
                while any(len(node.presence.present()) < len(nodes) for node in nodes.values()):
                    await trio.sleep(0.1)
            yield nodes
            nursery.cancel_scope.cancel()


async def _add(
    number: int, chain: SimulatedChain, network: LibP2PNetwork, exchange: ContentExchange, nursery: trio.Nursery
) -> Node:
    await chain.submit("register", RegisterParticipant(network.peer_id, simulated_consent(network.peer_id)))
    await chain.outcome("register")
    engines = [] if number == PAYER else [SimulatedEngine(NODE, MODEL_ID, "honest", 0.0, number)]
    if engines:
        await chain.submit("nodes", SubmitHardwareDiff((MLNodeRegistration(NODE, (MODEL_ID,), "simulated"),), ()))
    content = SimulatedContent(exchange, f"host-{number}", 1)
    store = Books(Database(":memory:"), chain.account)
    router = GossipRouter(network)
    presence = PresenceTable(chain, wall_clock)
    epochs = EpochBook(chain, content, store, presence)
    batches = BatchService(network, router, presence)
    payer = PayerBook(chain, store, channel_deposit=TokenAmount(10**18), budget=TokenAmount(10**24))
    payments = PayeeBook(chain, store)
    presence_service = PresenceService(
        chain, network, router, presence,
        content=Provider(f"host-{number}", 1), loaded_models=lambda: [MODEL_ID] if engines else [],
        load=lambda: 0, version="test", wall_clock=wall_clock,
    )  # fmt: skip
    supervisor = Supervisor()
    parts = PromptParts(
        chain, network, content, store, epochs, presence, batches, router, engines, payments,
        Funding(chain, payments.covered), False, None if engines else payer, FaultBook(store, wall_clock),
        PeerSealing(number.to_bytes(32)), wall_clock, make_receipt_book(chain, content, store),
    )  # fmt: skip
    desk = add_prompt_services(parts, supervisor)
    for service in (supervisor, presence_service, batches, epochs, router, payer):
        nursery.start_soon(service.run)
    return Node(network, presence, store, desk)


async def test_public_and_private_open_prompts_are_answered_once_and_paid_over_real_streams() -> None:
    async with running_nodes() as nodes:
        desk = nodes[PAYER].desk
        spent = 0
        for private in (False, True):
            wish = PromptWish(
                AskMode.OPEN, MODEL_ID, Prompt((Turn("user", "over real streams"),)), max_tokens=24, private=private
            )
            with trio.fail_after(PATIENCE_SECONDS):
                ended = await desk.until_ended((await desk.hand_in(wish)).ask_id)
            assert ended.state is AskState.ANSWERED, ended.reason
            assert ended.reason == "", "the executor has its payment"
            assert len((await desk.answer(ended)).token_ids) == ended.output_tokens > 0
            spent += ended.price
        held = [signed.voucher.cumulative for number in (1, 2, 3) for signed in nodes[number].store.received_vouchers()]
        assert sum(held) == spent > 0
