"""Proofs of omissions in the store, one document each: written as they are found or come, so that no restart loses one.

*Detail.* Of one epoch: those that this node's watch found, with who was told of them, and those that others handed to
it. What the loss of power takes of its own is found again; what was handed over is on the disk before its giver hears
that it was taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from node.ports import Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import Omission

log = structlog.get_logger(__name__)

KIND = "omissions"
"""What the documents' names begin with, before the epoch (tidying.py)."""
OWN, HANDED = "own", "handed"


@dataclass(frozen=True, slots=True)
class KeptOmission:
    """A proof as it is stored."""

    omission: Omission
    told: tuple[Address, ...] = ()
    """Members that took it from this node, for their bundles."""


class KeptOmissions:
    """The proofs of one epoch, by receipt digest."""

    def __init__(self, store: Store, epoch: EpochNumber) -> None:
        """Read what is stored; what cannot be read is forgotten."""
        self._store = store
        self.epoch = epoch
        self._own = self._load(OWN)
        self._handed = self._load(HANDED)

    @property
    def own(self) -> Sequence[KeptOmission]:
        """What this node found."""
        return tuple(self._own.values())

    @property
    def handed(self) -> Sequence[Omission]:
        """What others handed to this node."""
        return tuple(kept.omission for kept in self._handed.values())

    def has_own(self, digest: Hash32) -> bool:
        """Whether this node found that already."""
        return digest in self._own

    def has_handed(self, digest: Hash32) -> bool:
        """Whether that was handed over already."""
        return digest in self._handed

    def add_own(self, omission: Omission) -> None:
        """Keep what the watch found. Does not wait for the disk."""
        self._put(OWN, KeptOmission(omission))

    def note_told(self, omission: Omission, member: Address) -> None:
        """Note that a member took what this node found."""
        known = self._own[receipt_digest(omission.signed.receipt)]
        self._put(OWN, replace(known, told=(*known.told, member)))

    def add_handed(self, omission: Omission) -> None:
        """Keep what was handed over; it survives the loss of power when this returns."""
        kept, digest = KeptOmission(omission), receipt_digest(omission.signed.receipt)
        self._store.put_document(self._document(HANDED, digest), to_bytes(kept))
        self._handed[digest] = kept

    def drop_handed(self, digest: Hash32) -> None:
        """Forget what was handed over, to make room."""
        del self._handed[digest]
        self._store.forget_document(self._document(HANDED, digest))

    def _put(self, part: str, kept: KeptOmission) -> None:
        digest = receipt_digest(kept.omission.signed.receipt)
        self._store.put_documents({self._document(part, digest): to_bytes(kept)})
        self._own[digest] = kept

    def _document(self, part: str, digest: Hash32) -> str:
        return f"{KIND}/{self.epoch}/{part}/{digest.hex()}"

    def _load(self, part: str) -> dict[Hash32, KeptOmission]:
        found: dict[Hash32, KeptOmission] = {}
        for key in self._store.document_keys(f"{KIND}/{self.epoch}/{part}/"):
            try:
                kept = from_bytes(KeptOmission, self._store.get_document(key) or b"")
            except SchemaError as error:
                log.error("a stored proof of an omission cannot be read; it is forgotten", reason=str(error)[:200])
                self._store.forget_document(key)
                continue
            found[receipt_digest(kept.omission.signed.receipt)] = kept
        return found


def forget_handed(store: Store, before: EpochNumber) -> None:
    """Forget what others handed over for bundles of epochs before `before`: it is decided. What this node found itself
    stays as long as other documents of its epoch, for people to look at."""
    for key in store.document_keys(f"{KIND}/"):
        _, epoch, part, *_ = key.split("/")
        if part == HANDED and int(epoch) < before:
            store.forget_document(key)
