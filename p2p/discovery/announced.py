"""Which addresses this node tells its peers, and why: one pure function over what is known of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from p2p.discovery.addresses import PeerAddress, Reach

ANNOUNCED_MAX = 8
"""What peers keep of one node."""


class Reachability(StrEnum):
    """Whether peers that dialled back got through (AutoNAT)."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


class AddressOrigin(StrEnum):
    """Where an announced address comes from."""

    SETTINGS = "settings"
    LISTENING = "listening"
    MAPPED = "mapped by the router (UPnP)"
    OBSERVED = "observed by peers"
    RELAYED = "through a relay"


@dataclass(frozen=True, slots=True)
class AnnouncedAddress:
    """An address of this node and where it comes from."""

    address: PeerAddress
    origin: AddressOrigin


def choose_addresses(
    *,
    configured: Sequence[PeerAddress],
    listening: Sequence[PeerAddress],
    mapped: Sequence[PeerAddress],
    observed: Sequence[PeerAddress],
    relayed: Sequence[PeerAddress],
    reachability: Reachability,
) -> list[AnnouncedAddress]:
    """Return what to announce, best first.

    What the operator configured is announced alone: who writes addresses down knows better. Otherwise those listened
    at and mapped; those observed only after peers got through, because anybody can say that he observed something; and
    relayed ones unless peers get through directly.
    """
    if configured:
        return _bounded(AnnouncedAddress(address, AddressOrigin.SETTINGS) for address in configured)
    direct = [
        *(AnnouncedAddress(address, AddressOrigin.MAPPED) for address in mapped),
        *(AnnouncedAddress(address, AddressOrigin.LISTENING) for address in listening),
    ]
    if reachability is Reachability.PUBLIC:
        direct += (AnnouncedAddress(address, AddressOrigin.OBSERVED) for address in observed)
    direct.sort(key=lambda each: -each.address.reach)  # stable: the origin decides between equals
    through = [] if reachability is Reachability.PUBLIC else relayed
    return _bounded((*direct, *(AnnouncedAddress(address, AddressOrigin.RELAYED) for address in through)))


def _bounded(addresses: Iterable[AnnouncedAddress]) -> list[AnnouncedAddress]:
    """Each once, those that can be dialled, relayed ones not crowded out by many interfaces."""
    unique = {each.address: each for each in reversed(list(addresses)) if each.address.port}
    kept = [each for each in reversed(unique.values()) if each.address.reach is not Reach.NOWHERE]
    direct = [each for each in kept if each.origin is not AddressOrigin.RELAYED]
    through = [each for each in kept if each.origin is AddressOrigin.RELAYED]
    return [*direct[: ANNOUNCED_MAX - min(len(through), 2)], *through][:ANNOUNCED_MAX]
