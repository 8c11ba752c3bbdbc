"""What the daemon tells its operator of finding and being found, over the running network."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from node.control.discovery_methods import FindProvidersParams
from node.control.discovery_views import (
    DhtView,
    FoundProvidersView,
    FoundProviderView,
    KnownAddressView,
    KnownView,
    NetworkView,
    OwnAddressView,
)
from node.control.jsonrpc import ErrorCode, RpcError
from p2p.content.cid import CidError
from p2p.discovery.service import Discovery


@dataclass(frozen=True, slots=True)
class DaemonDiscoveryOperations:
    """Implements node.control.discovery_methods.DiscoveryOperations."""

    discovery: Discovery
    own_peer_id: str
    clock_skew_seconds: Callable[[], float | None]

    async def network(self) -> NetworkView:
        """How this node finds and is found."""
        status = self.discovery.status()
        return NetworkView(
            peer_id=self.own_peer_id,
            addresses=[OwnAddressView(address=str(each.address), origin=each.origin) for each in status.addresses],
            reachability=status.reachability,
            reachability_answers=status.reachability_answers,
            reachability_error=status.reachability_error,
            known_peers=status.known_peers,
            connected=status.connected,
            relayed=status.relayed,
            dht=DhtView(**asdict(status.dht)) if status.dht else None,
            relay_places=list(status.relay_places),
            relay_error=status.relay_error,
            relay_reservations=status.relay_reservations,
            relay_circuits=status.relay_circuits,
            mapped_port=status.mapped_port,
            mapping_error=status.mapping_error,
            local_peers=status.local_peers,
            local_error=status.local_error,
            holes_tried=status.holes_tried,
            holes_punched=status.holes_punched,
            hole_error=status.hole_error,
            clock_skew_seconds=self.clock_skew_seconds(),
        )

    async def known(self) -> KnownView:
        """The peers this node knows."""
        book = self.discovery.book
        return KnownView(
            peers=len(book),
            addresses=[
                KnownAddressView(
                    peer_id=peer_id,
                    address=str(each.address),
                    origin=each.origin.name.lower(),
                    learned_at=each.learned_at,
                    reached_at=each.reached_at,
                    successes=each.successes,
                    failures=each.failures,
                )
                for peer_id in book.peers()
                for each in book.known(peer_id)
            ],
        )

    async def find_providers(self, params: FindProvidersParams) -> FoundProvidersView:
        """Search the DHT for providers of a content."""
        if self.discovery.status().dht is None:
            raise RpcError(ErrorCode.REFUSED, "the DHT is off", "Set [p2p] dht to auto and restart the daemon.")
        try:
            found = await self.discovery.find_providers(params.cid)
        except CidError as error:
            raise RpcError(
                ErrorCode.REFUSED, f"{params.cid}: {error}", "A CID here begins with bafy or bafk."
            ) from error
        return FoundProvidersView(
            cid=params.cid,
            providers=[
                FoundProviderView(peer_id=each.peer_id, addresses=[str(address) for address in each.addresses])
                for each in found
            ],
        )
