"""A client that goes away before it is answered: everything stops, so that no engine works for nobody."""

from collections.abc import Awaitable, Callable

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

CLIENT_CLOSED_REQUEST = 499
"""Never seen by anyone: the connection is gone. Named as other servers name it."""


async def unless_gone(request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    """Answer, unless the client goes away before: then `answer` is cancelled. Its body must have been read."""
    response = Response(status_code=CLIENT_CLOSED_REQUEST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_disconnect, request.receive, nursery.cancel_scope)
        response = await answer()
        nursery.cancel_scope.cancel()
    return response


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
