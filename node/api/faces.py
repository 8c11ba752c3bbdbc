"""All HTTP faces of a daemon as one application: routes of its own first, then the gateway's where it has that role."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from node.api.openai.frontage import Frontage


class Faces(Starlette):
    """An application before another one. Requests for the other's own paths need not look through both."""

    def __init__(self, routes: Sequence[BaseRoute], behind: Starlette | None, origins: Sequence[str]) -> None:
        rest = [Mount("/", behind)] if behind is not None else []
        middleware = [Middleware(Frontage, origins=origins)]
        super().__init__(
            routes=[*routes, *rest], middleware=middleware, exception_handlers={HTTPException: _http_error}
        )
        self._behind = behind
        # With origins, pages from elsewhere are turned away here, before the other one says who may ask.
        self._direct = frozenset() if behind is None or origins else _fixed_paths(behind) - _fixed_paths(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if self._behind is not None and scope["type"] == "http" and scope["path"] in self._direct:
            await self._behind(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def compose(routes: Sequence[BaseRoute], gateway: Starlette | None, origins: Sequence[str] = ()) -> Starlette:
    """Return the application. What no route of `routes` knows goes to `gateway`, errors included.

    `origins`: where web pages may come from; others are turned away from all of it.
    """
    return Faces(routes, gateway, origins)


def _fixed_paths(app: Starlette) -> frozenset[str]:
    """Return the paths of an application's routes that stand for themselves only."""
    return frozenset(route.path for route in app.routes if isinstance(route, Route) and not route.param_convertors)


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = {
        404: "there is no such path; a miner has /api/chat, /health and /info, a gateway /v1/models as well",
        405: "this path takes another method",
    }.get(error.status_code, str(error.detail))
    return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)
