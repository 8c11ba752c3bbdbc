"""The peers this node knows: their addresses, who told them, and how dialling went. Bounded, expiring, no I/O.

Whoever talks to this node can add to the book, so every addition has a limit: addresses per peer, peers altogether,
and peers that one source told without this node having reached any of them. What was reached is never pushed out by
what was only told.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2p.discovery.addresses import ADDRESS_CHARACTERS_MAX, AddressError, PeerAddress, Reach, parse_address

log = structlog.get_logger(__name__)

PEERS_MAX = 1024
"""A node keeps 64 connections and needs a few hundred others to choose from; each costs about 1 KB."""
ADDRESSES_PER_PEER_MAX = 8
"""Honest nodes have up to four: two protocols, direct and through two relays."""
UNREACHED_PER_SOURCE_MAX = 64
"""Peers that one source may tell before this node has reached them: a liar wastes so many dials, no more."""
TOLD_SECONDS = 3600
"""How long a rumour is kept that was never reached."""
CLAIMED_SECONDS = 24 * 3600
"""How long an address is kept that the peer itself told but that was never reached."""
REACHED_SECONDS = 14 * 24 * 3600
"""How long a peer is kept after it was reached last: a node that was off for a holiday finds its net again."""
RENEW_SECONDS = 600
"""A repeated success younger than this is not worth writing the file again."""
STORED_BYTES_MAX = 4 * 1024 * 1024
"""Far more than PEERS_MAX peers take; a larger file is not ours."""
FORMAT = 1


class Origin(IntEnum):
    """How an address was learned; a higher one is believed before a lower one."""

    TOLD = 0
    """A third party told it."""
    LOCAL = 1
    """Announced on the local network by mDNS."""
    CLAIMED = 2
    """The peer told it itself, over a connection that proved its identity."""
    OPERATOR = 3
    """From the settings or the command line: dialled as it stands and never forgotten."""


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """An address of a peer and what is known of it. Times are UNIX seconds, 0 for never."""

    address: PeerAddress
    origin: Origin
    source: str
    """Who told it, for the limit per source; empty for no such limit."""
    learned_at: int
    reached_at: int = 0
    successes: int = 0
    failures: int = 0
    """Since the last success."""

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """What to dial first, highest first: what was reached, what failed least, what is believed most."""
        return (self.reached_at > 0, -self.failures, int(self.origin), self.learned_at)

    def expired(self, now: int) -> bool:
        """Whether it is to be forgotten."""
        if self.origin is Origin.OPERATOR:
            return False
        if self.reached_at:
            return now - self.reached_at > REACHED_SECONDS
        return now - self.learned_at > (TOLD_SECONDS if self.origin is Origin.TOLD else CLAIMED_SECONDS)


class PeerBook:
    """Known addresses by peer."""

    def __init__(self, own_id: str, clock: Callable[[], float]) -> None:
        """`clock` gives UNIX seconds."""
        self._own_id = own_id
        self._clock = clock
        self._peers: dict[str, dict[str, KnownAddress]] = {}
        self.revision = 0
        """Changes with each change that is worth storing."""

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._peers

    def learn(self, address: PeerAddress, origin: Origin, source: str = "") -> bool:
        """Note an address; return whether it is in the book now. A lower origin never replaces a higher one."""
        if address.peer_id == self._own_id or address.port == 0 or address.reach is Reach.NOWHERE:
            return False
        known = self._peers.get(address.peer_id, {})
        now = int(self._clock())
        previous = known.get(str(address))
        if previous is not None:
            if origin >= previous.origin:
                known[str(address)] = replace(previous, origin=origin, source=source, learned_at=now)
            return True
        if not self._has_room(address.peer_id, origin, source):
            return False
        if len(known) >= ADDRESSES_PER_PEER_MAX:
            worst = min(known.values(), key=lambda each: (each.origin is Origin.OPERATOR, each.rank))
            if worst.origin is Origin.OPERATOR or (worst.reached_at and origin is Origin.TOLD):
                return False
            del known[str(worst.address)]
        known[str(address)] = KnownAddress(address, origin, source, now)
        self._peers[address.peer_id] = known
        if origin is not Origin.TOLD:
            self.revision += 1
        return True

    def claim(self, peer_id: str, addresses: Iterable[PeerAddress], source: str = "") -> None:
        """Note what a peer says of itself; what it said before and no longer says is forgotten unless it was reached.

        Addresses of others are ignored.
        """
        claimed = [address for address in addresses if address.peer_id == peer_id][:ADDRESSES_PER_PEER_MAX]
        texts = {str(address) for address in claimed}
        known = self._peers.get(peer_id, {})
        for text, each in list(known.items()):
            if each.origin is Origin.CLAIMED and not each.reached_at and text not in texts:
                del known[text]
        for address in claimed:
            self.learn(address, Origin.CLAIMED, source)
        if peer_id in self._peers and not self._peers[peer_id]:
            del self._peers[peer_id]

    def reached(self, address: PeerAddress) -> None:
        """Note that dialling an address led to the peer."""
        known = self._peers.get(address.peer_id, {}).get(str(address))
        if known is None:
            return
        now = int(self._clock())
        if now - known.reached_at > RENEW_SECONDS:
            self.revision += 1
        self._peers[address.peer_id][str(address)] = replace(
            known, reached_at=now, successes=known.successes + 1, failures=0
        )

    def failed(self, address: PeerAddress) -> None:
        """Note that dialling an address did not lead to the peer."""
        known = self._peers.get(address.peer_id, {}).get(str(address))
        if known is not None:
            self._peers[address.peer_id][str(address)] = replace(known, failures=known.failures + 1)

    def forget(self, peer_id: str) -> None:
        """Remove a peer, such as one that was banned."""
        if self._peers.pop(peer_id, None) is not None:
            self.revision += 1

    def known(self, peer_id: str) -> tuple[KnownAddress, ...]:
        """What is known of a peer, best first."""
        return tuple(sorted(self._peers.get(peer_id, {}).values(), key=lambda each: each.rank, reverse=True))

    def addresses(self, peer_id: str) -> tuple[PeerAddress, ...]:
        """Addresses of a peer, best first."""
        return tuple(each.address for each in self.known(peer_id))

    def peers(self) -> tuple[str, ...]:
        """All peers, the best to dial first: the operator's, then those reached, then those believed most."""

        def order(peer_id: str) -> tuple[bool, tuple[bool, int, int, int]]:
            known = self._peers[peer_id].values()
            return any(each.origin is Origin.OPERATOR for each in known), max(each.rank for each in known)

        return tuple(sorted(self._peers, key=order, reverse=True))

    def expire(self) -> None:
        """Forget what is too old."""
        now = int(self._clock())
        for peer_id, known in list(self._peers.items()):
            for text in [text for text, each in known.items() if each.expired(now)]:
                del known[text]
                self.revision += 1
            if not known:
                del self._peers[peer_id]

    def dump(self) -> bytes:
        """Return the book for storing: all but rumours, which are cheap to hear again."""
        rows = [
            _StoredAddress(
                address=str(each.address),
                operator=each.origin is Origin.OPERATOR,
                learned_at=each.learned_at,
                reached_at=each.reached_at,
                successes=each.successes,
                failures=each.failures,
            ).model_dump()
            for known in self._peers.values()
            for each in known.values()
            if each.origin is not Origin.TOLD or each.reached_at
        ]
        return json.dumps({"format": FORMAT, "addresses": rows}).encode()

    def load(self, data: bytes) -> int:
        """Take over a stored book; return how many addresses were read. Bad rows are left out, expired ones as well.

        An operator's address of an earlier run comes back as an ordinary one: it may have left the settings since.
        """
        if len(data) > STORED_BYTES_MAX:
            log.warning("the stored peers are not read: the file is too large", size=len(data))
            return 0
        try:
            stored = _StoredBook.model_validate_json(data)
        except ValidationError as error:
            log.warning("the stored peers can't be read; starting without them", reason=str(error.errors()[0]["msg"]))
            return 0
        now = int(self._clock())
        count = 0
        for row in stored.addresses[: PEERS_MAX * ADDRESSES_PER_PEER_MAX]:
            try:
                address = parse_address(row.address)
            except AddressError:
                continue
            if self.learn(address, Origin.CLAIMED):
                self._peers[address.peer_id][str(address)] = replace(
                    self._peers[address.peer_id][str(address)],
                    learned_at=min(row.learned_at, now),  # a clock that was wrong then must not make it eternal
                    reached_at=min(row.reached_at, now),
                    successes=row.successes,
                    failures=row.failures,
                )
                count += 1
        self.expire()
        return count

    def _has_room(self, peer_id: str, origin: Origin, source: str) -> bool:
        """Whether an address of the peer may be added, after pushing out a worse peer if the book is full."""
        if origin is Origin.OPERATOR:
            return True
        if source and peer_id not in self._peers:
            unreached = sum(
                any(each.source == source for each in known.values()) and not any(k.reached_at for k in known.values())
                for known in self._peers.values()
            )
            if unreached >= UNREACHED_PER_SOURCE_MAX:
                return False
        if peer_id in self._peers or len(self._peers) < PEERS_MAX:
            return True
        worst = self.peers()[-1]
        if any(each.reached_at or each.origin > origin for each in self._peers[worst].values()):
            return False
        del self._peers[worst]
        return True


class _StoredAddress(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    address: str = Field(max_length=ADDRESS_CHARACTERS_MAX)
    operator: bool = False
    learned_at: int = Field(ge=0)
    reached_at: int = Field(ge=0, default=0)
    successes: int = Field(ge=0, default=0)
    failures: int = Field(ge=0, default=0)


class _StoredBook(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    format: int = Field(ge=FORMAT, le=FORMAT)
    addresses: list[_StoredAddress]
