"""Who provides which content, as peers told this node over the DHT. Bounded, expiring; each speaks for itself only."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2p.discovery.addresses import PeerAddress

KEYS_MAX = 8192
"""Contents; a node is among the 20 closest for few of them. Beyond that the one told longest ago is dropped."""
PROVIDERS_PER_KEY_MAX = 20
KEYS_PER_PROVIDER_MAX = 512
"""A node provides its models' roots; with more, one peer could push out everybody's."""
RECORD_SECONDS = 24 * 3600
"""Providers repeat themselves three times in this time."""
ADDRESSES_MAX = 8


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A peer that says it provides a content."""

    peer_id: str
    addresses: tuple[PeerAddress, ...]
    told_at: float
    """UNIX seconds."""


class ProviderRecords:
    """Records by the content's multihash."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives UNIX seconds."""
        self._clock = clock
        self._records: OrderedDict[bytes, OrderedDict[str, ProviderRecord]] = OrderedDict()
        self._keys_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._records)

    def add(self, multihash: bytes, peer_id: str, addresses: Sequence[PeerAddress]) -> bool:
        """Note that `peer_id` provides the content; return whether it was noted."""
        records = self._records.get(multihash, OrderedDict())
        if peer_id not in records:
            if self._keys_of.get(peer_id, 0) >= KEYS_PER_PROVIDER_MAX:
                return False
            if len(records) >= PROVIDERS_PER_KEY_MAX:
                self._drop(multihash, next(iter(records)))
            self._keys_of[peer_id] = self._keys_of.get(peer_id, 0) + 1
        self._records.setdefault(multihash, records)
        records[peer_id] = ProviderRecord(peer_id, tuple(addresses[:ADDRESSES_MAX]), self._clock())
        records.move_to_end(peer_id)
        self._records.move_to_end(multihash)
        while len(self._records) > KEYS_MAX:
            oldest = next(iter(self._records))
            for provider in list(self._records[oldest]):
                self._drop(oldest, provider)
        return True

    def get(self, multihash: bytes) -> tuple[ProviderRecord, ...]:
        """Providers of a content, the one told last first."""
        return tuple(
            record
            for record in reversed(self._records.get(multihash, OrderedDict()).values())
            if self._clock() - record.told_at <= RECORD_SECONDS
        )

    def expire(self) -> None:
        """Drop what is too old."""
        now = self._clock()
        for multihash, records in list(self._records.items()):
            for peer_id, record in list(records.items()):
                if now - record.told_at > RECORD_SECONDS:
                    self._drop(multihash, peer_id)

    def _drop(self, multihash: bytes, peer_id: str) -> None:
        records = self._records[multihash]
        del records[peer_id]
        if not records:
            del self._records[multihash]
        self._keys_of[peer_id] -= 1
        if self._keys_of[peer_id] == 0:
            del self._keys_of[peer_id]
