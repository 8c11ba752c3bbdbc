"""Checks of the peer-to-peer network: whether this node is found, reached, and in time with the others.

Detail: `judge_network` is pure over what the running daemon knows; `check_listening` works with the daemon down.
"""

import socket
from collections.abc import Sequence

from node.doctor.findings import Finding, fault, ok, skipped, warning
from p2p.discovery.addresses import AddressError, Reach, parse_address
from p2p.discovery.announced import Reachability
from p2p.discovery.service import DiscoveryStatus

SKEW_SECONDS_WARNING = 30
SKEW_SECONDS_FAULT = 120
"""Beyond which peers ignore messages; the same limit as node.network.adapter has for theirs."""
EXAMPLE_PEER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"

CHECK_LISTENING = "listening port"
CHECK_ADDRESSES = "announced addresses"
CHECK_REACHABLE = "reachable by peers"
CHECK_RELAY = "relays"
CHECK_MAPPING = "router's port"
CHECK_KNOWN = "known peers"
CHECK_DHT = "DHT"
CHECK_LOCAL = "local network"
CHECK_CLOCK = "clock against peers"


def judge_network(status: DiscoveryStatus, clock_skew_seconds: float | None, *, on_loopback: bool) -> list[Finding]:
    """Turn what the daemon knows into findings, one per check, always in the same order."""
    return [
        _judge_addresses(status, on_loopback),
        _judge_reachability(status, on_loopback),
        _judge_relay(status),
        _judge_mapping(status),
        _judge_known(status),
        _judge_dht(status),
        _judge_local(status),
        judge_clock(clock_skew_seconds),
    ]


def check_listening(listen: Sequence[str]) -> Finding:
    """Whether the ports to listen at are free; only while the daemon is down."""
    for text in listen:
        try:
            address = parse_address(text, EXAMPLE_PEER)
        except AddressError as error:
            return fault(CHECK_LISTENING, str(error), "Correct [p2p] listen: /ip4/0.0.0.0/tcp/4801 for example.")
        family = socket.AF_INET6 if address.kind == "ip6" else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError as error:
                return fault(
                    CHECK_LISTENING,
                    f"{text} can't be listened at: {error.strerror}",
                    "Stop the program that uses the port, or set another in [p2p] listen.",
                )
    return ok(CHECK_LISTENING, f"{', '.join(listen)} can be listened at")


def judge_clock(skew_seconds: float | None) -> Finding:
    """How this machine's clock stands against those of other participants."""
    if skew_seconds is None:
        return skipped(CHECK_CLOCK, "no other participant was heard yet")
    text = f"{abs(skew_seconds):.0f} s {'behind' if skew_seconds > 0 else 'ahead of'} the median of other participants"
    remedy = "Let the machine keep time by NTP (`timedatectl set-ntp true`)."
    if abs(skew_seconds) >= SKEW_SECONDS_FAULT:
        return fault(CHECK_CLOCK, f"{text}: peers ignore what this node says", remedy)
    if abs(skew_seconds) >= SKEW_SECONDS_WARNING:
        return warning(CHECK_CLOCK, f"{text}; from {SKEW_SECONDS_FAULT} s on peers ignore this node", remedy)
    return ok(CHECK_CLOCK, text)


def _judge_addresses(status: DiscoveryStatus, on_loopback: bool) -> Finding:
    if not status.addresses:
        return fault(
            CHECK_ADDRESSES,
            "this node tells its peers no address: nobody can connect to it",
            "Correct [p2p] listen, or set [p2p] announce to the address at which it is reached.",
        )
    told = "; ".join(f"{each.address.transport} ({each.origin})" for each in status.addresses)
    widest = max(each.address.reach for each in status.addresses)
    if widest is not Reach.PUBLIC and not on_loopback:
        return warning(
            CHECK_ADDRESSES,
            f"only local addresses are told to peers: {told}",
            "Fine on a network of your own. For peers elsewhere: set [p2p] announce to the outer address, or forward "
            "the port, or let [p2p] upnp do so, or connect to a peer with the relay role.",
        )
    return ok(CHECK_ADDRESSES, told)


