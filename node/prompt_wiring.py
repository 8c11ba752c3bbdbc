"""Puts together what answers and asks prompts that nobody streams: on chain and open by gossip."""

from collections.abc import Sequence
from dataclasses import dataclass

from node.ports import Chain, Content, Engine, Network, Sealing, Store, WallClock
from node.services.batches import BatchService
from node.services.chain_asking import ChainAsking
from node.services.chain_prompts import ChainPromptService
from node.services.epochs import EpochBook
from node.services.faults import FaultBook
from node.services.funding import Funding
from node.services.gossip import GossipRouter
from node.services.open_answering import OpenAnswering, OpenAnsweringParts
from node.services.open_asking import OpenAsking, OpenAskingParts
from node.services.open_board import OpenBoard
from node.services.payments import PayerBook
from node.services.presence import PresenceTable
from node.services.prompt_desk import PromptDesk
from node.services.receipt_book import ReceiptBookKeeper
from node.services.tabs import PayeeBook
from node.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class PromptParts:
    """What prompts need of the node."""

    chain: Chain
    network: Network
    content: Content
    store: Store
    epochs: EpochBook
    presence: PresenceTable
    batches: BatchService
    router: GossipRouter
    engines: Sequence[Engine]
    payments: PayeeBook
    """The executor's."""
    funding: Funding
    """The executor's."""
    is_free: bool
    payer: PayerBook | None
    """The gateway's; None where there is none."""
    faults: FaultBook
    """The gateway's, if there is one."""
    sealing: Sealing
    wall_clock: WallClock
    book: ReceiptBookKeeper
    """The executor's."""


def add_prompt_services(parts: PromptParts, supervisor: Supervisor) -> PromptDesk:
    """Add the services to the supervisor; return the desk where users hand in prompts. Before the router runs."""
    board = OpenBoard(parts.chain, parts.epochs, parts.presence, parts.router, parts.wall_clock)
    on_chain = ChainPromptService(parts.chain, parts.content, parts.store, parts.presence, parts.engines)
    answering = OpenAnswering(
        OpenAnsweringParts(
            parts.chain,
            parts.network,
            parts.content,
            parts.store,
            parts.epochs,
            parts.presence,
            board,
            parts.batches,
            parts.engines,
            parts.payments,
            parts.funding,
            parts.is_free,
            parts.sealing,
            parts.wall_clock,
            parts.book,
        )
    )
    asking = _open_asking(parts, board)
    chain_asking = ChainAsking(parts.chain, parts.content, parts.presence)
    desk = PromptDesk(parts.chain, parts.content, parts.store, chain_asking, asking, wall_clock=parts.wall_clock)
    supervisor.add("prompts on chain", on_chain.run)
    supervisor.add("open prompts", answering.run)
    supervisor.add("prompt desk", desk.run)
    return desk


def _open_asking(parts: PromptParts, board: OpenBoard) -> OpenAsking | None:
    if parts.payer is None:
        return None
    return OpenAsking(
        OpenAskingParts(
            parts.chain,
            parts.network,
            parts.content,
            parts.store,
            parts.epochs,
            parts.presence,
            board,
            parts.payer,
            parts.faults,
            parts.sealing,
            parts.wall_clock,
        )
    )
