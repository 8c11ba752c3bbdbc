"""Reads request bodies: size, time, JSON, schema, in that order. What is wrong is told with the parameter's name."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import trio
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails
from starlette.requests import Request

from node.api.openai.faults import ApiError, invalid
from node.models.strict_json import parse_strict

BODY_BYTES_MAX = 2 * 1024 * 1024
"""Several times the largest request that the network takes: JSON escapes and token ids make text longer."""
BODY_SECONDS_MAX = 30.0
"""A client that sends a byte now and then does not hold a connection for ever."""
INLINE_BYTES_MAX = 64 * 1024
"""Larger ones are parsed in a thread: two mebibytes take a tenth of a second, which no other request waits for."""
FAULTS_READ_MAX = 100
FAULTS_TOLD_MAX = 5
FIELD_CHARACTERS_MAX = 64
FIELDS_MAX = 64
"""Twice as many as any part of the API has."""

Parsed = TypeVar("Parsed", bound=BaseModel)


class Part(BaseModel):
    """A part of a request: unknown fields are refused, and values are not converted (`"5"` is not 5)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _bounded(cls, value: object) -> object:
        """Refuse many unknown fields as one fault: each would be one, and a body has room for a hundred thousand."""
        if isinstance(value, dict) and len(value) > FIELDS_MAX:
            raise ValueError(f"has more than {FIELDS_MAX} fields")
        return value


async def read_parameters(schema: type[Parsed], request: Request, ignored: Sequence[str]) -> Parsed:
    """Read a request's body as `schema` has it. Raises ApiError, and ClientDisconnect."""
    body = await read_body(request)
    if len(body) <= INLINE_BYTES_MAX:
        return parse_body(schema, body, ignored)
    return await trio.to_thread.run_sync(parse_body, schema, body, ignored)


async def read_body(request: Request) -> bytes:
    """Return the body. Raises ApiError 413 or 408, and ClientDisconnect."""
    body = bytearray()
    with trio.move_on_after(BODY_SECONDS_MAX):
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise ApiError(
                    413, "invalid_request_error", "request_too_large", f"the body is over {BODY_BYTES_MAX} bytes"
                )
        return bytes(body)
    raise ApiError(
        408, "invalid_request_error", "request_timeout", f"the body did not come within {BODY_SECONDS_MAX:.0f} s"
    )


def parse_body(schema: type[Parsed], body: bytes, ignored: Sequence[str]) -> Parsed:
    """Return a body as `schema` has it, without the `ignored` parameters and those that are null. Raises ApiError."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise invalid("the body is a JSON object", code="invalid_type")
    kept = {key: entry for key, entry in value.items() if key not in ignored and entry is not None}
    try:
        return schema.model_validate(kept)
    except ValidationError as error:
        raise _fault_of(error, kept) from error


def parse_json(body: bytes) -> Any:
    """Return the value of a body. A key that stands twice, NaN and numbers without end are refused. Raises ApiError."""
    try:
        return parse_strict(body, numbers_finite=True)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {str(error)[:200]}", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body is nested too deeply", code="invalid_json") from error


def _fault_of(error: ValidationError, value: Mapping[str, Any]) -> ApiError:
    details = error.errors(include_url=False, include_input=False)
    named: dict[str, ErrorDetails] = {}
    for detail in details[:FAULTS_READ_MAX]:
        # A union has an error for each of its members: the first at a place speaks for all, the deeper ones say more.
        named.setdefault(_parameter(detail, value), detail)
    deepest = [name for name in named if not any(other.startswith((f"{name}.", f"{name}[")) for other in named)]
    told = [f"{name or 'body'}: {_explain(named[name])}" for name in deepest[:FAULTS_TOLD_MAX]]
    param, first = deepest[0], named[deepest[0]]
    return invalid("; ".join(told), param or None, _code(first["type"]))


def _parameter(detail: ErrorDetails, value: Any) -> str:
    """Return where the error is, as OpenAI writes it: `messages[0].content`.

    Pydantic puts the names of a union's members between the keys: only what is in the value itself is kept, and the
    name of what is missing in it.
    """
    path = ""
    for number, part in enumerate(detail["loc"], start=1):
        inside = part in value if isinstance(value, dict) else isinstance(part, int) and isinstance(value, list)
        missing = isinstance(value, dict) and number == len(detail["loc"]) and detail["type"] == "missing"
        if not inside and not missing:
            continue
        name = str(part)[:FIELD_CHARACTERS_MAX]
        path += f"[{part}]" if isinstance(value, list) else f".{name}" if path else name
        value = None if missing else value[part]
    return path


def _explain(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "this parameter is not supported"
    return detail["msg"].removeprefix("Value error, ")


def _code(kind: str) -> str:
    if kind == "missing":
        return "missing_required_parameter"
    if kind == "extra_forbidden":
        return "unsupported_parameter"
    return "invalid_type" if kind.endswith("_type") else "invalid_value"
