"""Wires what a daemon does about audits: its book of receipts, and the service that audits others."""

import random
import time
from collections.abc import Sequence

from node.amounts import tokens_to_amount
from node.ports import Chain, Content, Network
from node.services.auditing import AuditingService
from node.services.challenge_book import ChallengeBook
from node.services.decoys import DecoyLimits, DecoyService, are_of_use
from node.services.epochs import EpochBook
from node.services.gateway import Gateway
from node.services.presence import PresenceTable
from node.services.receipt_book import ReceiptBookKeeper
from node.services.request_shapes import ShapeBook
from node.settings import Settings
from node.store.books import Books
from node.store.given_answers import VECTORS_BYTES_MAX, GivenAnswerTables
from node.supervisor import Supervisor


def make_receipt_book(
    chain: Chain, content: Content, store: Books, *, vectors_bytes_max: int = VECTORS_BYTES_MAX
) -> ReceiptBookKeeper:
    """Return what keeps the answers that this daemon gives."""
    given = GivenAnswerTables(store.database, chain.account, vectors_bytes_max=vectors_bytes_max)
    return ReceiptBookKeeper(content, store, given)


def add_auditing(
    settings: Settings,
    chain: Chain,
    network: Network,
    content: Content,
    store: Books,
    presence: PresenceTable,
    epochs: EpochBook,
    gateway: Gateway | None,
    engines: Sequence[object],
    keeper: ReceiptBookKeeper,
    book: ChallengeBook,
    supervisor: Supervisor,
) -> AuditingService:
    """Add the services to the supervisor; return the one that whoever commits votes asks for its own.

    What is in `book` is challenged. Decoys are asked if any are wanted and there is a gateway to ask; what a gateway
    has at hand of private answers is forgotten in time.
    """
    auditing = AuditingService(chain, network, content, store, presence, epochs, engines, keeper)
    supervisor.add("auditing", auditing.run)
    if gateway is not None:
        supervisor.add("private answers", gateway.at_hand.run)
        auditing.omission_keeping.on_made_up = gateway.faults.add_made_up
    auditing.challenges = book
    if settings.payments.decoys_per_day and gateway is not None:
        supervisor.add("decoys", _make_decoys(settings, chain, store, epochs, gateway, engines, keeper, book).run)
    return auditing


def _make_decoys(
    settings: Settings,
    chain: Chain,
    store: Books,
    epochs: EpochBook,
    gateway: Gateway,
    engines: Sequence[object],
    keeper: ReceiptBookKeeper,
    book: ChallengeBook,
) -> DecoyService:
    """Return the service, and have the gateway tell of the answered requests that decoys are shaped like."""
    shapes = ShapeBook()
    gateway.on_answered = lambda chat: shapes.note(chat, int(time.time()))
    payments = settings.payments
    return DecoyService(
        chain,
        store,
        epochs,
        gateway.ask_decoy,
        gateway.at_hand,
        engines,
        keeper.given,
        book,
        shapes,
        DecoyLimits(payments.decoys_per_day, tokens_to_amount(payments.decoys_cost_per_day_max)),
        is_of_use=lambda: are_of_use(chain.account, epochs.group(), gateway.payer.deposits.locked()),
        wall_clock=lambda: int(time.time()),
        source=random.SystemRandom(),
    )
