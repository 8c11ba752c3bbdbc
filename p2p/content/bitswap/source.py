"""One IPFS peer as a source of blocks (p2p/content/source.py)."""

from p2p.content.bitswap.exchange import Bitswap
from p2p.content.cid import Cid
from p2p.content.source import Rank

WINDOW = 4
"""Wants in flight at one peer. More gain nothing with Helia, which answers in turn, and cost memory."""


class BitswapSource:
    """A peer that speaks Bitswap, connected or known to the host's peerstore."""

    def __init__(self, bitswap: Bitswap, peer_id: str) -> None:
        self._bitswap = bitswap
        self._peer_id = peer_id

    @property
    def name(self) -> str:
        """Its peer id."""
        return self._peer_id

    @property
    def rank(self) -> Rank:
        """After the gateways of daemons."""
        return Rank.BITSWAP

    @property
    def window(self) -> int:
        """Wants in flight."""
        return WINDOW

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return the block; None if the peer lacks it. Raises SourceFailedError."""
        return await self._bitswap.get(self._peer_id, cid, bytes_max=bytes_max)

    async def aclose(self) -> None:
        """Nothing to give back: the connection is the host's."""
