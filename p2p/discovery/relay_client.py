"""Being reached, and reaching others, through relays (circuit relay v2).

Goals: a node that nobody can dial keeps places at relays and tells their addresses; connections through a relay are
encrypted and authenticated end to end, so the relay sees sizes and times only.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import base58
import structlog
import trio
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, Reach, is_peer_id, parse_address
from p2p.discovery.connections import has_direct_connection, is_relayed, speaks
from p2p.discovery.control_streams import (
    ControlError,
    close_stream,
    open_stream,
    receive_message,
    reset_stream,
    send_message,
)
from p2p.discovery.dialer import Dialer
from p2p.discovery.peerbook import PeerBook
from p2p.discovery.relay_protocol import (
    HOP_PROTOCOL,
    MESSAGE_BYTES_MAX,
    STOP_PROTOCOL,
    HopMessage,
    Peer,
    Status,
    StopMessage,
    status_name,
)

log = structlog.get_logger(__name__)

RELAYS_WANTED = 2
"""One that goes away must not leave this node unreachable; more cost the relays."""
ROUND_SECONDS = 2.0
ANSWER_SECONDS_MAX = 15.0
UPGRADE_SECONDS_MAX = 15.0
RENEW_SHARE = 0.25
"""A reservation is renewed in its last quarter, which leaves time for more than one attempt."""
REFUSED_PAUSE_SECONDS = 120.0
ADDRESSES_PER_RELAY_MAX = 4
RESERVATION_SECONDS_MAX = 24 * 3600


RELAYED_MAX = 32
"""Connections through relays at once: a relay that lies could bring any number of peers, past the doorkeeper."""


class RelayError(Exception):
    """A relay did not do what was asked; the message says what it answered."""


class CircuitConnection(RawConnection):
    """A connection through a relay. It has no IP address: the relay's own must not answer for its guests."""

    def __init__(self, stream: Any, circuit: Multiaddr, *, initiator: bool) -> None:
        super().__init__(stream, initiator, ConnectionType.RELAYED, [circuit])

    def get_remote_address(self) -> tuple[str, int] | None:
        """None, always."""
        return None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A place at a relay. Times are UNIX seconds."""

    relay: str
    made_at: float
    until: float
    addresses: tuple[PeerAddress, ...]
    """Addresses of this node through the relay."""

    def due(self, now: float) -> bool:
        """Whether it is to be renewed."""
        return self.until - now < RENEW_SHARE * (self.until - self.made_at)


class RelayClient:
    """Dials through relays, accepts connections through them, keeps reservations."""

    def __init__(self, host: Any, book: PeerBook, dialer: Dialer, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives UNIX seconds. The dialer dials through relays from now on."""
        self._host = host
        self._own_id = str(host.get_id())
        self._book = book
        self._dialer = dialer
        self._clock = clock
        self._reservations: dict[str, Reservation] = {}
        self._refused: dict[str, float] = {}
        self.last_error = ""
        self.on_accepted: Callable[[str], None] = lambda _peer_id: None
        """Called with each peer that came through a relay; must not block."""
        dialer.relay_dial = self.dial
        host.set_stream_handler(STOP_PROTOCOL, self._accept)

    @property
    def reservations(self) -> tuple[Reservation, ...]:
        """Places in force."""
        now = self._clock()
        return tuple(each for each in self._reservations.values() if each.until > now)

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """This node's addresses through its relays."""
        return tuple(address for each in self.reservations for address in each.addresses)

    async def run(self, wanted: Callable[[], bool]) -> None:
        """Keep places at relays while `wanted` says so, until cancelled."""
        while True:
            if wanted():
                await self._keep()
            else:
                self._reservations.clear()
            await trio.sleep(ROUND_SECONDS)

    async def reserve(self, relay: str) -> Reservation:
        """Make or renew a reservation at a connected relay. Raises RelayError."""
        try:
            async with open_stream(self._host, relay, HOP_PROTOCOL, deadline_seconds=ANSWER_SECONDS_MAX) as stream:
                await send_message(stream, HopMessage(type=HopMessage.RESERVE), deadline_seconds=ANSWER_SECONDS_MAX)
                answer = await receive_message(
                    stream, HopMessage, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=ANSWER_SECONDS_MAX
                )
        except ControlError as error:
            raise RelayError(f"{relay} gave no reservation: {error}") from error
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            raise RelayError(f"{relay} gave no reservation: {status_name(answer.status)}")
        now = self._clock()
        until = min(answer.reservation.expire, now + RESERVATION_SECONDS_MAX)
        if until <= now:
            raise RelayError(f"{relay} gave a reservation that has ended already: compare the clocks")
        addresses = self._addresses_through(relay, answer.reservation.addrs)
        if not addresses:
            raise RelayError(f"{relay} has no address at which others could dial it")
        self._reservations[relay] = Reservation(relay, now, until, addresses)
        return self._reservations[relay]

    async def dial(self, address: PeerAddress) -> None:
        """Connect to a peer through the relay in its address. Raises RelayError, ControlError or DialError."""
        relay = address.relay_address
        await self._dialer.connect(relay.peer_id, [relay])
        try:
            with trio.fail_after(ANSWER_SECONDS_MAX):
                stream = await self._host.new_stream(ID.from_base58(relay.peer_id), [HOP_PROTOCOL])
        except Exception as error:
            raise RelayError(f"{relay.peer_id} is no relay: {error!r}") from error
        try:
            question = HopMessage(type=HopMessage.CONNECT, peer=Peer(id=base58.b58decode(address.peer_id)))
            await send_message(stream, question, deadline_seconds=ANSWER_SECONDS_MAX)
            answer = await receive_message(
                stream, HopMessage, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=ANSWER_SECONDS_MAX
            )
            if answer.type != HopMessage.STATUS or answer.status != Status.OK:
                raise RelayError(f"{relay.peer_id} did not connect us: {status_name(answer.status)}")
            circuit = _circuit(relay.peer_id, address.peer_id)
            raw = CircuitConnection(stream, circuit, initiator=True)
            with trio.fail_after(UPGRADE_SECONDS_MAX):
                target = ID.from_base58(address.peer_id)
                connection = await self._host.get_network().upgrade_outbound_raw_conn(raw, target)
            connection.set_transport_info([circuit], ConnectionType.RELAYED)
        except BaseException:
            await reset_stream(stream)
            raise

    async def _accept(self, stream: Any) -> None:
        """A relay brings a connection: accepted only from relays at which this node has a place."""
        relay = str(stream.muxed_conn.peer_id)
        try:
            offer = await receive_message(
                stream, StopMessage, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=ANSWER_SECONDS_MAX
            )
            source = base58.b58encode(bytes(offer.peer.id)).decode() if len(offer.peer.id) <= 64 else ""
            if offer.type != StopMessage.CONNECT or not is_peer_id(source):
                raise ControlError("it is no offer of a connection")
            relayed = sum(map(is_relayed, self._host.get_network().get_connections()))
            if relay not in self._reservations or relayed >= RELAYED_MAX:
                status = Status.RESOURCE_LIMIT_EXCEEDED if relay in self._reservations else Status.PERMISSION_DENIED
                refusal = StopMessage(type=StopMessage.STATUS, status=status)
                await send_message(stream, refusal, deadline_seconds=ANSWER_SECONDS_MAX)
                await close_stream(stream)
                log.info("a connection through a relay is refused", relay=relay, reason=status.name)
                return
            accepted = StopMessage(type=StopMessage.STATUS, status=Status.OK)
            await send_message(stream, accepted, deadline_seconds=ANSWER_SECONDS_MAX)
            await self._upgrade(stream, relay, source)
        except Exception as error:  # of the upgrade: the library has no common base of its errors
            log.info("a connection through a relay was not accepted", relay=relay, reason=repr(error))
            await reset_stream(stream)

    async def _upgrade(self, stream: Any, relay: str, source: str) -> None:
        circuit = _circuit(relay, source)
        raw = CircuitConnection(stream, circuit, initiator=False)
        network = self._host.get_network()
        with trio.fail_after(UPGRADE_SECONDS_MAX):
            muxed = await network.upgrade_inbound_raw_conn(raw, circuit)
        for connection in network.get_connections(muxed.peer_id):
            if connection.muxed_conn is muxed:
                connection.set_transport_info([circuit], ConnectionType.RELAYED)
        self.on_accepted(str(muxed.peer_id))

    async def _keep(self) -> None:
        """Renew what is due, drop what is lost, and find further relays."""
        now = self._clock()
        self._refused = {relay: until for relay, until in self._refused.items() if until > now}
        for relay, reservation in list(self._reservations.items()):
            if reservation.until <= now or not has_direct_connection(self._host, relay):
                log.warning("a place at a relay is lost", relay=relay)
                del self._reservations[relay]
            elif reservation.due(now):
                await self._try(relay)
        for relay in self._dialer.connected():
            if len(self._reservations) >= RELAYS_WANTED:
                return
            if (
                relay not in self._reservations
                and relay not in self._refused
                and speaks(self._host, relay, HOP_PROTOCOL)
                and has_direct_connection(self._host, relay)
            ):
                await self._try(relay)

    async def _try(self, relay: str) -> None:
        try:
            reservation = await self.reserve(relay)
        except RelayError as error:
            self.last_error = str(error)
            self._refused[relay] = self._clock() + REFUSED_PAUSE_SECONDS
            log.info("no place at a relay", relay=relay, reason=str(error))
        else:
            self.last_error = ""
            log.info("this node is reachable through a relay", relay=relay, until=int(reservation.until))

    def _addresses_through(self, relay: str, encoded: Any) -> tuple[PeerAddress, ...]:
        """Our addresses through a relay: by what it says of itself, else by where we dialled it."""
        direct: dict[PeerAddress, None] = {}
        for data in encoded[: 2 * ADDRESSES_PER_RELAY_MAX]:
            try:
                address = parse_address(str(Multiaddr(bytes(data))), relay)
            except Exception as error:  # AddressError, or whatever the library raises for bytes that are no address
                log.debug("an address of a relay is left out", relay=relay, reason=repr(error))
                continue
            direct[address] = None
        direct.update(dict.fromkeys(each.address for each in self._book.known(relay) if each.reached_at))
        # Others dial these, not we: whether they make sense there is theirs to judge.
        usable = [address for address in direct if address.relay is None and address.reach is not Reach.NOWHERE]
        return tuple(
            PeerAddress(self._own_id, address.kind, address.host, address.port, relay)
            for address in usable[:ADDRESSES_PER_RELAY_MAX]
        )


def _circuit(relay: str, end: str) -> Multiaddr:
    return Multiaddr(f"/p2p/{relay}/p2p-circuit/p2p/{end}")
