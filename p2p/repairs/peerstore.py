"""The library's memory of peers: bounded in each peer as well as in their number.

libp2p 0.8.1 keeps whatever a peer says of itself when it identifies: a mebibyte of protocols, a thousand addresses; and
a signed record of every peer it ever met. Watched by
test_an_unguarded_host_remembers_a_mebibyte_of_each_peer_but_ours_does_not. What a node knows across restarts, and whom
it trusts, is p2p/discovery's.
"""

from collections.abc import Sequence
from typing import Any

from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from multiaddr import Multiaddr

ADDRESSES_MAX = 32
ADDRESS_BYTES_MAX = 256
PROTOCOLS_MAX = 128
PROTOCOL_CHARACTERS_MAX = 128
RECORD_BYTES_MAX = 16 * 1024
PEERS_MAX = 1000


class BoundedPeerStore(PeerStore):
    """The library's, with less in it."""

    def __init__(self) -> None:
        super().__init__(max_records=PEERS_MAX, max_peers=PEERS_MAX)

    def add_addrs(self, peer_id: ID, addrs: Sequence[Multiaddr], ttl: int = 0) -> None:
        """As the library's, for the first few; those that were there already stay."""
        fitting = [address for address in addrs if len(address.to_bytes()) <= ADDRESS_BYTES_MAX]
        data = self.peer_data_map.get(peer_id)
        known = [] if data is None else data.get_addrs()
        room = max(0, ADDRESSES_MAX - len(known))
        super().add_addrs(peer_id, [address for address in fitting if address not in known][:room], ttl)

    def add_protocols(self, peer_id: ID, protocols: Sequence[str]) -> None:
        """As the library's, for the first few."""
        data = self.peer_data_map.get(peer_id)
        known = [] if data is None else data.get_protocols()
        room = max(0, PROTOCOLS_MAX - len(known))
        super().add_protocols(peer_id, [name for name in _fitting(protocols) if name not in known][:room])

    def set_protocols(self, peer_id: ID, protocols: Sequence[str]) -> None:
        """As the library's, for the first few."""
        super().set_protocols(peer_id, _fitting(protocols)[:PROTOCOLS_MAX])

    def consume_peer_record(self, envelope: Any, ttl: int) -> bool:
        """As the library's, for records of a sane size."""
        if len(envelope.raw_payload) > RECORD_BYTES_MAX:
            return False
        accepted = super().consume_peer_record(envelope, ttl)
        self._enforce_record_limit()
        return accepted


def _fitting(protocols: Sequence[str]) -> list[str]:
    # Looked at no further than needed: an RPC of a mebibyte holds half a million empty names.
    return [name for name in protocols[: 2 * PROTOCOLS_MAX] if len(name) <= PROTOCOL_CHARACTERS_MAX]
