"""The control socket: JSON-RPC 2.0, one request per line, on a Unix socket that only the daemon's user can open.

Detail: requests of one connection run side by side and are answered as they finish; `ask` sends notifications
(`ask.event`) before its response. A client that goes away cancels nothing by closing its sending half alone, so that
`echo … | nc -U` works; what it left running ends with the first event that can't be delivered.
"""

import errno
import os
import socket as stdlib_socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from node.control.frames import FRAME_BYTES_MAX, FrameReader, FrameTooLargeError
from node.control.jsonrpc import (
    BadRequest,
    ErrorCode,
    Frame,
    Request,
    RpcError,
    encode,
    error_value,
    event_value,
    parse_frame,
    result_value,
)
from node.control.methods import Method, parse_params
from node.control.views import View

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 16
"""More are told `busy` and closed: each may hold FRAME_BYTES_MAX of memory."""
FRAMES_IN_FLIGHT_MAX = 8
"""Frames of one connection that are worked on at once; the next is not read before one is answered."""
IDLE_SECONDS_MAX = 600
"""A connection on which nothing was asked for so long is closed: it would hold one of CONNECTIONS_MAX for ever."""
SEND_SECONDS_MAX = 30
"""A client that does not read for so long is cut off: its answers would pile up."""
SOCKET_MODE = 0o600
BACKLOG = 16


class ControlSocketError(Exception):
    """The control socket can't be opened; the message says why and what to do."""


def open_control_socket(path: Path) -> trio.SocketListener:
    """Listen on `path` with mode 0600, in place of a stale socket if there is one.

    Raises ControlSocketError if a daemon answers there, if the path is something else, or if it can't be made.
    """
    _clear_stale_socket(path)
    server = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    try:
        server.setblocking(False)
        server.bind(os.fspath(path))
        path.chmod(SOCKET_MODE)  # before listen: until then nobody can connect
        server.listen(BACKLOG)
    except OSError as error:
        server.close()
        raise ControlSocketError(
            f"can't open the control socket {path}: {error.strerror or error}. "
            "Set [control] socket to a path in a directory you can write to."
        ) from error
    return trio.SocketListener(trio.socket.from_stdlib_socket(server))


def _clear_stale_socket(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_socket():
        raise ControlSocketError(f"{path} exists and is no socket; set [control] socket to another path.")
    probe = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_STREAM)
    probe.settimeout(1)
    try:
        probe.connect(os.fspath(path))
    except OSError as error:
        if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
            raise ControlSocketError(
                f"can't tell whether a daemon listens on {path}: {error.strerror or error}"
            ) from error
        path.unlink(missing_ok=True)  # left behind by a daemon that was killed
    else:
        raise ControlSocketError(
            f"another daemon listens on {path}. Stop it first (`quern stop`), or give this one a data directory "
            "of its own."
        )
    finally:
        probe.close()


class Started(Protocol):
    """trio's TaskStatus, as far as it is used here."""

    def started(self) -> None:
        """Tell whoever started the task that it is up."""


async def serve_control(
    path: Path,
    methods: Mapping[str, Method],
    *,
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `methods` on the socket `path` until cancelled; the socket file is removed at the end.

    Reports that it has started once clients can connect. Raises ControlSocketError.
    """
    listener = open_control_socket(path)
    server = _Server(methods)
    log.info("control socket open", path=str(path))
    task_status.started()
    try:
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(server.serve_connection, [listener], handler_nursery=nursery)
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


class _Server:
    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._connections = 0

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Serve one client; whatever it does ends here."""
        self._connections += 1
        try:
            async with stream:
                if self._connections > CONNECTIONS_MAX:
                    await _Connection(stream, self._methods).refuse()
                else:
                    await _Connection(stream, self._methods).serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client is gone
        except* Exception as group:  # a fault of ours must cost this client only
            log.error("control connection failed", exc_info=group)
        finally:
            self._connections -= 1


class _Connection:
    def __init__(self, stream: trio.SocketStream, methods: Mapping[str, Method]) -> None:
        self._stream = stream
        self._methods = methods
        self._sending = trio.Lock()
        self._in_flight = trio.Semaphore(FRAMES_IN_FLIGHT_MAX, max_value=FRAMES_IN_FLIGHT_MAX)

    async def refuse(self) -> None:
        """Tell the client that there are too many, and close."""
        await self._send(error_value(None, RpcError(ErrorCode.BUSY, "too many connections", "Try again later.")))

    async def serve(self) -> None:
        """Read frames until the client closes, idles too long or sends what can't be a frame."""
        reader = FrameReader(self._stream)
        async with trio.open_nursery() as nursery:
            while True:
                await self._in_flight.acquire()
                try:
                    line = await self._next_line(reader)
                except FrameTooLargeError as error:
                    await self._send(error_value(None, RpcError(ErrorCode.INVALID_REQUEST, str(error))))
                    return
                if line is None:
                    return
                if line.strip():
                    nursery.start_soon(self._answer, line)
                else:
                    self._in_flight.release()

    async def _next_line(self, reader: FrameReader) -> bytes | None:
        line: bytes | None = None
        while True:
            with trio.move_on_after(IDLE_SECONDS_MAX) as waiting:
                line = await reader.next()
            idle = self._in_flight.value == FRAMES_IN_FLIGHT_MAX - 1  # none but the one acquired for this read
            if idle or not waiting.cancelled_caught:
                return line

    async def _answer(self, line: bytes) -> None:
        try:
            try:
                frame = parse_frame(line)
            except RpcError as error:
                await self._send(error_value(None, error))
                return
            await self._answer_frame(frame)
        finally:
            self._in_flight.release()

    async def _answer_frame(self, frame: Frame) -> None:
        responses = [
            response
            for response in [await self._respond(request) for request in frame.requests]
            if response is not None
        ]
        if frame.is_batch and responses:
            await self._send(responses)
        elif responses:
            await self._send(responses[0])

    async def _respond(self, request: Request | BadRequest) -> dict[str, Any] | None:
        if isinstance(request, BadRequest):
            return error_value(request.request_id, request.error)
        try:
            response = result_value(request.request_id, (await self._call(request)).model_dump(mode="json"))
        except RpcError as error:
            response = error_value(request.request_id, error)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            raise  # the client is gone: nobody to answer
        except Exception as error:  # our fault: said to the client in short, to the log in full
            log.error("control method failed", method=request.method, error=repr(error))
            log.debug("traceback of the failed method", method=request.method, exc_info=error)
            response = error_value(
                request.request_id,
                RpcError(ErrorCode.INTERNAL_ERROR, f"internal error in {request.method}", "See the daemon's log."),
            )
        return None if request.is_notification else response

    async def _call(self, request: Request) -> View:
        method = self._methods.get(request.method)
        if method is None:
            known = ", ".join(sorted(self._methods))
            raise RpcError(ErrorCode.METHOD_NOT_FOUND, f"no method {request.method!r}; there are: {known}")
        params = parse_params(method, request.params)

        async def emit(event: View) -> None:
            await self._send(event_value(request.method, request.request_id, event.model_dump(mode="json")))

        return await method.run(params, emit)

    async def _send(self, value: Any) -> None:
        data = encode(value)
        if len(data) > FRAME_BYTES_MAX:
            data = encode(
                error_value(
                    value.get("id") if isinstance(value, dict) else None,
                    RpcError(ErrorCode.INTERNAL_ERROR, f"the answer is larger than {FRAME_BYTES_MAX} bytes"),
                )
            )
        async with self._sending:
            with trio.fail_after(SEND_SECONDS_MAX):
                await self._stream.send_all(data)
