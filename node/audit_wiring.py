"""Wires what a daemon does about audits: its book of receipts, and the service that audits others."""

import random
from collections.abc import Sequence

from node.ports import Chain, Content, Network
from node.services.auditing import AuditingService
from node.services.decoys import DecoyService
from node.services.epochs import EpochBook
from node.services.gateway import Gateway
from node.services.presence import PresenceTable
from node.services.receipt_book import ReceiptBookKeeper
from node.settings import Settings
from node.store.books import Books
from node.store.given_answers import VECTORS_BYTES_MAX, GivenAnswerTables
from node.supervisor import Supervisor

SECONDS_PER_DAY = 86_400


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
    supervisor: Supervisor,
) -> AuditingService:
    """Add the services to the supervisor; return the one that whoever commits votes asks for its own.

    Decoys are asked if any are wanted and there is a gateway to ask.
    """
    auditing = AuditingService(chain, network, content, store, presence, epochs, engines, keeper)
    supervisor.add("auditing", auditing.run)
    if gateway is not None:
        auditing.omission_keeping.on_made_up = gateway.faults.add_made_up
    per_day = settings.payments.decoys_per_day
    if per_day and gateway is not None:
        decoys = DecoyService(
            chain,
            store,
            epochs,
            gateway.ask,
            engines,
            keeper.given,
            seconds_between=SECONDS_PER_DAY / per_day,
            source=random.SystemRandom(),
        )
        auditing.challenges = decoys
        supervisor.add("decoys", decoys.run)
    return auditing