def _judge_reachability(status: DiscoveryStatus, on_loopback: bool) -> Finding:
    answers = f"{status.reachability_answers} peers tried to dial back"
    match status.reachability:
        case Reachability.PUBLIC:
            return ok(CHECK_REACHABLE, f"peers get through ({answers})")
        case Reachability.PRIVATE:
            through = "; it is reached through a relay" if status.relay_places else ""
            return warning(
                CHECK_REACHABLE,
                f"peers do not get through ({answers}){through}",
                "Forward the port of [p2p] listen at the router or open it in the firewall, or set [p2p] upnp. Until "
                "then only peers that this node dials itself, or relays, send it work.",
            )
        case Reachability.UNKNOWN:
            where = "this node listens on loopback only" if on_loopback else status.reachability_error
            return skipped(CHECK_REACHABLE, f"not known yet: {where or answers}")


def _judge_relay(status: DiscoveryStatus) -> Finding:
    served = (
        ""
        if status.relay_reservations is None
        else f"serves {status.relay_reservations} places and {status.relay_circuits} connections; "
    )
    if status.relay_places:
        return ok(CHECK_RELAY, f"{served}has places at {', '.join(status.relay_places)}")
    if status.reachability is Reachability.PRIVATE:
        return warning(
            CHECK_RELAY,
            f"{served}this node cannot be dialled and has no place at a relay"
            + (f": {status.relay_error}" if status.relay_error else ""),
            "Add a peer with the relay role to [p2p] bootstrap, and leave [p2p] relay on.",
        )
    return ok(CHECK_RELAY, f"{served}none needed" if not served else served.removesuffix("; "))


def _judge_mapping(status: DiscoveryStatus) -> Finding:
    if status.mapping_error is None:
        return skipped(CHECK_MAPPING, "[p2p] upnp is off")
    if status.mapping_error:
        return warning(
            CHECK_MAPPING, status.mapping_error, "Forward the port by hand, or switch UPnP on at the router."
        )
    if status.mapped_port is None:
        return skipped(CHECK_MAPPING, "the router is being asked")
    return ok(CHECK_MAPPING, f"the router forwards port {status.mapped_port}")


def _judge_known(status: DiscoveryStatus) -> Finding:
    if status.known_peers == 0:
        return warning(
            CHECK_KNOWN,
            "no peer is known to dial",
            "Set [p2p] bootstrap to the address of any node of the network; it is needed once.",
        )
    return ok(CHECK_KNOWN, f"{status.known_peers} known, {status.connected} connected, {status.relayed} through relays")


def _judge_dht(status: DiscoveryStatus) -> Finding:
    dht = status.dht
    if dht is None:
        return skipped(CHECK_DHT, "[p2p] dht is off: content is found through presence records only")
    if dht.peers == 0 and status.connected:
        return warning(
            CHECK_DHT,
            "none of the connected peers takes part in it",
            "Wait a minute. If it stays so, compare [p2p] dht_protocol with the other nodes'.",
        )
    unannounced = dht.provided - dht.announced
    if unannounced and dht.peers:
        return warning(
            CHECK_DHT,
            f"{unannounced} of {dht.provided} contents are not announced yet",
            "It is tried again every half a minute; see the log if it stays so.",
        )
    part = "answers others" if dht.serving else "only asks"
    return ok(CHECK_DHT, f"{dht.peers} peers, {part}, {dht.announced} contents announced")


def _judge_local(status: DiscoveryStatus) -> Finding:
    if status.local_error is None:
        return skipped(CHECK_LOCAL, "not searched: [p2p] mdns is off, or all listening is on loopback")
    if status.local_error:
        return warning(CHECK_LOCAL, status.local_error, "Set [p2p] mdns = false if this network has no multicast.")
    return ok(CHECK_LOCAL, f"{status.local_peers} peers found by mDNS")
