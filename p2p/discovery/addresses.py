"""Addresses of peers: read strictly, classed by how far they reach, and which of them this node dials.

An address that a peer tells is a wish of that peer that we connect somewhere. So what strangers tell is dialled only
where it leads to the public net or to a network this machine is on; names (`/dns4/…`) of strangers are not resolved at
all, because a name may lead anywhere. What the operator writes down is dialled as it stands.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import base58
import ifaddr

ADDRESS_CHARACTERS_MAX = 256
"""The longest honest address, a relayed one over IPv6, has about 190."""
PORT_MAX = 65535
PEER_ID_CHARACTERS_MAX = 64
ED25519_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash of a serialised Ed25519 public key."""
SHA256_PREFIX = bytes.fromhex("1220")
"""SHA-256 multihash of any other key, such as RSA."""
DNS_KINDS = ("dns", "dns4", "dns6")
DNS_NAME = re.compile(r"(?=.{1,253}$)[a-zA-Z0-9_-]{1,63}(\.[a-zA-Z0-9_-]{1,63})*\.?")

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Reach(IntEnum):
    """From where an address can be dialled; more is farther."""

    NOWHERE = 0
    """Nobody can dial it: unspecified, multicast, reserved, or IPv4 hidden in IPv6."""
    LOOPBACK = 1
    PRIVATE = 2
    """Of a local network: private, link-local, shared by a carrier."""
    PUBLIC = 3


