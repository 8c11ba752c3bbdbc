"""TCP: a port that is ours alone, and reads in large pieces.

libp2p 0.8.1 binds with SO_REUSEPORT, for hole punching: a second daemon shares the port silently and takes half of the
connections. Here the port is taken without it, which no second listener survives, and only then opened to our own
outbound sockets. It also accepts connections in a task of the whole program, which an error would end. Watched by
test_two_unguarded_hosts_share_a_port_but_ours_do_not.
"""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from libp2p.abc import IListener
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

log = structlog.get_logger(__name__)

READ_BYTES = 65536
"""Asked of the socket at once; the layers above ask for two bytes, then for a message."""
AT_ONCE_BYTES_MAX = 64 * 1024
"""Written without letting other tasks run. Without a bound they would wait until the socket is full."""
WRITE_COST_BYTES = 512
"""Of each write besides its length: small ones take their time too."""
BACKLOG = 128


class BufferedTcpStream(TrioTCPStream):
    """Reads from the socket in large pieces, and writes small ones at once: half the calls to the system, and none of
    the library's locks, each of which is a turn of the scheduler. For one reader. Knows IPv6 addresses.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._ahead = bytearray()
        self._at_once_bytes = 0
        try:
            host, port = stream.socket.getpeername()[:2]
            self._cached_remote_address = (str(host), int(port))
        except OSError:
            self._cached_remote_address = None  # gone already

    async def read(self, n: int | None = None) -> bytes:
        """As the library's."""
        if n == 0:
            return b""
        if not self._ahead:
            data = await self._receive()
            if n is None or len(data) <= n:
                return data
            self._ahead += data
        count = len(self._ahead) if n is None else n
        taken = bytes(self._ahead[:count])
        del self._ahead[:count]
        return taken

    async def write(self, data: bytes) -> None:
        """As the library's, but an error if it was closed here. A checkpoint only now and then, and if it is full."""
        sent = self.write_at_once(data)
        if sent < len(data):
            if self.stream.socket.fileno() < 0:  # the library would return as if it were written
                raise ConnectionClosedError("the connection was closed here", transport="tcp")
            await super().write(data[sent:])

    def write_at_once(self, data: bytes) -> int:
        """Return how much of `data` the socket took. The rest is for `write`, which waits, or says what happened."""
        self._at_once_bytes += len(data) + WRITE_COST_BYTES
        if self._at_once_bytes > AT_ONCE_BYTES_MAX or self.write_lock.locked():
            self._at_once_bytes = 0
            return 0
        try:
            return os.write(self.stream.socket.fileno(), data)
        except OSError:  # it is full, or gone
            return 0

    async def _receive(self) -> bytes:
        descriptor = self.stream.socket.fileno()
        try:
            while descriptor >= 0:
                # First: data is rarely there already, and to be told so takes longer than to wait.
                await trio.lowlevel.wait_readable(descriptor)
                with contextlib.suppress(BlockingIOError):
                    return os.read(descriptor, READ_BYTES)
        except trio.ClosedResourceError:
            return b""
        except OSError as error:
            raise ConnectionClosedError(f"the connection was reset: {error}", transport="tcp") from error
        return b""  # closed here


class ExclusiveTcpListener(IListener):
    """Listens where nobody else does. The swarm sets `background_nursery` before it calls `listen`."""

    def __init__(self, handler: Callable[[Any], Awaitable[None]], failures: dict[str, OSError]) -> None:
        """`failures` is told by address why it could not be listened on: the swarm keeps that to itself."""
        self.background_nursery: trio.Nursery | None = None
        self._handler = handler
        self._failures = failures
        self._listeners: list[trio.SocketListener] = []
        self._scope = trio.CancelScope()

    async def listen(self, maddr: Multiaddr) -> None:
        """Begin to accept. Raises OpenConnectionError."""
        if self.background_nursery is None:
            raise OpenConnectionError("the swarm does not run")
        try:
            listener = await bind_exclusively(maddr)
        except OSError as error:
            self._failures[str(maddr)] = error
            raise OpenConnectionError(f"{maddr}: {error.strerror}") from error
        self._listeners.append(listener)
        await self.background_nursery.start(self._serve, listener)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Addresses that are listened on, with the port that was given for 0."""
        addresses = []
        for listener in self._listeners:
            host, port = listener.socket.getsockname()[:2]
            addresses.append(Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"))
        return tuple(addresses)

    async def close(self) -> None:
        """Stop to accept, and end the connections that were accepted."""
        self._scope.cancel()
        for listener in self._listeners:
            with trio.CancelScope(shield=True):
                await listener.aclose()
        self._listeners.clear()

    async def _serve(self, listener: trio.SocketListener, task_status: Any) -> None:
        with self._scope:
            async with trio.open_nursery() as connections:
                task_status.started()
                try:
                    await trio.serve_listeners(self._accept, [listener], handler_nursery=connections)
                except (trio.ClosedResourceError, OSError) as error:
                    log.debug("a listener ends", reason=repr(error))

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            await self._handler(TrioTCPStream(stream))
        except Exception as error:  # of one connection, and no reason to end the others
            log.info("an inbound connection failed", reason=repr(error))


class HardenedTcp(TCP):
    """The library's, with buffered streams and listeners of our own."""

    def __init__(self) -> None:
        super().__init__()
        self.listen_failures: dict[str, OSError] = {}
        """By address."""

    def create_listener(self, handler_function: Any) -> Any:
        """Return a listener that hands each connection to `handler_function`."""
        return ExclusiveTcpListener(handler_function, self.listen_failures)

    async def _dial_resolved(self, maddr: Multiaddr, source: tuple[str, int] | None = None) -> RawConnection:
        connection: Any = await super()._dial_resolved(maddr, source)
        return RawConnection(BufferedTcpStream(connection.stream.stream), True)


async def bind_exclusively(maddr: Multiaddr) -> trio.SocketListener:
    """Return a socket that listens at `maddr` and shares its port with no other listener. Raises OSError."""
    names = {protocol.name for protocol in maddr.protocols()}
    family, protocol = (socket.AF_INET6, "ip6") if "ip6" in names else (socket.AF_INET, "ip4")
    listener = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections of a daemon that was here a moment ago do not keep the port; a listener does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await listener.bind((str(maddr.value_for_protocol(protocol)), int(str(maddr.value_for_protocol("tcp")))))
        listener.listen(BACKLOG)
        # From here on our own outbound sockets may leave from this port: what hole punching needs.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return trio.SocketListener(listener)
    except BaseException:
        listener.close()
        raise
