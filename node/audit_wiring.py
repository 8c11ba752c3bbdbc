"""Wires what a daemon does about audits: its book of receipts, and the service that audits others."""

from collections.abc import Sequence

from node.ports import Chain, Content, Network
from node.services.auditing import AuditingService
from node.services.epochs import EpochBook
from node.services.presence import PresenceTable
from node.services.receipt_book import ReceiptBookKeeper
from node.store.books import Books
from node.store.given_answers import GivenAnswerTables
from node.supervisor import Supervisor


def make_receipt_book(chain: Chain, content: Content, store: Books) -> ReceiptBookKeeper:
    """Return what keeps the answers that this daemon gives."""
    return ReceiptBookKeeper(content, store, GivenAnswerTables(store.database, chain.account))


def add_auditing(
    chain: Chain,
    network: Network,
    content: Content,
    store: Books,
    presence: PresenceTable,
    epochs: EpochBook,
    engines: Sequence[object],
    keeper: ReceiptBookKeeper,
    supervisor: Supervisor,
) -> AuditingService:
    """Add the service to the supervisor, and return it for whoever commits its votes."""
    auditing = AuditingService(chain, network, content, store, presence, epochs, engines, keeper)
    supervisor.add("auditing", auditing.run)
    return auditing
