"""What a simulated node finds again after a restart, and its books over it.

Results and votes are large, and a node keeps them both as content and in its books. Two hundred nodes would hold two
hundred copies of each result, for every epoch: here large documents are kept beside the database, as the very bytes
that are in the content store as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from netsim.chain import SimulatedChain
from netsim.content import SimulatedContent
from node.protocol.identifiers import Address
from node.store.books import Books
from node.store.database import Database

LARGE_BYTES_MIN = 4096
"""Of a document: smaller ones are in the database, as on a real disk."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A node's database, its content, and its transactions and their outcomes."""

    chain: SimulatedChain
    content: SimulatedContent
    database: Database
    large_documents: dict[str, bytes] = field(default_factory=dict)
    """By key; what the database may have under the same key is older."""


class SimulatedBooks(Books):
    """A node's books over its simulated disk."""

    def __init__(self, disk: Disk, account: Address) -> None:
        super().__init__(disk.database, account)
        self._large = disk.large_documents

    def put_document(self, key: str, data: bytes) -> None:
        """Keep a document, replacing one of the same key."""
        if len(data) >= LARGE_BYTES_MIN:
            self._large[key] = data
        else:
            self._large.pop(key, None)
            super().put_document(key, data)

    def put_documents(self, documents: Mapping[str, bytes]) -> None:
        """Keep documents by their keys; nothing can come between."""
        for key, data in documents.items():
            self.put_document(key, data)

    def get_document(self, key: str) -> bytes | None:
        """Return a document or None."""
        large = self._large.get(key)
        return super().get_document(key) if large is None else large

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        """The keys of all documents that begin so, ascending."""
        large = {key for key in self._large if key.startswith(prefix)}
        return tuple(sorted(large.union(super().document_keys(prefix))))

    def forget_document(self, key: str) -> None:
        """Forget a document, and what is older under the same key, if there is one."""
        self._large.pop(key, None)
        super().forget_document(key)
