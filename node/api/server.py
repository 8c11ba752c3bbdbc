"""HTTP for users: Hypercorn's trio worker around the application, with a clear word when the port is taken."""

import errno
import os
import socket

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette

log = structlog.get_logger(__name__)

GRACEFUL_SECONDS = 2.0
KEEP_ALIVE_SECONDS = 75
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
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # Hypercorn closes what it is given
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = GRACEFUL_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    await serve(app, config, mode="asgi", shutdown_trigger=trio.sleep_forever)  # type: ignore[arg-type]
