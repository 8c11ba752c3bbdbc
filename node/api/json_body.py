"""The JSON body of a request, read with a limit of size and of time."""

from typing import Any

import trio
from pydantic_core import from_json
from starlette.requests import Request

BODY_SECONDS_MAX = 10.0
"""A client that needs longer holds a connection for nothing."""


class BodyError(Exception):
    """A body that is not taken: the HTTP status and what to say."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_json(request: Request, *, bytes_max: int) -> Any:
    """Return the value of a JSON body. Raises BodyError; ClientDisconnect if the client goes away.

    Only `application/json` is taken: a page in the operator's browser cannot send that to another origin unasked, and
    so cannot use a daemon that trusts whoever is on this machine.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BodyError(415, "the body must be JSON: send Content-Type: application/json")
    body = b""
    with trio.move_on_after(BODY_SECONDS_MAX):
        async for piece in request.stream():
            body += piece
            if len(body) > bytes_max:
                raise BodyError(413, f"the body is over {bytes_max} bytes")
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise BodyError(400, f"the body is not JSON: {str(error)[:200]}") from error
    raise BodyError(408, f"the body did not come within {BODY_SECONDS_MAX:.0f} s")
