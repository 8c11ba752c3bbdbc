"""The control socket's methods about finding and being found: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.discovery_views import FoundProvidersView, KnownView, NetworkView
from node.control.methods import Emit, Method, NoParams, Params
from node.control.views import View


class FindProvidersParams(Params):
    """Which content."""

    cid: str = Field(min_length=1, max_length=128)


class DiscoveryOperations(Protocol):
    """What the daemon tells of discovery for its operator. Methods raise RpcError for what can be acted on."""

    async def network(self) -> NetworkView:
        """Return how this node finds and is found."""

    async def known(self) -> KnownView:
        """Return the peers this node knows."""

    async def find_providers(self, params: FindProvidersParams) -> FoundProvidersView:
        """Search the DHT for providers of a content."""


def discovery_method_table(operations: DiscoveryOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def network(_params: NoParams, _emit: Emit) -> View:
        return await operations.network()

    async def known(_params: NoParams, _emit: Emit) -> View:
        return await operations.known()

    async def find_providers(params: FindProvidersParams, _emit: Emit) -> View:
        return await operations.find_providers(params)

    return {
        "network_status": Method(NoParams, network),
        "network_known": Method(NoParams, known),
        "network_providers": Method(FindProvidersParams, find_providers),
    }
