"""The OpenAI-compatible face: `/v1/chat/completions` and `/v1/models`, over the gateway.

What a request asks for is done or refused, never quietly left out. Reference: the OpenAI API reference, chat
completions; errors have OpenAI's shape, so that its SDK raises the error its users expect.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import structlog
import trio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.ports import WallClock
from node.protocol.identifiers import ModelId
from node.protocol.sampling import SamplingParameters
from node.services.asking import AnswerStream, Asker
from node.services.frames import MESSAGES_MAX, STOPS_MAX, Prompt, Turn
from node.services.gateway import ChatRequest, GatewayError

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 512 * 1024
"""Twice the largest request that the network takes: JSON escapes make text longer."""
STATUS_OF = {
    "model-not-found": (404, "invalid_request_error"),
    "bad-request": (400, "invalid_request_error"),
    "too-long": (400, "invalid_request_error"),
    "no-executor": (503, "server_error"),
    "payment": (402, "insufficient_quota"),
    "failed": (502, "server_error"),
    "overloaded": (429, "server_error"),
    "rate-limited": (429, "requests"),
    "slow-reader": (408, "invalid_request_error"),
}
IGNORED = ("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls")
"""Parameters that do not change the answer. All others that are not below are refused."""
CLIENT_CLOSED_REQUEST = 499
"""Never seen by anyone: the connection is gone. Named as other servers name it."""

Write = Callable[[bytes], Awaitable[None]]


class ContentPart(BaseModel):
    """A part of a message. Only text is served."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]
    name: str | None = None

    def turn(self) -> Turn:
        """Return it as the network has it; `developer` is OpenAI's newer word for `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Turn("system" if self.role == "developer" else self.role, text)


class StreamOptions(BaseModel):
    """What a stream carries besides text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Completion(BaseModel):
    """A request. Fields that are absent here are refused, or listed in IGNORED."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(min_length=1, max_length=64)
    messages: list[Message] = Field(min_length=1, max_length=MESSAGES_MAX)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=2**20)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**20)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None

    def chat(self) -> ChatRequest:
        """Return it as the gateway takes it."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > STOPS_MAX:
            raise GatewayError("bad-request", f"at most {STOPS_MAX} stop texts")
        return ChatRequest(
            model_id=ModelId(self.model),
            prompt=Prompt(tuple(message.turn() for message in self.messages)),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            sampling=SamplingParameters(
                temperature_milli=1000 if self.temperature is None else round(self.temperature * 1000),
                top_p_milli=1000 if self.top_p is None else max(1, round(self.top_p * 1000)),
            ),
            seed=self.seed,
            stop=stop,
        )


