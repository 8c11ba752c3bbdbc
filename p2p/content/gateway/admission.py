"""Who may connect and how often ask: bounds in all and per address, so that one client cannot take the gateway."""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

IPV6_NETWORK_BITS = 64
"""What one customer is given: an address in it costs nothing."""
ADDRESSES_MAX = 4096
"""Addresses whose requests are counted; the one quiet for longest is forgotten, and begins anew."""
BURST_SECONDS = 2
"""Requests of so many seconds may come at once."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """What a gateway gives to whom. Zero means no limit where it says so."""

    connections_max: int = 256
    """Served at once. Each costs a task and at most a head's bytes; file bytes stay in the kernel."""
    connections_per_address_max: int = 32
    """A daemon takes up to 3 for each fetch; several may share an address."""
    requests_per_second: int = 0
    """Per address; 0 is no limit."""
    bytes_per_second: int = 0
    """Of all answers together; 0 is no limit."""
    idle_seconds_max: float = 60.0
    """A connection without a request for so long is closed."""
    head_seconds_max: float = 10.0
    """From the first byte of a request to its last."""
    stall_seconds_max: float = 10.0
    """A reader gets this for every block, and more by its size:"""
    reader_bytes_per_second_min: int = 64 * 1024
    """Slower readers are cut: they would hold a connection for days (slow loris, from the other end)."""

    def answer_seconds(self, size: int) -> float:
        """Return how long sending so many bytes may take."""
        own_pace = size / self.bytes_per_second if self.bytes_per_second else 0.0
        return self.stall_seconds_max + size / self.reader_bytes_per_second_min + own_pace * self.connections_max


@dataclass(slots=True)
class _Allowance:
    requests: float
    at: float


class Admission:
    """Counts connections and requests by address (IPv6: by /64 network)."""

    def __init__(self, limits: GatewayLimits, clock: Callable[[], float]) -> None:
        """`clock` gives seconds; only differences matter."""
        self._limits = limits
        self._clock = clock
        self._connections: Counter[str] = Counter()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._connections.total()

    def enter(self, client: str) -> bool:
        """Count a connection in if there is room for it; then `leave` must follow."""
        if self._connections[client] >= self._limits.connections_per_address_max:
            return False
        self._connections[client] += 1
        return True

    def leave(self, client: str) -> None:
        """Count a connection out."""
        self._connections[client] -= 1
        if not self._connections[client]:
            del self._connections[client]

    def wait_seconds(self, client: str) -> float:
        """Count a request; return 0 if it may be answered, else how long the client should wait."""
        rate = self._limits.requests_per_second
        if not rate:
            return 0.0
        now = self._clock()
        most = float(rate * BURST_SECONDS)
        allowance = self._allowances.setdefault(client, _Allowance(most, now))
        self._allowances.move_to_end(client)
        allowance.requests = min(most, allowance.requests + (now - allowance.at) * rate)
        allowance.at = now
        if len(self._allowances) > ADDRESSES_MAX:
            self._allowances.popitem(last=False)
        if allowance.requests < 1:
            return (1 - allowance.requests) / rate
        allowance.requests -= 1
        return 0.0


def client_of(address: str) -> str:
    """Return who is counted for connections from `address`."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_NETWORK_BITS), strict=False))
    return str(parsed)
