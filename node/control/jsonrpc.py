"""JSON-RPC 2.0 as data: requests in, responses and notifications out. No sockets here.

Parameters are given by name; positional ones are refused, because names are what may be added to without breaking
anyone. A frame holds one request or a batch of them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pydantic_core import from_json

BATCH_MAX = 16
"""Requests in one batch; bounds what one frame may set off."""
METHOD_CHARACTERS_MAX = 64

RequestId = str | int | None


class ErrorCode(IntEnum):
    """Codes of JSON-RPC 2.0, and ours from -32000 downwards."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    BUSY = -32000
    """Too many connections or requests: try again later."""
    UNAVAILABLE = -32001
    """Something the daemon needs is not there now (the chain, a peer, an engine)."""
    REFUSED = -32002
    """The request is understood and will not be done, now or later (unknown model, budget spent)."""


class RpcError(Exception):
    """An error for the caller: what happened, and what to do about it."""

    def __init__(self, code: ErrorCode, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Request:
    """One request. A notification wants no response."""

    request_id: RequestId
    method: str
    params: Mapping[str, Any]
    is_notification: bool


@dataclass(frozen=True, slots=True)
class BadRequest:
    """What stood in the place of a request, and why it is none."""

    request_id: RequestId
    error: RpcError


@dataclass(frozen=True, slots=True)
class Frame:
    """The requests of one frame; a batch is answered by one array."""

    requests: tuple[Request | BadRequest, ...]
    is_batch: bool


def parse_frame(data: bytes) -> Frame:
    """Parse a frame; raise RpcError where not even a batch of bad requests can be made out."""
    try:
        value = from_json(data, allow_inf_nan=False)  # stdlib json overflows the stack: see docs/decisions/0007
    except ValueError as error:
        raise RpcError(ErrorCode.PARSE_ERROR, f"not JSON: {str(error)[:200]}") from error
    if not isinstance(value, list):
        return Frame((_parse_request(value),), is_batch=False)
    if not value:
        raise RpcError(ErrorCode.INVALID_REQUEST, "an empty batch")
    if len(value) > BATCH_MAX:
        raise RpcError(ErrorCode.INVALID_REQUEST, f"a batch of {len(value)} requests; at most {BATCH_MAX} are taken")
    return Frame(tuple(_parse_request(item) for item in value), is_batch=True)


def result_value(request_id: RequestId, result: Any) -> dict[str, Any]:
    """Return the response to a request that succeeded."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_value(request_id: RequestId, error: RpcError) -> dict[str, Any]:
    """Return the response to a request that failed."""
    body: dict[str, Any] = {"code": int(error.code), "message": error.message}
    if error.remedy:
        body["data"] = {"remedy": error.remedy}
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def request_value(request_id: RequestId, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request."""
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": dict(params)}


def event_value(method: str, request_id: RequestId, event: Any) -> dict[str, Any]:
    """Return a notification of something that happened while a request is being worked on."""
    return {"jsonrpc": "2.0", "method": f"{method}.event", "params": {"id": request_id, "event": event}}


def encode(value: Any) -> bytes:
    """Return the line of a value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _parse_request(value: Any) -> Request | BadRequest:
    if not isinstance(value, dict):
        return BadRequest(None, RpcError(ErrorCode.INVALID_REQUEST, "a request is an object"))
    given_id = value.get("id")
    request_id: RequestId = given_id if _is_request_id(given_id) else None
    fault = _fault(value)
    if fault is not None:
        return BadRequest(request_id, fault)
    return Request(request_id, value["method"], value.get("params", {}), is_notification="id" not in value)


def _fault(value: Mapping[str, Any]) -> RpcError | None:
    if value.get("jsonrpc") != "2.0":
        return RpcError(ErrorCode.INVALID_REQUEST, 'expected "jsonrpc": "2.0"')
    if "id" in value and not _is_request_id(value["id"]):
        return RpcError(ErrorCode.INVALID_REQUEST, "id must be text, a whole number or null")
    method = value.get("method")
    if not isinstance(method, str) or not 0 < len(method) <= METHOD_CHARACTERS_MAX:
        return RpcError(ErrorCode.INVALID_REQUEST, f"method must be text of 1 to {METHOD_CHARACTERS_MAX} characters")
    if not isinstance(value.get("params", {}), dict):
        return RpcError(ErrorCode.INVALID_PARAMS, "parameters are given by name, as an object")
    return None


def _is_request_id(value: object) -> bool:
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))
