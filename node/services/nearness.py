"""Which peers are connected and how far away, looked up every few seconds: every request asks for it."""

import trio

from node.ports import CallFailedError, Network
from node.protocol.identifiers import PeerId

LOOK_SECONDS = 5.0
WARM_METHOD = "hello"
"""Nobody serves it: the refusal shows that connection and stream are there."""
WARM_SECONDS_MAX = 10.0


class Nearness:
    """What the network knows of its peers, at most LOOK_SECONDS old."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._seconds: dict[PeerId, float | None] = {}
        self._looked_at = float("-inf")

    def seconds(self, peer_id: PeerId) -> float:
        """Round trip to a peer; 0 where it is not known."""
        self._look()
        return self._seconds.get(peer_id) or 0.0

    def is_connected(self, peer_id: PeerId) -> bool:
        """Whether there is a connection to it."""
        self._look()
        return peer_id in self._seconds

    async def warm(self, peer_id: PeerId) -> None:
        """Connect to a peer that may be needed soon. Never fails: whoever needs it will see."""
        try:
            with trio.move_on_after(WARM_SECONDS_MAX):
                async with self._network.call(peer_id, WARM_METHOD, b"", deadline_seconds=WARM_SECONDS_MAX) as call:
                    await call.receive()
        except (CallFailedError, trio.EndOfChannel):
            return

    def _look(self) -> None:
        now = trio.current_time()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._seconds = {
                peer.peer_id: None if peer.latency_ms is None else peer.latency_ms / 1000
                for peer in self._network.peers()
            }
