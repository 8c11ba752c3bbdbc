"""Everything by which a node finds and is found, built on one host: what runs, what it knows, what it tells."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
import trio
from multiaddr import Multiaddr

from p2p.discovery.addresses import AddressError, PeerAddress, parse_address, surroundings_of
from p2p.discovery.announced import AddressOrigin, AnnouncedAddress, Reachability, choose_addresses
from p2p.discovery.connections import has_direct_connection
from p2p.discovery.dht import Dht, DhtStatus, FoundProvider
from p2p.discovery.dialer import Dialer
from p2p.discovery.hole_punching import HolePuncher
from p2p.discovery.local_network import LocalNetwork
from p2p.discovery.observed import ObservedAddresses
from p2p.discovery.peerbook import PeerBook
from p2p.discovery.peerfile import keep_peers, load_peers
from p2p.discovery.port_mapping import PortMapper, Router, UpnpRouter
from p2p.discovery.reachability import DialBackServer, ReachabilityProbe
from p2p.discovery.relay_client import RelayClient
from p2p.discovery.relay_server import RelayServer
from p2p.host import EVERYWHERE, outward_address
from p2p.standing import Standing

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
RESTART_SECONDS = 30.0


class DhtMode(StrEnum):
    """What part a node takes in the DHT."""

    AUTO = "auto"
    """Serves unless peers find that it cannot be dialled."""
    SERVER = "server"
    CLIENT = "client"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class DiscoveryOptions:
    """What of discovery is switched on."""

    dht: DhtMode = DhtMode.AUTO
    dht_protocol: str = "/quern/kad/1.0.0"
    mdns: bool = False
    relay_server: bool = False
    relay_client: bool = True
    reachability: bool = True
    upnp: bool = False
    hole_punching: bool = True
    peers_file: Path | None = None
    """Keeps the known peers over restarts; without it they are forgotten."""


@dataclass(frozen=True, slots=True)
class DiscoveryStatus:
    """Discovery at a glance."""

    addresses: tuple[AnnouncedAddress, ...]
    """What this node tells its peers."""
    reachability: Reachability
    reachability_answers: int
    reachability_error: str
    known_peers: int
    connected: int
    relayed: int
    """Of the connected, those reached through a relay only."""
    dht: DhtStatus | None
    """None where it is off; so for the others."""
    relay_places: tuple[str, ...]
    """Relays at which this node has a place."""
    relay_error: str
    relay_reservations: int | None
    """Places that this node gives as a relay."""
    relay_circuits: int | None
    mapped_port: int | None
    mapping_error: str | None
    local_peers: int | None
    local_error: str | None
    holes_tried: int | None
    holes_punched: int | None
    hole_error: str | None


class Discovery:
    """Finds peers and lets this node be found."""

    def __init__(
        self,
        host: Any,
        listen: Sequence[str],
        announce: Sequence[str],
        options: DiscoveryOptions,
        *,
        standing: Standing | None = None,
        clock: Callable[[], float] = time.time,
        router: Callable[[], Router] = UpnpRouter,
    ) -> None:
        """Takes over what the host announces. `listen`, `announce` as in the settings; `clock` gives UNIX seconds."""
        self._host = host
        self._options = options
        self.own_id = str(host.get_id())
        self._configured = self._own(announce)
        surroundings = surroundings_of(listen)
        self.book = PeerBook(self.own_id, clock)
        self.dialer = Dialer(host, self.book, surroundings)
        self._observed = ObservedAddresses(self.own_id)
        host._observed_addr_manager = self._observed
        self._mapper = PortMapper(self.own_id, self._listening_port, router()) if options.upnp else None
        self._relay_client = RelayClient(host, self.book, self.dialer, clock=clock) if options.relay_client else None
        self._relay_server = RelayServer(host, standing=standing, clock=clock) if options.relay_server else None
        self._dial_back = DialBackServer(host, self.dialer, standing)
        self._probe = ReachabilityProbe(host, self.dialer, self._candidates, clock=clock)
        self._puncher = HolePuncher(host, self.dialer, self._candidates) if options.hole_punching else None
        self._dht = (
            Dht(host, self.book, self.dialer, protocol=options.dht_protocol, clock=clock, standing=standing)
            if options.dht is not DhtMode.OFF
            else None
        )
        self._local = LocalNetwork(self.own_id, self.book, surroundings, self._listening) if options.mdns else None
        if options.peers_file is not None:
            load_peers(options.peers_file, self.book)
        host.get_addrs = self._host_addresses  # the library's own cannot announce an address through a relay

    @property
    def addresses(self) -> tuple[AnnouncedAddress, ...]:
        """What this node tells its peers, best first."""
        return tuple(
            choose_addresses(
                configured=self._configured,
                listening=self._listening(),
                mapped=self._mapper.addresses if self._mapper else (),
                observed=self._observed.candidates(self._listening()),
                relayed=self._relay_client.addresses if self._relay_client else (),
                reachability=self._probe.state,
            )
        )

    def status(self) -> DiscoveryStatus:
        """Discovery at a glance."""
        connected = self.dialer.connected()
        client, server, mapper, local, puncher = (
            self._relay_client,
            self._relay_server,
            self._mapper,
            self._local,
            self._puncher,
        )
        return DiscoveryStatus(
            addresses=self.addresses,
            reachability=self._probe.state,
            reachability_answers=self._probe.answers,
            reachability_error=self._probe.last_error,
            known_peers=len(self.book),
            connected=len(connected),
            relayed=sum(not has_direct_connection(self._host, peer_id) for peer_id in connected),
            dht=self._dht.status() if self._dht else None,
            relay_places=tuple(each.relay for each in client.reservations) if client else (),
            relay_error=client.last_error if client else "",
            relay_reservations=server.reservations if server else None,
            relay_circuits=server.circuits if server else None,
            mapped_port=mapper.mapping.external_port if mapper and mapper.mapping else None,
            mapping_error=mapper.last_error if mapper else None,
            local_peers=local.found if local else None,
            local_error=local.last_error if local else None,
            holes_tried=puncher.tried if puncher else None,
            holes_punched=puncher.succeeded if puncher else None,
            hole_error=puncher.last_error if puncher else None,
        )

    def provide(self, cid: str) -> None:
        """Announce in the DHT that this node provides a content, until `withdraw`. Nothing happens without a DHT.

        Raises p2p.discovery.dht.ProvideLimitError and CidError.
        """
        if self._dht is not None:
            self._dht.provide(cid)

    def withdraw(self, cid: str) -> None:
        """Announce a content no longer."""
        if self._dht is not None:
            self._dht.withdraw(cid)

    async def find_providers(self, cid: str, *, wanted: int = 20) -> list[FoundProvider]:
        """Search the DHT for providers of a content, each once; empty without a DHT. Raises CidError."""
        return [] if self._dht is None else await self._dht.find_providers(cid, wanted=wanted)

    async def find_peer(self, peer_id: str) -> tuple[PeerAddress, ...]:
        """Addresses of a peer: from the book, else from the DHT; empty if nobody knows any."""
        known = self.book.addresses(peer_id)
        return known if known or self._dht is None else await self._dht.find_peer(peer_id)

    async def run(self) -> None:
        """Run all that is switched on until cancelled. A part that fails is reported and ends alone."""
        options = self._options
        self._dial_back.start()
        if self._relay_server is not None:
            self._relay_server.start()
        async with trio.open_nursery() as nursery:
            if self._puncher is not None:
                self._puncher.start()
                if self._relay_client is not None:
                    self._relay_client.on_accepted = lambda peer_id: nursery.start_soon(self._punch, peer_id)
            if options.peers_file is not None:
                nursery.start_soon(keep_peers, options.peers_file, self.book)
            if options.reachability:
                nursery.start_soon(_alone, "reachability", self._probe.run)
            if self._mapper is not None:
                nursery.start_soon(_alone, "port mapping", self._mapper.run)
            if self._local is not None:
                nursery.start_soon(_alone, "local network", self._local.run)
            if self._relay_client is not None:
                nursery.start_soon(_alone, "relay client", self._relay_client.run, self._wants_relay)
            if self._dht is not None:
                nursery.start_soon(_alone, "DHT", self._dht.run)
            nursery.start_soon(self._follow)

    async def _follow(self) -> None:
        """Tell connected peers of changed addresses; serve the DHT as far as that makes sense."""
        told: tuple[AnnouncedAddress, ...] = ()
        while True:
            if self._dht is not None:
                mode = self._options.dht
                hidden = self._probe.state is Reachability.PRIVATE
                self._dht.serve(mode is DhtMode.SERVER or (mode is DhtMode.AUTO and not hidden))
            if (current := self.addresses) != told:
                if told:
                    log.info("this node's addresses have changed", addresses=[str(each.address) for each in current])
                told = current
                await self._push()
            await trio.sleep(LOOK_SECONDS)

    async def _push(self) -> None:
        try:
            await self._host._push_identify_to_all_peers()
        except Exception as error:  # they learn it by the next exchange
            log.debug("peers could not be told of changed addresses", reason=repr(error))

    async def _punch(self, peer_id: str) -> None:
        await trio.sleep(LOOK_SECONDS / 2)  # for the two ends to identify themselves
        if self._puncher is not None:
            await self._puncher.punch(peer_id)

    def _wants_relay(self) -> bool:
        """Whether a place at a relay is of use: not where peers get through or the operator says that they do."""
        said_public = bool(self._configured) or self._relay_server is not None
        return self._probe.state is not Reachability.PUBLIC and not said_public

    def _candidates(self) -> list[PeerAddress]:
        """Addresses at which this node might be reached directly."""
        direct = (
            *self._configured,
            *(self._mapper.addresses if self._mapper else ()),
            *self._observed.candidates(self._listening()),
            *self._listening(),
        )
        return [address for address in dict.fromkeys(direct) if address.relay is None]

    def _listening(self) -> list[PeerAddress]:
        """Where this node listens; everywhere (0.0.0.0) is named by this machine's outward address."""
        texts = (str(address).replace(EVERYWHERE, f"/ip4/{outward_address()}/") for address in self._transport())
        return self._own(dict.fromkeys(texts))

    def _transport(self) -> list[Any]:
        return list(self._host.get_transport_addrs())

    def _listening_port(self) -> int | None:
        return next((address.port for address in self._listening() if address.kind == "ip4"), None)

    def _host_addresses(self) -> list[Any]:
        return [Multiaddr(str(each.address)) for each in self.addresses]

    def _own(self, texts: Iterable[str]) -> list[PeerAddress]:
        """Read addresses of this node, whether or not they name it; what can't be read is reported and left out."""
        addresses = []
        for text in texts:
            try:
                addresses.append(parse_address(text, self.own_id))
            except AddressError as error:
                log.error("an address of this node is left out", reason=str(error), remedy="correct [p2p] announce")
        return addresses


async def _alone(name: str, run: Callable[..., Any], *arguments: Any) -> None:
    """Run a part until cancelled; a fault of it is reported, and it alone begins again."""
    while True:
        try:
            await run(*arguments)
        except Exception as error:
            log.error("a part of discovery failed; it begins again", part=name, reason=repr(error), exc_info=error)
            await trio.sleep(RESTART_SECONDS)
        else:
            return


__all__ = [
    "AddressOrigin",
    "AnnouncedAddress",
    "DhtMode",
    "Discovery",
    "DiscoveryOptions",
    "DiscoveryStatus",
    "FoundProvider",
    "Reachability",
]
