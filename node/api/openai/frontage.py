"""What stands before every handler: names for requests, headers that OpenAI's API has, and no strangers' web pages.

A web page may send requests to any address that its visitor reaches, loopback included, without asking; browsers say
where such a page is from (`Origin`). Pages from elsewhere are refused unless the settings name them: otherwise anything
that somebody opens in a browser could spend this gateway's tokens.
"""

import re
import secrets
import time
from collections.abc import Sequence

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.openai.bodies import BODY_BYTES_MAX
from node.api.openai.faults import ApiError

REQUEST_ID_HEADER = "x-request-id"
API_VERSION = "2020-10-01"
"""Of OpenAI's API; the only one that it ever had."""
ANY_ORIGIN = "*"
DRAIN_SECONDS_MAX = 1.0
"""What is refused before its body was read has so long to come in; then its connection is closed."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STATE = "quern"


class Frontage:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """`origins`: where web pages may come from, such as `https://chat.example`; `*` is from anywhere."""
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http" or _STATE in scope:  # another one has seen to it
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        headers = Headers(scope=scope)
        state = RequestState(_name_of(headers.get(REQUEST_ID_HEADER, "")))
        scope[_STATE] = state

        body = _Body(receive)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = MutableHeaders(scope=message)
                if not await body.drain():
                    named["connection"] = "close"
                named[REQUEST_ID_HEADER] = state.request_id
                named["openai-version"] = API_VERSION
                named["openai-processing-ms"] = str(round(1000 * (time.monotonic() - began)))
                for name, value in state.headers.items():
                    named[name] = value
            await send(message)

        origin = headers.get("origin")
        if origin is not None and ANY_ORIGIN not in self._origins and origin not in self._origins:
            fault = ApiError(
                403,
                "permission_error",
                "origin_not_allowed",
                f"web pages from {origin[:200]} may not ask this gateway; [api] cors_origins says which may",
            )
            await fault.response()(scope, body.receive, send_named)
            return
        await self._app(scope, body.receive, send_named)


class _Body:
    """A request's body. Whoever answers before all of it came has the connection closed under the next request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._is_complete = True
        return message

    async def drain(self) -> bool:
        """Read what is left, if it is little and comes soon; whether all has come."""
        left = BODY_BYTES_MAX
        with trio.move_on_after(DRAIN_SECONDS_MAX):
            while not self._is_complete and left > 0:
                left -= len((await self.receive()).get("body", b""))
        return self._is_complete


class RequestState:
    """What is known of a request besides its bytes."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.headers: dict[str, str] = {}
        """To be sent with the response."""


def state_of(scope: Scope) -> RequestState:
    """Return the state of a request that came through Frontage."""
    state = scope[_STATE]
    if not isinstance(state, RequestState):
        raise TypeError("the request did not come through Frontage")
    return state


def _name_of(given: str) -> str:
    """Return the client's own name for its request if it fits a log line, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"
