"""A client of the control socket, as the command line uses it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
from pydantic import ValidationError
from pydantic_core import from_json

from node.control.frames import FrameReader, FrameTooLargeError
from node.control.jsonrpc import encode, request_value
from node.control.views import View

Answer = TypeVar("Answer", bound=View)
EventSink = Callable[[Mapping[str, Any]], Awaitable[None]]


class DaemonNotRunningError(Exception):
    """Nothing listens on the control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"no daemon answers on {path}")
        self.path = path


class ControlError(Exception):
    """The daemon answered with an error, or not as it should."""

    def __init__(self, message: str, remedy: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code


class ControlClient:
    """One connection; one call at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._reader = FrameReader(stream)
        self._calls = 0

    async def call(
        self,
        method: str,
        params: Mapping[str, Any],
        answer_type: type[Answer],
        *,
        deadline_seconds: float,
        on_event: EventSink | None = None,
    ) -> Answer:
        """Call `method` and return its answer; `on_event` sees each notification that belongs to the call.

        Raises ControlError for the daemon's errors, a lost connection or a missed deadline.
        """
        self._calls += 1
        try:
            with trio.fail_after(deadline_seconds):
                await self._stream.send_all(encode(request_value(self._calls, method, params)))
                result = await self._receive_result(self._calls, on_event)
        except trio.TooSlowError as error:
            raise ControlError(
                f"the daemon did not answer {method} within {deadline_seconds:g} s", "See its log."
            ) from error
        except (trio.BrokenResourceError, FrameTooLargeError, ValueError) as error:
            raise ControlError(f"lost the daemon during {method}: {error}", "See its log.") from error
        try:
            return answer_type.model_validate(result)
        except ValidationError as error:
            raise ControlError(
                f"the daemon's answer to {method} has another form than expected",
                "Are `quern` and `quernd` of the same version?",
            ) from error

    async def _receive_result(self, call: int, on_event: EventSink | None) -> Any:
        while True:
            line = await self._reader.next()
            if line is None:
                raise ControlError("the daemon closed the connection", "See its log.")
            message = from_json(line)
            if "method" in message:
                if on_event is not None and message["params"]["id"] == call:
                    await on_event(message["params"]["event"])
                continue
            if "error" in message and message.get("id") in (call, None):
                error = message["error"]
                raise ControlError(error["message"], error.get("data", {}).get("remedy", ""), error["code"])
            if message.get("id") == call:
                return message["result"]


@asynccontextmanager
async def connect_control(path: Path) -> AsyncIterator[ControlClient]:
    """Connect to the daemon on the socket `path`.

    Raises DaemonNotRunningError if none listens, ControlError if this user may not open the socket.
    """
    try:
        stream = await trio.open_unix_socket(str(path))
    except PermissionError as error:
        raise ControlError(f"you may not open {path}", "Run this command as the user the daemon runs as.") from error
    except OSError as error:
        raise DaemonNotRunningError(path) from error
    async with stream:
        yield ControlClient(stream)
