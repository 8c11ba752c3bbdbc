"""What a user is told when a request fails: OpenAI's error shape, status and headers, as its SDKs know them."""

import json
from collections.abc import Mapping
from math import ceil
from typing import Any

from starlette.responses import JSONResponse, Response

from node.services.gateway import GatewayError

MESSAGE_CHARACTERS_MAX = 2_000
"""Parts of a message may come from an executor: a stranger does not fill a user's log."""
RETRY_AFTER_SECONDS_MAX = 3_600.0

_SERVER_ERROR = (502, "server_error")
_STATUS_OF: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "invalid_request_error"),
    "too-long": (400, "invalid_request_error"),
    "model-not-found": (404, "invalid_request_error"),
    "payment": (402, "insufficient_quota"),
    "rate-limited": (429, "rate_limit_error"),
    "overloaded": (429, "rate_limit_error"),
    "slow-reader": (408, "invalid_request_error"),
    "no-executor": (503, "server_error"),
    "failed": _SERVER_ERROR,
}
"""Status and type for each code of the gateway; what is not here is the network's fault."""
_OPENAI_CODE = {"too-long": "context_length_exceeded"}
"""Codes that clients look for under OpenAI's name; the others keep ours."""


class ApiError(Exception):
    """A request that is not done. `param` names the parameter at fault, `retry_after` is in seconds."""

    def __init__(
        self,
        status: int,
        kind: str,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        may_retry: bool = True,
    ) -> None:
        """`may_retry` False tells OpenAI's SDKs not to try again by themselves where the status alone would."""
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.may_retry = may_retry

    def body(self) -> dict[str, Any]:
        """Return the error as OpenAI's API writes it."""
        message = self.message[:MESSAGE_CHARACTERS_MAX]
        return {"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}}

    def event(self) -> bytes:
        """Return the error as a server-sent event: in a stream the status is sent before anything can fail."""
        return b"data: " + json.dumps(self.body(), ensure_ascii=False).encode() + b"\n\n"

    def headers(self) -> dict[str, str]:
        """Return the headers that say when and whether to try again."""
        headers: dict[str, str] = {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.retry_after is not None:
            seconds = min(max(self.retry_after, 0.0), RETRY_AFTER_SECONDS_MAX)
            headers["retry-after"] = str(max(1, ceil(seconds)))
            headers["retry-after-ms"] = str(ceil(1000 * seconds))
        if not self.may_retry:
            headers["x-should-retry"] = "false"
        return headers

    def response(self) -> Response:
        """Return the whole answer."""
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers())


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return the fault of a request that is wrong in itself."""
    return ApiError(400, "invalid_request_error", code, message, param=param)


def fault_of(error: GatewayError) -> ApiError:
    """Return what a user is told of a failure in the gateway or behind it."""
    status, kind = _STATUS_OF.get(error.code, _SERVER_ERROR)
    return ApiError(
        status,
        kind,
        _OPENAI_CODE.get(error.code, error.code.replace("-", "_")),
        error.message,
        param="model" if error.code == "model-not-found" else None,
        retry_after=error.retry_after,
    )