class AddressError(ValueError):
    """A text is not the address of a peer; the message says why."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer can be dialled over TCP, directly or through a relay."""

    peer_id: str
    """The peer at the end."""
    kind: str
    """`ip4`, `ip6`, `dns`, `dns4` or `dns6`."""
    host: str
    """IP address in its canonical form, or a name."""
    port: int
    relay: str | None = None
    """Peer id of the relay that listens at host and port; None for a direct address."""

    def __str__(self) -> str:
        return f"{self.transport}/p2p/{self.peer_id}"

    @property
    def transport(self) -> str:
        """The address without the peer at its end."""
        endpoint = f"/{self.kind}/{self.host}/tcp/{self.port}"
        return endpoint if self.relay is None else f"{endpoint}/p2p/{self.relay}/p2p-circuit"

    @property
    def relay_address(self) -> "PeerAddress":
        """The address of the relay itself. Raises ValueError for a direct address."""
        if self.relay is None:
            raise ValueError(f"{self} is a direct address")
        return PeerAddress(self.relay, self.kind, self.host, self.port)

    @property
    def ip(self) -> IpAddress | None:
        """The IP address, or None for a name."""
        return None if self.kind in DNS_KINDS else ipaddress.ip_address(self.host)

    @property
    def reach(self) -> Reach:
        """From where it can be dialled; a name counts as public, for only the operator's are dialled."""
        ip = self.ip
        return Reach.PUBLIC if ip is None else reach_of(ip)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where this node stands: decides which local addresses make sense to it."""

    loopback: bool
    """Whether it listens on loopback only, as the nodes of a test network on one machine do."""
    networks: tuple[IpNetwork, ...] = ()
    """The local networks that this machine is on."""


def parse_address(text: str, peer_id: str | None = None) -> PeerAddress:
    """Read `/ip4/…/tcp/…[/p2p/RELAY/p2p-circuit][/p2p/PEER]`; `peer_id` where the text does not end with one.

    Raises AddressError. Other transports are refused: this node speaks TCP only.
    """
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise AddressError(f"an address of {len(text)} characters; at most {ADDRESS_CHARACTERS_MAX} are read")
    head, *parts = text.split("/")
    if head or len(parts) < 4 or parts[2] != "tcp":
        raise AddressError(f"{text!r} is not /ip4/…/tcp/…/p2p/…")
    kind, host, _tcp, port, *rest = parts
    relay: str | None = None
    peer: str | None = peer_id
    match rest:
        case []:
            pass
        case ["p2p", peer]:
            pass
        case ["p2p", relay, "p2p-circuit"]:
            pass
        case ["p2p", relay, "p2p-circuit", "p2p", peer]:
            pass
        case _:
            raise AddressError(f"{text!r} uses a protocol that this node does not speak")
    if peer is None:
        raise AddressError(f"{text!r} does not say whose it is: /p2p/… is missing at its end")
    if peer_id is not None and peer != peer_id:
        raise AddressError(f"{text!r} is not an address of {peer_id}")
    for name in (peer, *([] if relay is None else [relay])):
        if not is_peer_id(name):
            raise AddressError(f"{text!r}: {name!r} is not a peer id")
    if relay == peer:
        raise AddressError(f"{text!r}: a peer can't be its own relay")
    return PeerAddress(peer, kind, _canonical_host(kind, host, text), _port(port, text), relay)


def is_peer_id(text: str) -> bool:
    """Whether `text` is a peer id in base58, in its only spelling: an Ed25519 key itself, or the SHA-256 of a key."""
    if len(text) > PEER_ID_CHARACTERS_MAX:
        return False
    try:
        data = base58.b58decode(text)
    except ValueError:
        return False
    if base58.b58encode(data).decode() != text:
        return False
    return (len(data) == 38 and data.startswith(ED25519_PREFIX)) or (len(data) == 34 and data.startswith(SHA256_PREFIX))


def reach_of(ip: IpAddress) -> Reach:
    """From where an IP address can be dialled."""
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or ip.teredo):
        return Reach.NOWHERE  # would lead around every rule for IPv4
    if ip.is_unspecified or ip.is_multicast or (ip.is_reserved and not ip.is_loopback):
        return Reach.NOWHERE
    if ip.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if ip.is_global else Reach.PRIVATE


def may_dial(address: PeerAddress, surroundings: Surroundings) -> bool:
    """Whether to dial an address that a stranger told, or the relay in it."""
    ip = address.ip
    if ip is None or address.port == 0:
        return False
    match address.reach:
        case Reach.PUBLIC:
            return True
        case Reach.PRIVATE:
            return any(ip in network for network in surroundings.networks)
        case Reach.LOOPBACK:
            return surroundings.loopback
        case Reach.NOWHERE:
            return False


def worth_telling(address: PeerAddress, asker: IpAddress | None) -> bool:
    """Whether to tell a peer, connected from `asker`, of an address: loopback only to itself, private not to the net.

    `asker` is None for a peer that came through a relay, whose whereabouts are unknown.
    """
    asker_reach = Reach.PUBLIC if asker is None else reach_of(asker)
    return address.reach is not Reach.NOWHERE and address.reach >= asker_reach


def surroundings_of(listen: Iterable[str]) -> Surroundings:
    """Where a node stands that listens at the addresses `listen`. Reads the network interfaces.

    One that listens on loopback only keeps to this machine: it is not part of the machine's networks.
    """
    hosts = [ipaddress.ip_address(host) for host in filter(None, map(_listening_host, listen))]
    on_loopback = bool(hosts) and all(host.is_loopback for host in hosts)
    return Surroundings(on_loopback, () if on_loopback else tuple(local_networks()))


def local_networks() -> Sequence[IpNetwork]:
    """The local networks of this machine's interfaces; loopback and public ones are left out."""
    networks: dict[IpNetwork, None] = {}
    for adapter in ifaddr.get_adapters():
        for address in adapter.ips:
            text = address.ip if isinstance(address.ip, str) else address.ip[0]
            network = ipaddress.ip_network(f"{text}/{address.network_prefix}", strict=False)
            if reach_of(ipaddress.ip_address(text)) is Reach.PRIVATE:
                networks[network] = None
    return list(networks)


def _listening_host(address: str) -> str | None:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else None


def _canonical_host(kind: str, host: str, text: str) -> str:
    if kind in DNS_KINDS:
        if DNS_NAME.fullmatch(host) is None:
            raise AddressError(f"{text!r}: {host!r} is not a name")
        return host
    try:
        match kind:
            case "ip4":
                return str(ipaddress.IPv4Address(host))
            case "ip6":
                ip = ipaddress.IPv6Address(host)
                if ip.scope_id is not None:
                    raise AddressError(f"{text!r} is of one interface of one machine")
                return str(ip)
    except ipaddress.AddressValueError as error:
        raise AddressError(f"{text!r}: {error}") from error
    raise AddressError(f"{text!r} uses {kind!r}, which this node does not dial")


def _port(text: str, address: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= PORT_MAX):
        raise AddressError(f"{address!r}: {text!r} is not a port")
    return int(text)
