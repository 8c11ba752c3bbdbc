"""HTTP for users: Hypercorn's trio worker around the application, with a clear word when the port is taken."""

import errno
import socket

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from starlette.applications import Starlette

from node.api.bounded_stream import BoundedStream, ConnectionApp, Flusher, HttpConnection, cut_stalled

log = structlog.get_logger(__name__)

KEEP_ALIVE_SECONDS = 75
CONNECTIONS_MAX = 1024
"""Each may hold a body and an answer; those beyond are closed at once."""
BACKLOG = 256


class ApiPortError(Exception):
    """The API cannot listen; the message says where and why."""


def bind_api(host: str, port: int, *, name: str = "the API", key: str = "[api] port") -> socket.socket:
    """Bind and listen; port 0 takes a free one. Raises ApiPortError, which calls it `name` and names the `key`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        why = "in use by another program" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise ApiPortError(f"{name} cannot listen at {host}:{port}: {why}; see {key}") from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def serve_api(app: Starlette, listener: socket.socket) -> None:
    """Serve until cancelled. `listener` stays open, so that a crashed server can be started again on it."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    context = WorkerContext(None)
    streams: set[BoundedStream] = set()
    flusher = Flusher()

    async def serve_connection(connection: trio.SocketStream) -> None:
        if len(streams) >= CONNECTIONS_MAX:
            await connection.aclose()
            return
        stream = BoundedStream(connection, flusher)
        streams.add(stream)
        try:
            # Hypercorn's own serving loop gives its connections no limit; the rest of it is used as it is.
            framework = ConnectionApp(app)  # type: ignore[arg-type] # Starlette's types of ASGI are wider
            framework.connection = HttpConnection(framework, config, context, {}, stream)  # type: ignore[arg-type]
            await framework.connection
        except Exception as error:  # one connection's fault is not the others'
            log.error("a connection failed", reason=repr(error))
        finally:
            stream.leave()
            streams.discard(stream)

    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
    async with trio.open_nursery() as connections:
        connections.start_soon(cut_stalled, streams)
        connections.start_soon(flusher.run)
        try:
            await trio.serve_listeners(serve_connection, [accepting], handler_nursery=connections)
        finally:
            for stream in streams:
                stream.cut()
