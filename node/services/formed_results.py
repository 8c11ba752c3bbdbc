"""Remembers the results this node formed, and from which votes, to tell later why another one differs; and those it
objected to, which it must never sign.
"""

from dataclasses import dataclass

from node.ports import Store
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32


@dataclass(frozen=True, slots=True)
class FormedResult:
    """What this node formed last for an epoch."""

    epoch: EpochNumber
    digest: Hash32
    """What members sign (EIP-712)."""
    content_cid: Cid
    counted: tuple[Address, ...]
    """Validators whose bundles counted, ascending."""
    void: tuple[Address, ...]
    """Those whose bundles broke the rules."""
    missing: tuple[Address, ...]
    """Those whose bundles were not to be had, or were left out (agreement.py)."""


def save_formed(store: Store, formed: FormedResult) -> None:
    """Keep what was formed; the last of an epoch."""
    store.put_document(_key(formed.epoch), to_bytes(formed))


def load_formed(store: Store, epoch: EpochNumber) -> FormedResult | None:
    """Return what this node formed for `epoch`, if it did."""
    data = store.get_document(_key(epoch))
    try:
        return None if data is None else from_bytes(FormedResult, data)
    except SchemaError:
        return None  # by another version of the daemon


def _key(epoch: EpochNumber) -> str:
    return f"formed/{epoch}"


OBJECTED = b"objected"


def save_objected(store: Store, epoch: EpochNumber, digest: Hash32) -> None:
    """Keep that this node objects to a result: before the objection is signed."""
    store.put_document(_objected_key(epoch, digest), OBJECTED)


def has_objected(store: Store, epoch: EpochNumber, digest: Hash32) -> bool:
    """Whether this node has objected to a result of `epoch`, or was about to when it stopped."""
    return store.get_document(_objected_key(epoch, digest)) == OBJECTED


def _objected_key(epoch: EpochNumber, digest: Hash32) -> str:
    return f"objected/{epoch}/{digest.hex()}"
