"""One simulated node: the daemon's own services over simulated ports."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from coincurve import PrivateKey

from netsim.chain import SimulatedChain
from netsim.clock import wall_clock
from netsim.conduct import HONEST, NODE_ID, Conduct, EngineSetting
from netsim.content import ContentExchange, SimulatedContent
from netsim.disks import Disk, SimulatedBooks
from netsim.ledger import Ledger
from netsim.network import Switchboard
from node.ports import Provider
from node.protocol.identifiers import Address, ModelId, PeerId, TokenAmount
from node.protocol.records import MLNodeRegistration
from node.protocol.signatures import address_of
from node.services.auditing import AuditingService
from node.services.batches import BatchService
from node.services.broker import Broker
from node.services.brokered import brokered
from node.services.chain_prompts import ChainPromptService
from node.services.epochs import EpochBook
from node.services.executor import Executor
from node.services.forming import FormingService
from node.services.gateway import Gateway
from node.services.gossip import GossipRouter
from node.services.mining import MiningService
from node.services.objecting import ObjectingService
from node.services.objections_heard import ObjectionsHeard
from node.services.observing import Observer
from node.services.payments import PayerBook
from node.services.poc_slots import PocSlots
from node.services.presence import PresenceService, PresenceTable
from node.services.punishing import PunishingService
from node.services.receipt_book import ReceiptBookKeeper
from node.services.redeem_policy import RedeemPolicy
from node.services.redeeming import RedeemingService
from node.services.registration import RegistrationService
from node.services.settling import SettlingService
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables

CONFIRMATIONS = 2
CONTENT_PORT = 1
UNPAID_TOKENS_MAX = 16
CHANNEL_DEPOSIT = TokenAmount(10**18)
BUDGET = TokenAmount(1000 * 10**18)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """Who a node is and what its engine really runs."""

    number: int
    seed: int
    weights: str
    nonces_max: int
    answers_with: str = ""
    """What its engine answers users with, if not with the weights that it proves."""

    @property
    def key(self) -> PrivateKey:
        """Its account key: the same in every run."""
        return PrivateKey((1_000_000 * (self.seed + 1) + self.number + 1).to_bytes(32))

    @property
    def account(self) -> Address:
        """Its account."""
        return address_of(self.key.public_key)

    @property
    def peer_id(self) -> PeerId:
        """Its name in the network."""
        return PeerId(f"peer-{self.number:05}")

    @property
    def host(self) -> str:
        """Where its content is to be had, at CONTENT_PORT."""
        return f"host-{self.number}"


User = Callable[[Gateway], Awaitable[None]]
"""Somebody who asks a gateway, beside its services."""


def new_disk(plan: NodePlan, ledger: Ledger, exchange: ContentExchange) -> Disk:
    """What a node begins with that never ran before."""
    return Disk(
        SimulatedChain(ledger, plan.key, confirmations=CONFIRMATIONS),
        SimulatedContent(exchange, plan.host, CONTENT_PORT),
        Database(":memory:"),
    )


async def run_node(
    plan: NodePlan,
    model_id: ModelId,
    ledger: Ledger,
    switchboard: Switchboard,
    exchange: ContentExchange,
    user: User | None = None,
    conduct: Conduct = HONEST,
    disk: Disk | None = None,
) -> None:
    """Run a node until cancelled. With a `user` it is a gateway as well. With the `disk` of a run before it goes on."""
    disk = disk or new_disk(plan, ledger, exchange)
    chain, content = disk.chain, disk.content
    conduct.prepare(plan.account, chain, content)
    network = conduct.network(switchboard, plan.peer_id, plan.account, chain.sign)
    engine = conduct.engine(EngineSetting(model_id, plan.weights, plan.number, plan.answers_with))
    store = SimulatedBooks(disk, plan.account)
    router = GossipRouter(network)
    presence = PresenceTable(chain, wall_clock)
    epochs = EpochBook(chain, content, store, presence)
    slots = PocSlots(chain, epochs)
    batches = BatchService(network, router, presence)
    broker = Broker([engine])
    (duty,) = brokered([engine], broker)
    book = ReceiptBookKeeper(content, store, GivenAnswerTables(store.database, plan.account))
    auditor = conduct.auditing_engine(engine, broker)
    auditing = AuditingService(
        chain,
        network,
        content,
        store,
        presence,
        epochs,
        [auditor],
        book,
        random_bytes=random.Random(f"lots of {plan.seed}/{plan.number}").randbytes,
    )
    executor = Executor(
        chain,
        network,
        store,
        epochs,
        batches,
        broker,
        unpaid_tokens_max=UNPAID_TOKENS_MAX,
        wall_clock=wall_clock,
        random_bytes=random.Random(f"secrets of {plan.seed}/{plan.number}").randbytes,
        book=book,
    )
    observer = Observer(chain, epochs, presence, store)
    forming = FormingService(chain, network, content, store, presence, epochs, slots, router)
    services = (
        RegistrationService(chain, network, [MLNodeRegistration(NODE_ID, (model_id,), "simulated")]),
        PresenceService(
            chain,
            network,
            router,
            presence,
            content=Provider(f"host-{plan.number}", CONTENT_PORT),
            loaded_models=lambda: [model_id],
            load=lambda: broker.load,
            version="simulated",
            wall_clock=wall_clock,
            seeds=executor.seeds.announcement,
        ),
        epochs,
        batches,
        ChainPromptService(chain, content, store, presence, [duty]),
        MiningService(
            chain,
            content,
            conduct.mining_engine(engine, broker, chain),
            slots,
            nonces_max=plan.nonces_max,
        ),
        auditing,
        observer,
        conduct.validator(chain, content, store, presence, epochs, [duty], auditing, observer.take),
        forming,
        ObjectingService(
            chain,
            network,
            content,
            store,
            presence,
            epochs,
            slots,
            forming.signatures,
            ObjectionsHeard(chain, router),
        ),
        PunishingService(chain, network, store, epochs, router),
        SettlingService(chain, epochs, claim_rewards=True),
        RedeemingService(chain, store, RedeemPolicy()),
        router,
    )
    switchboard.join(network)
    async with trio.open_nursery() as nursery:
        for service in services:
            nursery.start_soon(service.run)
        if user is not None:
            payer = PayerBook(chain, store, channel_deposit=CHANNEL_DEPOSIT, budget=BUDGET)
            nursery.start_soon(payer.run)
            gateway = Gateway(
                chain,
                network,
                store,
                epochs,
                presence,
                batches,
                payer,
                wall_clock=wall_clock,
                random_bytes=random.Random(f"{plan.seed}/{plan.number}").randbytes,
            )
            nursery.start_soon(user, gateway)
