"""A relay (circuit relay v2): carries connections to peers that nobody can dial, within bounds.

Goals: peers behind NAT can be reached; what that costs this node is bounded by `RelayLimits`, however many peers ask.
Non-goals: carrying bulk. Two peers that found each other through a relay punch a hole or stay within the limits.

Detail: the library's relay is not used: it holds silent circuits for ever, because it looks at the time only between
reads; it reserves for whom the message names instead of for whom the connection proves; and it does not count the
circuits of an initiator without a reservation.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import base58
import structlog
import trio
from multiaddr import Multiaddr

from p2p.discovery.addresses import AddressError, Reach, is_peer_id, parse_address, reach_of
from p2p.discovery.connections import connections_of, is_relayed, remote_endpoint
from p2p.discovery.control_streams import (
    ControlError,
    EndOfMessagesError,
    MalformedError,
    close_stream,
    open_stream,
    receive_message,
    reset_stream,
    send_message,
)
from p2p.discovery.relay_protocol import (
    HOP_PROTOCOL,
    MESSAGE_BYTES_MAX,
    STOP_PROTOCOL,
    HopMessage,
    Limit,
    Peer,
    Reservation,
    Status,
    StopMessage,
)
from p2p.host import listening_addresses
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

MESSAGE_SECONDS_MAX = 15.0
PUMP_BYTES = 65536
FRIENDLY_CLOSE_SECONDS = 0.5
"""For the answer to be read before the stream is gone."""


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives at most."""

    reservations_max: int = 128
    reservations_per_ip_max: int = 8
    """Keys are free, public addresses are not. Peers of the local network are not counted by address."""
    reservation_seconds: int = 3600
    circuits_max: int = 64
    """Each costs two streams and up to 64 KiB in flight."""
    circuits_per_peer_max: int = 8
    circuit_seconds: int = 600
    circuit_bytes: int = 32 * 1024 * 1024
    """Both directions together: gossip and control for ten minutes, and no weights."""


