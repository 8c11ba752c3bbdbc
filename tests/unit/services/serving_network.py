"""A small network of real services over the simulator's ports: one gateway, some executors, one chain."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import base58
import trio
from nacl.signing import SigningKey

from netsim.chain import SimulatedChain
from netsim.clock import wall_clock
from netsim.content import ContentExchange, SimulatedContent
from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.network import SimulatedNetwork, Switchboard
from netsim.scenario import MODEL, MODEL_ID, PARAMETERS
from netsim.trace import Trace
from node.ports import Engine, Provider
from node.prompt_sealing import PeerSealing
from node.protocol.identifiers import NodeId, PeerId, TokenAmount
from node.protocol.peer_binding import PEER_KEY_PREFIX
from node.protocol.records import MLNodeRegistration
from node.services.batches import BatchService
from node.services.broker import Broker
from node.services.chain_asking import ChainAsking
from node.services.chain_prompts import ChainPromptService
from node.services.epochs import EpochBook
from node.services.executor import Executor
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.open_answering import OpenAnswering, OpenAnsweringParts
from node.services.open_asking import OpenAsking, OpenAskingParts
from node.services.open_board import OpenBoard
from node.services.payments import PayerBook
from node.services.presence import PresenceService, PresenceTable
from node.services.prompt_desk import PromptDesk
from node.services.redeem_policy import RedeemPolicy
from node.services.redeeming import RedeemingService
from node.services.registration import RegistrationService
from node.services.settling import SettlingService
from node.services.terms import FreeMode
from node.store.books import Books
from node.store.database import Database
from tests.builders import account, key_of

NODE = NodeId("node-1")
UNIT = PARAMETERS.unit_price * MODEL.units_of_compute_per_token
UNPAID_TOKENS_MAX = 16
PLACES = 4
"""Requests that an executor's first ML node runs at once."""
DEPOSIT = TokenAmount(10**18)
GATEWAY = 100
PLENTY = TokenAmount(10**24)


@dataclass
class Member:
    """One node and the parts tests look at."""

    number: int
    chain: SimulatedChain
    network: SimulatedNetwork
    content: SimulatedContent
    store: Books
    presence: PresenceTable
    epochs: EpochBook
    payer: PayerBook
    engine: Engine | None
    executor: Executor | None = None
    gateway: Gateway | None = None
    board: OpenBoard | None = None
    asking: OpenAsking | None = None
    answering: OpenAnswering | None = None
    desk: PromptDesk | None = None


@dataclass
class ServingNetwork:
    """All nodes, by number; the gateway has number GATEWAY."""

    ledger: Ledger
    switchboard: Switchboard
    members: dict[int, Member] = field(default_factory=dict)

    @property
    def gateway(self) -> Gateway:
        found = self.members[GATEWAY].gateway
        assert found is not None
        return found

    @property
    def desk(self) -> PromptDesk:
        found = self.members[GATEWAY].desk
        assert found is not None
        return found

    def paid_to(self, number: int) -> int:
        """Newest voucher that executor holds from the gateway."""
        return sum(signed.voucher.cumulative for signed in self.members[number].store.received_vouchers())

    def paid_by_gateway(self) -> int:
        return sum(signed.voucher.cumulative for signed in self.members[GATEWAY].store.issued_vouchers())


EngineMaker = Callable[[int], Engine | Sequence[Engine]]
NOBODY_IS_FREE: Mapping[int, FreeMode] = {}


def peer_seed_of(number: int) -> bytes:
    return number.to_bytes(32)


def peer_of(number: int) -> PeerId:
    """A real peer id: sealed prompts are encrypted to it."""
    key = bytes(SigningKey(peer_seed_of(number)).verify_key)
    return PeerId(base58.b58encode(PEER_KEY_PREFIX + key).decode())


def honest_engine(number: int) -> Engine:
    return SimulatedEngine(NODE, MODEL_ID, "honest", 0.0, number)


@asynccontextmanager
async def serving_network(
    executors: int = 2,
    *,
    engine: EngineMaker = honest_engine,
    budget: TokenAmount = PLENTY,
    free: Mapping[int, FreeMode] = NOBODY_IS_FREE,
) -> AsyncIterator[ServingNetwork]:
    """Run a network whose executors 1..n are registered, present and ready."""
    trace = Trace()
    group = tuple(sorted(((account(n), 1) for n in range(1, executors + 1)), key=lambda e: e[0].lower()))
    ledger = Ledger(PARAMETERS, 2.0, 1, trace, group)
    ledger.register_model(MODEL)
    exchange = ContentExchange(trace)
    async with trio.open_nursery() as nursery:
        switchboard = Switchboard(nursery, 1, trace)
        network = ServingNetwork(ledger, switchboard)
        nursery.start_soon(ledger.produce_blocks)
        for number in (*range(1, executors + 1), GATEWAY):
            made = engine(number) if number != GATEWAY else None
            network.members[number] = _add(number, nursery, network, exchange, made, budget, free.get(number))
        await trio.sleep(30)  # virtual: registrations are confirmed, presence has gone round
        yield network
        nursery.cancel_scope.cancel()


