"""Kademlia without I/O: distances, the table of peers by distance, and one lookup's state.

The key space is that of libp2p: SHA-256 of the peer id's bytes or of the content's multihash, compared by XOR.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import base58

from p2p.discovery.addresses import PeerAddress

REPLICATION = 20
"""Peers closest to a key that are asked and told (k of the paper, as in libp2p)."""
PARALLEL_QUERIES = 3
"""Queries of one lookup at once (α)."""
KEY_BITS = 256
BUCKET_PEERS_MAX = REPLICATION
QUERIES_MAX = 60
"""In one lookup: three times what a network of a million nodes needs. Inventing ever closer peers ends here."""
CLOSER_PEERS_MAX = REPLICATION
"""Taken from one answer."""
INVENTED_SHARE_MAX = 10
"""Candidates that one peer may add to a lookup: with more, a single liar could crowd out everybody else."""


def key_of(data: bytes) -> int:
    """Position in the key space of a peer id's bytes or a content's multihash."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


def peer_key(peer_id: str) -> int:
    """Position in the key space of a peer."""
    return key_of(base58.b58decode(peer_id))


def bucket_of(own: int, other: int) -> int:
    """Index of the bucket: how many leading bits two keys share."""
    return KEY_BITS - (own ^ other).bit_length()


class RoutingTable:
    """Peers that were seen to serve the DHT, by distance from this node. Old ones stay while they answer."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._own_key = peer_key(own_id)
        self._buckets: dict[int, dict[str, int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __contains__(self, peer_id: object) -> bool:
        return any(peer_id in bucket for bucket in self._buckets.values())

    def add(self, peer_id: str) -> bool:
        """Add a peer that serves the DHT; return whether it is in the table. A full bucket keeps those it has."""
        if peer_id == self._own_id:
            return False
        key = peer_key(peer_id)
        bucket = self._buckets.setdefault(bucket_of(self._own_key, key), {})
        if peer_id not in bucket and len(bucket) >= BUCKET_PEERS_MAX:
            return False
        bucket[peer_id] = key
        return True

    def remove(self, peer_id: str) -> None:
        """Remove a peer that did not answer."""
        for index, bucket in list(self._buckets.items()):
            if bucket.pop(peer_id, None) is not None and not bucket:
                del self._buckets[index]

    def closest(self, target: int, count: int = REPLICATION) -> list[str]:
        """The peers closest to a key, closest first."""
        entries = [entry for bucket in self._buckets.values() for entry in bucket.items()]
        return [peer_id for peer_id, key in sorted(entries, key=lambda entry: entry[1] ^ target)[:count]]


class _State(Enum):
    UNASKED = "unasked"
    ASKED = "asked"
    ANSWERED = "answered"
    FAILED = "failed"


@dataclass(slots=True)
class _Candidate:
    distance: int
    state: _State = _State.UNASKED
    addresses: tuple[PeerAddress, ...] = ()
    teller: str = ""


@dataclass(slots=True)
class Lookup:
    """The state of one search for the peers closest to a key. `own_id` is never asked."""

    target: int
    own_id: str
    queries: int = 0
    _candidates: dict[str, _Candidate] = field(default_factory=dict)

    def add(self, peer_id: str, addresses: Sequence[PeerAddress] = (), teller: str = "") -> bool:
        """Note a peer that may be close; return whether it is new. `teller` is who told, empty for ourselves."""
        if peer_id == self.own_id or peer_id in self._candidates:
            return False
        if teller and sum(each.teller == teller for each in self._candidates.values()) >= INVENTED_SHARE_MAX:
            return False
        self._candidates[peer_id] = _Candidate(
            peer_key(peer_id) ^ self.target, _State.UNASKED, tuple(addresses), teller
        )
        return True

    def take(self) -> tuple[str, tuple[PeerAddress, ...]] | None:
        """Return whom to ask next, and where it is; None while or after all of the closest are asked."""
        if self.queries >= QUERIES_MAX:
            return None
        for peer_id in self._nearest():
            if self._candidates[peer_id].state is _State.UNASKED:
                self._candidates[peer_id].state = _State.ASKED
                self.queries += 1
                return peer_id, self._candidates[peer_id].addresses
        return None

    def answered(self, peer_id: str, closer: Iterable[tuple[str, Sequence[PeerAddress]]]) -> None:
        """Note the answer of a peer."""
        self._candidates[peer_id].state = _State.ANSWERED
        told = sorted(closer, key=lambda each: peer_key(each[0]) ^ self.target)
        for other, addresses in told[:CLOSER_PEERS_MAX]:
            self.add(other, addresses, peer_id)

    def failed(self, peer_id: str) -> None:
        """Note that a peer gave no answer: it is not among the closest."""
        self._candidates[peer_id].state = _State.FAILED

    def closest(self) -> list[str]:
        """Those that answered, closest first."""
        answered = [peer for peer, each in self._candidates.items() if each.state is _State.ANSWERED]
        return sorted(answered, key=lambda peer: self._candidates[peer].distance)[:REPLICATION]

    def _nearest(self) -> list[str]:
        """The closest that have not failed."""
        alive = [peer for peer, each in self._candidates.items() if each.state is not _State.FAILED]
        return sorted(alive, key=lambda peer: self._candidates[peer].distance)[:REPLICATION]
