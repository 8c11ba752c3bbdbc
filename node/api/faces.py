"""All HTTP faces of a daemon as one application: routes of its own first, then the gateway's where it has that role."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount

from node.api.openai.frontage import Frontage


def compose(routes: Sequence[BaseRoute], gateway: Starlette | None, origins: Sequence[str] = ()) -> Starlette:
    """Return the application. What no route of `routes` knows goes to `gateway`, errors included.

    `origins`: where web pages may come from; others are turned away from all of it.
    """
    middleware = [Middleware(Frontage, origins=origins)]
    rest = [Mount("/", gateway)] if gateway is not None else []
    return Starlette(routes=[*routes, *rest], middleware=middleware, exception_handlers={HTTPException: _http_error})


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = {
        404: "there is no such path; a miner has /api/chat, /health and /info, a gateway /v1/models as well",
        405: "this path takes another method",
    }.get(error.status_code, str(error.detail))
    return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)