def _add(
    number: int,
    nursery: trio.Nursery,
    serving: ServingNetwork,
    exchange: ContentExchange,
    made: Engine | Sequence[Engine] | None,
    budget: TokenAmount,
    free: FreeMode | None,
) -> Member:
    chain = SimulatedChain(serving.ledger, key_of(number), confirmations=1)
    network = SimulatedNetwork(serving.switchboard, peer_of(number), chain.account, chain.sign)
    content = SimulatedContent(exchange, f"host-{number}", 1)
    store = Books(Database(":memory:"), chain.account)
    router = GossipRouter(network)
    presence = PresenceTable(chain, wall_clock)
    epochs = EpochBook(chain, content, store, presence)
    batches = BatchService(network, router, presence)
    payer = PayerBook(chain, store, channel_deposit=DEPOSIT, budget=budget)
    engines = [] if made is None else [*made] if isinstance(made, Sequence) else [made]
    engine = engines[0] if engines else None
    member = Member(number, chain, network, content, store, presence, epochs, payer, engine)
    nodes = [MLNodeRegistration(engine.node_id, (MODEL_ID,), "simulated") for engine in engines]
    if engine is not None:
        member.executor = Executor(
            chain, network, store, epochs, batches, Broker(engines, {NODE: PLACES}),
            unpaid_tokens_max=UNPAID_TOKENS_MAX, wall_clock=wall_clock, free=free,
        )  # fmt: skip
    else:
        member.gateway = Gateway(
            chain, network, store, epochs, presence, batches, payer, wall_clock=wall_clock, answers_kept_max=100,
            random_bytes=lambda count: bytes([number]) * count,
        )  # fmt: skip
    presence_service = PresenceService(
        chain, network, router, presence,
        content=Provider(f"host-{number}", 1),
        loaded_models=lambda: [MODEL_ID] if engine is not None else [],
        load=lambda: 0, version="test", wall_clock=wall_clock, free=free is not None,
        seeds=None if member.executor is None else member.executor.seeds.announcement,
    )  # fmt: skip
    serving.switchboard.join(network)
    for service in (
        RegistrationService(chain, network, nodes),
        presence_service,
        epochs,
        batches,
        router,
        ChainPromptService(chain, content, store, presence, engines),
        *_open_prompts(member, router, batches, is_free=free is not None),
        SettlingService(chain, epochs, claim_rewards=True),
        RedeemingService(chain, store, RedeemPolicy()),
        payer,
    ):
        nursery.start_soon(service.run)
    return member


def _open_prompts(
    member: Member, router: GossipRouter, batches: BatchService, *, is_free: bool
) -> tuple[OpenAnswering | PromptDesk, ...]:
    """Add a node's part in open prompts; return what of it runs."""
    chain, network, content, store = member.chain, member.network, member.content, member.store
    member.board = OpenBoard(chain, member.epochs, member.presence, router, wall_clock)
    sealing = PeerSealing(peer_seed_of(member.number))
    if member.executor is None:
        assert member.gateway is not None
        member.asking = OpenAsking(
            OpenAskingParts(
                chain, network, content, store, member.epochs, member.presence, member.board, member.payer,
                member.gateway.faults, sealing, wall_clock,
            )
        )  # fmt: skip
        chain_asking = ChainAsking(chain, content, member.presence)
        member.desk = PromptDesk(chain, content, store, chain_asking, member.asking, wall_clock=wall_clock)
        return (member.desk,)
    assert member.engine is not None
    member.answering = OpenAnswering(
        OpenAnsweringParts(
            chain, network, content, store, member.epochs, member.presence, member.board, batches, [member.engine],
            member.executor.payments, member.executor.funding, is_free, sealing, wall_clock,
        )
    )  # fmt: skip
    return (member.answering,)


async def fund(network: ServingNetwork) -> None:
    """Have the channels to all executors funded, so that no test waits for the chain."""
    for number in network.members:
        if number != GATEWAY:
            await network.members[GATEWAY].payer.reserve(account(number), TokenAmount(1))


def next_request(network: ServingNetwork, seed: int) -> None:
    network.gateway._random_bytes = lambda count: bytes([seed]) * count
