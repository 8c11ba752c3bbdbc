"""From which addresses peers see this node: one vote per network of observers, bounded.

Takes the place of the library's manager, which counts the source port of each outgoing connection as an address of its
own and announces what four observers say without anybody having got through.
"""

import ipaddress
from collections import Counter, OrderedDict
from typing import Any

from p2p.discovery.addresses import AddressError, IpAddress, PeerAddress, Reach, parse_address, reach_of
from p2p.discovery.connections import remote_endpoint

OBSERVERS_MAX = 64
CANDIDATES_MAX = 2
"""A node has one public address per protocol; a second while it moves."""


class ObservedAddresses:
    """Implements what the host asks of its observed-address manager."""

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self._votes: OrderedDict[str, IpAddress] = OrderedDict()

    def record_observation(self, connection: Any, observed: Any, _local: Any) -> None:
        """Note what a peer said when it identified itself."""
        endpoint = remote_endpoint(connection)
        if endpoint is None:
            return
        try:
            address = parse_address(str(observed), self._own_id)
        except AddressError:
            return
        if address.ip is not None:
            self.vote(endpoint[0], address.ip)

    def vote(self, observer: IpAddress, seen: IpAddress) -> None:
        """Note that an observer at one address sees this node at another. Only public observers know anything new."""
        if reach_of(observer) is not Reach.PUBLIC or reach_of(seen) is not Reach.PUBLIC:
            return
        prefix = 24 if observer.version == 4 else 56
        group = str(ipaddress.ip_network(f"{observer}/{prefix}", strict=False))
        self._votes[group] = seen
        self._votes.move_to_end(group)
        while len(self._votes) > OBSERVERS_MAX:
            self._votes.popitem(last=False)

    def candidates(self, listening: list[PeerAddress]) -> list[PeerAddress]:
        """Addresses to try: where most observers see this node, at the ports it listens at (forwarded one to one)."""
        most = [ip for ip, _votes in Counter(self._votes.values()).most_common(CANDIDATES_MAX)]
        ports = dict.fromkeys((address.kind, address.port) for address in listening if address.relay is None)
        return [
            PeerAddress(self._own_id, kind, str(ip), port)
            for ip in most
            for kind, port in ports
            if kind == f"ip{ip.version}"
        ]

    def remove_conn(self, _connection: Any) -> None:
        """A vote outlives its connection: the address does too."""

    def addrs(self) -> list[Any]:
        """Nothing for the library to announce: `announced.choose_addresses` decides."""
        return []
