"""Turns a connection through a relay into a direct one (DCUtR): both ends dial at the same moment, from their ports.

Detail: the end that was reached through the relay begins. It first dials the other end plainly, which works wherever
only one of the two is hidden. Otherwise the ends exchange addresses over the relayed connection, measure its round
trip, and dial each other half a round trip later, so that each router sees a packet go out before one comes in. Both
dial from the port they listen at, because that is the port their router has mapped.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import dcutr_pb2
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, parse_address
from p2p.discovery.connections import connections_of, has_direct_connection, identified_addresses, is_relayed
from p2p.discovery.control_streams import (
    ControlError,
    MalformedError,
    close_stream,
    open_stream,
    receive_message,
    reset_stream,
    send_message,
)
from p2p.discovery.dialer import Dialer

log = structlog.get_logger(__name__)

PROTOCOL = "/libp2p/dcutr"
HolePunch: Any = dcutr_pb2.HolePunch
"""Any: generated code without types."""

MESSAGE_BYTES_MAX = 4096
MESSAGE_SECONDS_MAX = 10.0
ADDRESSES_MAX = 4
ATTEMPTS_MAX = 3
"""As the specification has it; what three did not do, more will not."""
DIAL_SECONDS_MAX = 5.0
RELAY_GRACE_SECONDS = 1.0
"""For answers that are under way over the relay."""
LOOK_SECONDS = 0.05
PEERS_AT_ONCE_MAX = 4


class HolePuncher:
    """Makes connections direct."""

    def __init__(self, host: Any, dialer: Dialer, addresses: Callable[[], Sequence[PeerAddress]]) -> None:
        """`addresses` are those at which this node, or its router, might be reached."""
        self._host = host
        self._dialer = dialer
        self._addresses = addresses
        self._running: set[str] = set()
        self.tried = 0
        self.succeeded = 0
        self.last_error = ""

    def start(self) -> None:
        """Take part when others begin."""
        self._host.set_stream_handler(PROTOCOL, self._handle)

    async def punch(self, peer_id: str) -> bool:
        """Make the connection with a peer that came through a relay direct; whether that worked."""
        if has_direct_connection(self._host, peer_id):
            return True
        if peer_id in self._running or len(self._running) >= PEERS_AT_ONCE_MAX:
            return False
        self._running.add(peer_id)
        self.tried += 1
        try:
            direct = await self._dial_plainly(peer_id)
            for _ in range(ATTEMPTS_MAX):
                direct = direct or await self._attempt(peer_id)
            if direct:
                self.succeeded += 1
                self.last_error = ""
                log.info("a connection through a relay is direct now", peer=peer_id)
                await self._leave_relay(peer_id)
                return True
        except ControlError as error:
            self.last_error = str(error)
            log.debug("no hole was punched", peer=peer_id, reason=str(error))
        finally:
            self._running.discard(peer_id)
        return False

    async def _dial_plainly(self, peer_id: str) -> bool:
        """Dial where the peer said that it listens: enough where only this node is hidden."""
        said = identified_addresses(self._host, peer_id)
        addresses = [each for each in said if each.relay is None and self._dialer.allows(each)][:ADDRESSES_MAX]
        return bool(addresses) and await self._dial_all(peer_id, addresses, begins=False)

    async def _leave_relay(self, peer_id: str) -> None:
        """End the relayed connection: what was begun on it in its few seconds is begun again on the direct one."""
        await trio.sleep(RELAY_GRACE_SECONDS)
        if has_direct_connection(self._host, peer_id):
            for connection in list(connections_of(self._host, peer_id)):
                if is_relayed(connection):
                    try:
                        await connection.close()
                    except Exception as error:  # it ends by the relay's limits
                        log.debug("a relayed connection could not be closed", peer=peer_id, reason=repr(error))

    async def _attempt(self, peer_id: str) -> bool:
        async with open_stream(self._host, peer_id, PROTOCOL, deadline_seconds=MESSAGE_SECONDS_MAX) as stream:
            began = trio.current_time()
            await self._send(stream, HolePunch.CONNECT, self._own())
            theirs = await self._receive(stream, HolePunch.CONNECT, peer_id)
            round_trip = trio.current_time() - began
            await self._send(stream, HolePunch.SYNC, ())
            await trio.sleep(round_trip / 2)
            return await self._dial_all(peer_id, theirs, begins=True)

    async def _handle(self, stream: Any) -> None:
        """The other end begins."""
        peer_id = str(stream.muxed_conn.peer_id)
        try:
            if not is_relayed(stream.muxed_conn):
                raise ControlError("the connection is direct already")
            if len(self._running) >= PEERS_AT_ONCE_MAX:
                raise ControlError("too many at once")
            theirs = await self._receive(stream, HolePunch.CONNECT, peer_id)
            await self._send(stream, HolePunch.CONNECT, self._own())
            await self._receive(stream, HolePunch.SYNC, peer_id)
            self._running.add(peer_id)
            try:
                await self._dial_all(peer_id, theirs, begins=False)
            finally:
                self._running.discard(peer_id)
            await close_stream(stream)
        except ControlError as error:
            log.debug("a hole punch of a peer failed", peer=peer_id, reason=str(error))
            await reset_stream(stream)

    async def _dial_all(self, peer_id: str, addresses: Sequence[PeerAddress], *, begins: bool) -> bool:
        """Dial a peer at all its addresses at once until there is a direct connection; whether there is one."""
        with trio.move_on_after(DIAL_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    nursery.start_soon(self._dial, peer_id, address, begins)
                while not has_direct_connection(self._host, peer_id):  # noqa: ASYNC110 - the library signals nothing
                    await trio.sleep(LOOK_SECONDS)
                nursery.cancel_scope.cancel()
        return has_direct_connection(self._host, peer_id)

    async def _dial(self, peer_id: str, address: PeerAddress, begins: bool) -> None:
        """Dial from the listening port. Where both dials meet, the end that began answers the handshake."""
        network = self._host.get_network()
        target = Multiaddr(address.transport)
        source = self._source(address)
        dial = network.dial_addr_as_responder if begins else network.dial_addr
        try:
            await dial(target, ID.from_base58(peer_id), source)
        except Exception as error:  # the library has no common base of its errors
            self.last_error = f"{address}: {error!r}"
            log.debug("a dial through the router failed", address=str(address), reason=repr(error))

    def _source(self, target: PeerAddress) -> tuple[str, int] | None:
        """The address this node listens at, of the target's kind."""
        for listening in self._host.get_transport_addrs():
            try:
                kind = "ip4" if target.kind == "ip4" else "ip6"
                return str(listening.value_for_protocol(kind)), int(listening.value_for_protocol("tcp"))
            except Exception:  # noqa: S112 - it has another protocol; the library has no common base of its errors
                continue
        return None

    def _own(self) -> list[PeerAddress]:
        return [address for address in self._addresses() if address.relay is None][:ADDRESSES_MAX]

    async def _send(self, stream: Any, kind: int, addresses: Sequence[PeerAddress]) -> None:
        encoded = [Multiaddr(address.transport).to_bytes() for address in addresses]
        await send_message(stream, HolePunch(type=kind, ObsAddrs=encoded), deadline_seconds=MESSAGE_SECONDS_MAX)

    async def _receive(self, stream: Any, kind: int, peer_id: str) -> list[PeerAddress]:
        message = await receive_message(
            stream, HolePunch, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=MESSAGE_SECONDS_MAX
        )
        if message.type != kind:
            raise MalformedError("it sent another message than was due")
        addresses = []
        for data in message.ObsAddrs[: 4 * ADDRESSES_MAX]:
            try:
                address = parse_address(str(Multiaddr(bytes(data))), peer_id)
            except Exception as error:  # AddressError, or whatever the library raises for bytes that are no address
                log.debug("an address is left out", peer=peer_id, reason=repr(error))
                continue
            if address.relay is None and self._dialer.allows(address):
                addresses.append(address)
        return addresses[:ADDRESSES_MAX]
