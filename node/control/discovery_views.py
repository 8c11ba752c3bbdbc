"""What the daemon answers over the control socket about finding and being found."""

from node.control.views import View


class OwnAddressView(View):
    """An address that this node tells its peers."""

    address: str
    origin: str


class DhtView(View):
    """This node's part in the DHT."""

    serving: bool
    peers: int
    records: int
    """Contents whose providers it keeps for others."""
    provided: int
    announced: int
    """Of the contents provided, those that other peers have taken note of."""


class NetworkView(View):
    """How this node finds and is found."""

    peer_id: str
    addresses: list[OwnAddressView]
    reachability: str
    """`public`, `private` or `unknown`, by peers that tried to dial back."""
    reachability_answers: int
    reachability_error: str
    known_peers: int
    connected: int
    relayed: int
    """Of the connected, those reached through a relay only."""
    dht: DhtView | None
    """None where it is off; so for what follows."""
    relay_places: list[str]
    relay_error: str
    relay_reservations: int | None
    relay_circuits: int | None
    mapped_port: int | None
    mapping_error: str | None
    local_peers: int | None
    local_error: str | None
    holes_tried: int | None
    holes_punched: int | None
    hole_error: str | None
    clock_skew_seconds: float | None
    """How far other participants' clocks are ahead, in the median."""


class KnownAddressView(View):
    """An address of a peer that this node knows. Times are UNIX seconds, 0 for never."""

    peer_id: str
    address: str
    origin: str
    learned_at: int
    reached_at: int
    successes: int
    failures: int


class KnownView(View):
    """The peers this node knows, those it would dial first first."""

    peers: int
    addresses: list[KnownAddressView]


class FoundProviderView(View):
    """A peer that says it provides a content."""

    peer_id: str
    addresses: list[str]


class FoundProvidersView(View):
    """Providers of a content by the DHT."""

    cid: str
    providers: list[FoundProviderView]
