"""One executor's book of receipts on a network with an auditor."""

from dataclasses import dataclass

import trio

from netsim.content import ContentExchange, SimulatedContent
from netsim.network import SimulatedNetwork, Switchboard
from netsim.trace import Trace
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.identifiers import EpochNumber, Hash32, PeerId
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BookRow, booked_row
from node.services.receipt_book import ReceiptBookKeeper
from node.store.books import Books
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import EXECUTOR

EPOCH = EpochNumber(4)
AUDITOR, OTHER, SERVING = PeerId("auditor"), PeerId("other"), PeerId("serving")


@dataclass
class Bench:
    """One executor's keeper on a network with an auditor and somebody else."""

    keeper: ReceiptBookKeeper
    store: Books
    content: SimulatedContent
    allowed: set[tuple[PeerId, Hash32]]
    auditor: SimulatedNetwork

    def may_see(self, peer: PeerId, digest: Hash32) -> bool:
        return (peer, digest) in self.allowed

    def give(self, evidence: AuditEvidence) -> Hash32:
        """Answer a user: keep what auditors may ask for, then the receipt."""
        assert evidence.kept is not None
        self.keeper.keep(evidence.signed, evidence.kept.answer, (), evidence.request_signature)
        self.store.save_receipt(evidence.signed)
        return receipt_digest(evidence.signed.receipt)


def bench(nursery: trio.Nursery) -> Bench:
    trace = Trace()
    switchboard = Switchboard(nursery, 1, trace)
    networks = {
        name: SimulatedNetwork(switchboard, name, account(n), lambda _digest: b"")
        for n, name in enumerate((AUDITOR, OTHER, SERVING), 1)
    }
    for network in networks.values():
        switchboard.join(network)
    database = Database(":memory:")
    store = Books(database, EXECUTOR)
    content = SimulatedContent(ContentExchange(trace), "host", 1)
    keeper = ReceiptBookKeeper(content, store, GivenAnswerTables(database, EXECUTOR))
    made = Bench(keeper, store, content, set(), networks[AUDITOR])
    keeper.serve(networks[SERVING], made)
    return made


def row_of(evidence: AuditEvidence) -> BookRow:
    return booked_row(evidence.signed)
