"""Asks connected peers where their content gateway listens: the fast way to what the DHT says they have.

A peer tells a port only; the host is the address it is connected from, so that it can't send this node elsewhere.
"""

from collections.abc import Sequence

import structlog
import trio

from node.network.adapter import LibP2PNetwork
from node.ports import Call, CallFailedError, Provider
from node.protocol.identifiers import PeerId
from p2p.discovery.connections import remote_ip

log = structlog.get_logger(__name__)

METHOD = "content-port"
ANSWER_SECONDS_MAX = 5.0
CONCURRENCY = 16
PORT_DIGITS_MAX = 5
PORT_MAX = 65535


class GatewayLookup:
    """Tells peers the port of this node's content gateway, and asks them for theirs."""

    def __init__(self, network: LibP2PNetwork, port: int) -> None:
        """`port` is 0 where this node's gateway gives nothing to strangers."""
        self._network = network
        self._port = port
        network.serve(METHOD, self._tell, concurrency=CONCURRENCY)

    async def find(self, peers: Sequence[str]) -> list[Provider]:
        """Return the gateways of those peers that have one and are connected directly."""
        found: list[Provider] = []

        async def ask(peer_id: str) -> None:
            ip = remote_ip(self._network.host, peer_id)
            port = 0 if ip is None else await self._ask(peer_id)
            if ip is not None and port:
                found.append(Provider(str(ip), port))

        async with trio.open_nursery() as nursery:
            for peer_id in peers:
                nursery.start_soon(ask, peer_id)
        return found

    async def _ask(self, peer_id: str) -> int:
        """The port of a peer's gateway; 0 if it has none or does not say."""
        try:
            async with self._network.call(PeerId(peer_id), METHOD, b"", deadline_seconds=ANSWER_SECONDS_MAX) as call:
                return read_port(await call.receive())
        except (CallFailedError, trio.EndOfChannel) as error:  # another program, or an older version of this one
            log.debug("a peer does not say where its content gateway is", peer=peer_id, reason=str(error))
            return 0

    async def _tell(self, call: Call) -> None:
        await call.send(str(self._port).encode())


def read_port(data: bytes) -> int:
    """A port in decimal; 0 for anything else."""
    if not 0 < len(data) <= PORT_DIGITS_MAX or not data.isdigit():
        return 0
    return port if (port := int(data)) <= PORT_MAX else 0
