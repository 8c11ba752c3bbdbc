"""Content that only chosen readers can read, as services see it."""

from collections.abc import Sequence
from typing import Protocol

from node.protocol.identifiers import ModelId, PeerId
from node.protocol.sealed_content import SealedContent


class SealingError(Exception):
    """Something cannot be sealed for a reader, or was not sealed for this node, or is damaged. Quotes no content."""


class Sealing(Protocol):
    """Content that only chosen readers can read."""

    @property
    def public_key(self) -> bytes:
        """This node's X25519 key: who has it can seal for this node."""

    def seal_for_peers(self, data: bytes, model_id: ModelId, peers: Sequence[PeerId]) -> SealedContent:
        """Seal for the nodes with these peer ids. Raises SealingError."""

    def seal_for_key(self, data: bytes, model_id: ModelId, public_key: bytes) -> SealedContent:
        """Seal for whoever has the private key to an X25519 key. Raises SealingError."""

    def open(self, sealed: SealedContent, model_id: ModelId) -> bytes:
        """Return what was sealed for this node and this model. Raises SealingError."""