class OpenAiApi:
    """The handlers, over one gateway."""

    def __init__(self, gateway: Asker, wall_clock: WallClock) -> None:
        self._gateway = gateway
        self._wall_clock = wall_clock

    async def health(self, _request: Request) -> Response:
        """Whether anything can be asked now."""
        models = len(self._gateway.models())
        return JSONResponse({"status": "ok" if models else "no models yet"}, status_code=200 if models else 503)

    async def models(self, _request: Request) -> Response:
        """List the models of this epoch."""
        data = [
            {"id": model.model_id, "object": "model", "created": 0, "owned_by": "quern"}
            for model in self._gateway.models()
        ]
        return JSONResponse({"object": "list", "data": data})

    async def complete(self, request: Request) -> Response:
        """Answer a chat."""
        try:
            completion = parse_completion(await _read_body(request))
            chat = completion.chat()
        except GatewayError as error:
            return _error(error)
        except ClientDisconnect:
            return Response(status_code=400)
        if not completion.stream:
            return await _unless_gone(request, lambda: self._complete_whole(chat))
        include_usage = completion.stream_options is not None and completion.stream_options.include_usage
        return EventStream(lambda write: self._stream(chat, write, include_usage=include_usage))

    async def _complete_whole(self, chat: ChatRequest) -> Response:
        try:
            async with self._gateway.ask(chat) as answer:
                text = "".join([part.text async for part in answer])
        except GatewayError as error:
            return _error(error)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": answer.summary.finish_reason, "logprobs": None}
        return JSONResponse(
            {
                "id": _identity(answer),
                "object": "chat.completion",
                "created": self._wall_clock(),
                "model": chat.model_id,
                "choices": [choice],
                "usage": _usage(answer),
            },
            headers=cache_headers(answer),
        )

    async def _stream(self, chat: ChatRequest, write: Write, *, include_usage: bool) -> None:
        """Write server-sent events. An error is an event too: the status is sent before anything can fail."""
        created = self._wall_clock()

        def event(answer: AnswerStream, **fields: object) -> bytes:
            body = {"id": _identity(answer), "object": "chat.completion.chunk", "created": created}
            return _event({**body, "model": chat.model_id, **fields})

        def choice(delta: dict[str, str], finish_reason: str | None) -> list[dict[str, object]]:
            return [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]

        try:
            async with self._gateway.ask(chat) as answer:
                await write(event(answer, choices=choice({"role": "assistant", "content": ""}, None)))
                async for part in answer:
                    if part.text:
                        await write(event(answer, choices=choice({"content": part.text}, None)))
                await write(event(answer, choices=choice({}, answer.summary.finish_reason)))
                if include_usage:
                    await write(event(answer, choices=[], usage=_usage(answer)))
        except GatewayError as error:
            await write(_event(_error_body(error)))
            return
        await write(b"data: [DONE]\n\n")


class EventStream(Response):
    """Server-sent events from a function that writes them, stopped when the client goes away.

    Starlette's own streaming takes an async generator, which trio's cancellation would leave half done.
    """

    def __init__(self, produce: Callable[[Write], Awaitable[None]]) -> None:
        super().__init__(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            await self._produce(write)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()


def make_app(gateway: Asker, wall_clock: WallClock) -> Starlette:
    """Return the application."""
    api = OpenAiApi(gateway, wall_clock)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", api.complete, methods=["POST"]),
            Route("/v1/models", api.models, methods=["GET"]),
            Route("/healthz", api.health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )


def parse_completion(body: bytes) -> Completion:
    """Read a request body. Raises GatewayError `bad-request` that names what is wrong."""
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise GatewayError("bad-request", f"the body is not JSON: {error}") from error
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key not in IGNORED and entry is not None}
    try:
        return Completion.model_validate(value)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'body'}: {_explain(detail['type'], detail['msg'])}"
            for detail in error.errors()[:5]
        )
        raise GatewayError("bad-request", details) from error


def _explain(kind: str, message: str) -> str:
    return "this parameter is not supported" if kind == "extra_forbidden" else message


async def _read_body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise GatewayError("bad-request", f"the body is over {BODY_BYTES_MAX} bytes")
    return body


async def _unless_gone(request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    """Answer, unless the client goes away before: then nothing more is generated or paid for."""
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


def cache_headers(answer: AnswerStream) -> dict[str, str]:
    """Return the header that marks an answer from the cache."""
    return {"x-quern-cache": "hit"} if answer.summary.cached else {}


def _identity(answer: AnswerStream) -> str:
    return f"chatcmpl-{answer.summary.request_id.hex()[:32]}"


def _usage(answer: AnswerStream) -> dict[str, int]:
    summary = answer.summary
    return {
        "prompt_tokens": summary.prompt_tokens,
        "completion_tokens": summary.output_tokens,
        "total_tokens": summary.prompt_tokens + summary.output_tokens,
    }


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def _error_body(error: GatewayError) -> dict[str, Any]:
    kind = STATUS_OF[error.code][1]
    code = error.code.replace("-", "_")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": code}}


def _error(error: GatewayError) -> Response:
    return JSONResponse(_error_body(error), status_code=STATUS_OF[error.code][0])


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    body = {"message": f"{error.detail}; see /v1/models", "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": body}, status_code=error.status_code)
