"""The swarm: who may come in and stay, and connections that free their place when they end.

libp2p 0.8.1 keeps the place of an inbound connection until the host ends: after 300 connections in its life, open or
not, a host hears nobody. It trims the connections of one peer only after 20 s, does not know the address of an IPv6
peer, and has no notion of a banned one. Watched by
test_an_unguarded_host_is_deaf_after_enough_connections_have_come_and_gone and the other tests of connections there.
"""

import time
from typing import Any

import structlog
import trio
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection_gate import ConnectionGate
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm, _NegativePeerCache
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from multiaddr import Multiaddr

from p2p.doorkeeper import CONNECTIONS_PER_PEER_MAX, SPARED, Doorkeeper, Visit
from p2p.repairs.negotiation import MalformedNegotiationError
from p2p.repairs.tcp import BufferedTcpStream
from p2p.repairs.upgrader import BannedPeerError
from p2p.standing import Ban, Offence, Standing, address_name

log = structlog.get_logger(__name__)

SWEEP_SECONDS = 30.0
EVICTION_AGE_SECONDS = 20.0
"""A connection that has opened no stream by then is worth less than a newcomer."""
CAUSES_MAX = 32
GONE = (
    MultiselectCommunicatorError,
    IncompleteReadError,
    ConnectionClosedError,
    RawConnError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
"""What is raised when the other end has hung up."""


class NoAutoConnector(AutoConnector):
    """Dials nobody: the library's dials half of everyone it ever heard of, whatever its settings say."""

    async def maybe_connect(self) -> None:
        """Do nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Do nothing."""

    def record_disconnect(self, peer_id: Any) -> None:
        """Remember nothing: the library never forgets whom it remembers here."""


class StandingGate(ConnectionGate):
    """Does not dial banned addresses."""

    def __init__(self, standing: Standing) -> None:
        super().__init__()
        self._standing = standing

    def _check_ip_allowed(self, ip_str: str) -> bool:
        try:
            name = address_name(ip_str)
        except ValueError:
            return False
        return not self._standing.is_banned(name)


DIAL_AGAIN_SECONDS = 2.0
"""The library does not dial a peer for a minute that could not be dialled once, not even over a connection that the
peer has made since: a daemon that restarts is back in less."""


class HardenedSwarm(Swarm):
    """The library's, with a doorkeeper."""

    def __init__(self, *arguments: Any, standing: Standing, doorkeeper: Doorkeeper, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.standing = standing
        self.doorkeeper = doorkeeper
        self.connection_gate = StandingGate(standing)
        self.auto_connector = NoAutoConnector(self)
        self._negative_peer_cache = _NegativePeerCache(ttl=DIAL_AGAIN_SECONDS)
        self._sweep_asked = trio.Event()
        standing.on_ban(self._note_ban)

    async def dial_peer(self, peer_id: Any) -> list[Any]:
        """As the library's, but not a banned peer."""
        self._refuse_banned(peer_id)
        return await super().dial_peer(peer_id)

    async def add_conn(self, muxed_conn: Any, direction: str = "unknown") -> Any:
        """As the library's, but not of a banned peer, nor more than a few of one peer."""
        try:
            self._refuse_banned(muxed_conn.peer_id)
            alive = [c for c in self.get_connections(muxed_conn.peer_id) if not c.is_closed]
            if len(alive) >= CONNECTIONS_PER_PEER_MAX and all(c.muxed_conn is not muxed_conn for c in alive):
                raise SwarmException(f"{muxed_conn.peer_id} has {len(alive)} connections already")
        except SwarmException:
            await muxed_conn.close()
            raise
        connection = await super().add_conn(muxed_conn, direction)
        if muxed_conn.is_closed:
            # It ended while it was being registered: then nobody else would ever take it off the list.
            self.remove_conn(connection)
            raise SwarmException(f"the connection to {muxed_conn.peer_id} ended at once")
        if self.standing.is_banned(str(muxed_conn.peer_id)):
            await connection.close()
            self._refuse_banned(muxed_conn.peer_id)
        self._negative_peer_cache.evict(str(muxed_conn.peer_id))
        return connection

    async def disconnect_banned(self) -> None:
        """Close the connections of banned peers and addresses, for ever: at once after a ban, and at times anyway."""
        while True:
            connection: Any
            for connection in self.get_connections():
                if connection.is_closed and connection.muxed_conn.is_closed:
                    self.remove_conn(connection)
                elif self._is_unwanted(connection):
                    self.manager.run_task(self._close_connection_async, connection)
            with trio.move_on_after(SWEEP_SECONDS):
                await self._sweep_asked.wait()
            self._sweep_asked = trio.Event()

    async def _handle_inbound_connection(self, read_write_closer: Any, maddr: Multiaddr) -> None:
        """Let it in or not; return when it has ended, for the listener then closes its socket."""
        stream = BufferedTcpStream(read_write_closer.stream)
        remote = stream.get_remote_address()
        visit = self.doorkeeper.knock(None if remote is None else remote[0])
        if not isinstance(visit, Visit):
            log.debug("a connection is refused", address=remote, reason=visit.value)
            self._make_room()
            return
        try:
            muxed = None
            try:
                muxed = await self.upgrade_inbound_raw_conn(RawConnection(stream, False), maddr)
            except Exception as error:
                self._judge_handshake(visit, error)
            finally:
                self.doorkeeper.entered(visit)
            if muxed is not None:
                event_closed: trio.Event = muxed.event_closed  # type: ignore[attr-defined]
                await event_closed.wait()
        finally:
            self.doorkeeper.leave(visit)

    def _refuse_banned(self, peer_id: Any) -> None:
        if self.standing.is_banned(str(peer_id)):
            raise SwarmException(f"{peer_id} is banned")

    def _is_unwanted(self, connection: Any) -> bool:
        name = _address_of(connection)
        return self.standing.is_banned(str(connection.muxed_conn.peer_id)) or (
            name not in SPARED and self.standing.is_banned(name)
        )

    def _note_ban(self, ban: Ban) -> None:
        """An address that brings one banned peer after the other is blamed for them."""
        self._sweep_asked.set()
        for connection in self.get_connections():
            name = _address_of(connection)
            if str(connection.muxed_conn.peer_id) == ban.peer and name and name not in SPARED:
                self.standing.blame(name, Offence.HARBOURED, f"{ban.peer} came from it")
                return

    def _judge_handshake(self, visit: Visit, error: Exception) -> None:
        offence = handshake_offence(error)
        log.debug("a handshake failed", address=visit.name, offence=offence, reason=repr(error))
        if offence is not None and visit.name and visit.name not in SPARED:
            self.standing.blame(visit.name, offence, "a handshake that is none")

    def _make_room(self) -> None:
        """End the oldest inbound connection on which nothing has happened yet."""
        oldest = min((c for c in self.get_connections() if _is_idle(c)), key=_created_at, default=None)
        if oldest is not None:
            log.debug("an idle connection makes room", peer=str(oldest.muxed_conn.peer_id))
            self.manager.run_task(self._close_connection_async, oldest)


def handshake_offence(error: BaseException) -> Offence | None:
    """Return what a failed handshake says of its address; None for what happens to the honest as well.

    A connection that is closed early may be a probe of the port, or a restart.
    """
    causes = _causes(error)
    if any(isinstance(cause, trio.TooSlowError) for cause in causes):
        return Offence.STALLED
    if any(isinstance(cause, MalformedNegotiationError) for cause in causes):
        return Offence.REFUSED
    if any(isinstance(cause, (BannedPeerError, *GONE)) for cause in causes):
        return None
    refused = any(isinstance(cause, (SecurityUpgradeFailure, MuxerUpgradeFailure)) for cause in causes)
    return Offence.REFUSED if refused else None


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < CAUSES_MAX:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _address_of(connection: Any) -> str:
    remote = connection.muxed_conn.get_remote_address()
    try:
        return "" if remote is None else address_name(remote[0])
    except ValueError:
        return ""


def _created_at(connection: Any) -> float:
    created: float = connection._created_at
    return created


def _is_idle(connection: Any) -> bool:
    return (
        not connection.muxed_conn.is_initiator
        and not connection.get_streams()
        and time.time() - _created_at(connection) > EVICTION_AGE_SECONDS
    )