class RelayServer:
    """Serves reservations and circuits."""

    def __init__(
        self,
        host: Any,
        *,
        limits: RelayLimits | None = None,
        standing: Standing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives UNIX seconds: a reservation's end is told to the peer in them."""
        self._host = host
        self._limits = limits or RelayLimits()
        self._standing = standing
        self._clock = clock
        self._reservations: dict[str, float] = {}
        self._circuits: Counter[str] = Counter()
        self._open_circuits = 0
        self.relayed_bytes = 0

    def start(self) -> None:
        """Answer from now on."""
        self._host.set_stream_handler(HOP_PROTOCOL, self._handle)

    @property
    def reservations(self) -> int:
        """Reservations in force."""
        self._expire()
        return len(self._reservations)

    @property
    def circuits(self) -> int:
        """Circuits open now."""
        return self._open_circuits

    async def _handle(self, stream: Any) -> None:
        peer_id = str(stream.muxed_conn.peer_id)
        try:
            if is_relayed(stream.muxed_conn):
                await self._refuse(stream, Status.PERMISSION_DENIED)  # chains of relays multiply the cost
                return
            question = await receive_message(
                stream, HopMessage, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=MESSAGE_SECONDS_MAX
            )
            if question.type == HopMessage.RESERVE:
                await self._reserve(stream, peer_id)
            elif question.type == HopMessage.CONNECT:
                await self._connect(stream, peer_id, bytes(question.peer.id))
            else:
                await self._refuse(stream, Status.UNEXPECTED_MESSAGE)
        except EndOfMessagesError:
            await close_stream(stream)
        except ControlError as error:
            if isinstance(error, MalformedError) and self._standing is not None:
                self._standing.blame(peer_id, Offence.MALFORMED, f"relay request: {error}")
            await reset_stream(stream)

    async def _reserve(self, stream: Any, peer_id: str) -> None:
        """Reserve for the peer at the other end of the connection, whoever the message names."""
        self._expire()
        if peer_id not in self._reservations and not self._has_room(peer_id):
            await self._refuse(stream, Status.RESERVATION_REFUSED)
            return
        until = self._clock() + self._limits.reservation_seconds
        self._reservations[peer_id] = until
        answer = HopMessage(
            type=HopMessage.STATUS,
            status=Status.OK,
            reservation=Reservation(expire=int(until), addrs=self._own_addresses()),
            limit=Limit(duration=self._limits.circuit_seconds, data=self._limits.circuit_bytes),
        )
        await send_message(stream, answer, deadline_seconds=MESSAGE_SECONDS_MAX)
        await close_stream(stream)
        log.info("a peer reserved a place at this relay", peer=peer_id, reservations=len(self._reservations))

    async def _connect(self, stream: Any, source: str, target_bytes: bytes) -> None:
        """Connect `source` to a peer with a reservation, and carry bytes until an end or a limit."""
        self._expire()
        target = base58.b58encode(target_bytes).decode() if len(target_bytes) <= 64 else ""
        if not is_peer_id(target):
            raise MalformedError("it names no peer to connect to")
        if target not in self._reservations or (self._standing is not None and self._standing.is_banned(target)):
            await self._refuse(stream, Status.NO_RESERVATION)
            return
        if (
            self._open_circuits >= self._limits.circuits_max
            or max(self._circuits[source], self._circuits[target]) >= self._limits.circuits_per_peer_max
        ):
            await self._refuse(stream, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        self._open_circuits += 1
        self._circuits.update((source, target))
        try:
            await self._carry(stream, source, target)
        finally:
            self._open_circuits -= 1
            self._circuits.subtract((source, target))
            self._circuits += Counter()  # drops what is zero

    async def _carry(self, stream: Any, source: str, target: str) -> None:
        limit = Limit(duration=self._limits.circuit_seconds, data=self._limits.circuit_bytes)
        try:
            async with open_stream(self._host, target, STOP_PROTOCOL, deadline_seconds=MESSAGE_SECONDS_MAX) as onward:
                offer = StopMessage(type=StopMessage.CONNECT, peer=Peer(id=base58.b58decode(source)), limit=limit)
                await send_message(onward, offer, deadline_seconds=MESSAGE_SECONDS_MAX)
                answer = await receive_message(
                    onward, StopMessage, bytes_max=MESSAGE_BYTES_MAX, deadline_seconds=MESSAGE_SECONDS_MAX
                )
                if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                    raise ControlError(f"the target refused: status {answer.status}")
                accepted = HopMessage(type=HopMessage.STATUS, status=Status.OK, limit=limit)
                await send_message(stream, accepted, deadline_seconds=MESSAGE_SECONDS_MAX)
                await self._pump_both_ways(stream, onward)
                await reset_stream(onward)
        except ControlError as error:
            log.debug("a circuit could not be opened", source=source, target=target, reason=str(error))
            await self._refuse(stream, Status.CONNECTION_FAILED)
            return
        await reset_stream(stream)

    async def _pump_both_ways(self, one: Any, other: Any) -> None:
        """Carry bytes until one end closes, or time or bytes are used up."""
        left = self._limits.circuit_bytes

        async def pump(source: Any, sink: Any) -> None:
            nonlocal left
            try:
                while data := await source.read(PUMP_BYTES):
                    left -= len(data)
                    if left < 0:
                        log.info("a circuit has used up its bytes", limit=self._limits.circuit_bytes)
                        break
                    self.relayed_bytes += len(data)
                    await sink.write(data)
            except Exception as error:  # either end is gone; the library has no common base of its errors
                log.debug("a circuit has ended", reason=repr(error))
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self._limits.circuit_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, one, other)
                nursery.start_soon(pump, other, one)

    async def _refuse(self, stream: Any, status: Status) -> None:
        answer = HopMessage(type=HopMessage.STATUS, status=status)
        try:
            await send_message(stream, answer, deadline_seconds=MESSAGE_SECONDS_MAX)
            await trio.sleep(FRIENDLY_CLOSE_SECONDS)
        except ControlError as error:
            log.debug("a refusal could not be sent", reason=str(error))
        await close_stream(stream)

    def _has_room(self, peer_id: str) -> bool:
        if len(self._reservations) >= self._limits.reservations_max:
            return False
        own = self._ip_of(peer_id)
        if own is None:
            return True
        same = sum(self._ip_of(other) == own for other in self._reservations)
        return same < self._limits.reservations_per_ip_max

    def _ip_of(self, peer_id: str) -> str | None:
        """The public address a peer is connected from; None for local ones, which are not counted."""
        for connection in connections_of(self._host, peer_id):
            endpoint = remote_endpoint(connection)
            if endpoint is not None and reach_of(endpoint[0]) is Reach.PUBLIC:
                return str(endpoint[0])
        return None

    def _expire(self) -> None:
        """A reservation ends by time, or with the connection that a circuit would need."""
        now = self._clock()
        for peer_id, until in list(self._reservations.items()):
            if until < now or next(connections_of(self._host, peer_id), None) is None:
                del self._reservations[peer_id]

    def _own_addresses(self) -> list[bytes]:
        encoded = []
        for text in listening_addresses(self._host):
            try:
                address = parse_address(text)
            except AddressError:
                continue
            if address.relay is None:
                encoded.append(Multiaddr(str(address)).to_bytes())
        return encoded
