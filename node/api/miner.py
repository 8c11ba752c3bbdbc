"""The miner API, answered by this node's own engines: `/api/chat`, `/api/chat/{model}`, `/health`, `/info`.

Purpose: a program written for one model server talks to a miner directly, without the network and without paying.
Detail: reference is the Miner Guide (requirement C1), whose examples are the tests. Chats are for callers on this
machine and those with a key; health and info are for everyone. Errors are `{"error": "…"}`, as in the guide.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from node.api.callers import KeyCheck, is_allowed
from node.api.departures import unless_gone
from node.api.json_body import BodyError, read_json
from node.ports import WallClock
from node.protocol.identifiers import ModelId
from node.protocol.records import ModelRecord
from node.protocol.sampling import PER_MILLE
from node.services.local_chat import (
    AnswerFailedError,
    BusyError,
    LocalAnswer,
    LocalChat,
    LocalChatError,
    NotReadyError,
    RefusedError,
    UnknownModelError,
)

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 512 * 1024
PROMPT_CHARACTERS_MAX = 256 * 1024
"""Longer ones fit no model's context."""
TOKENS_MAX = 2**20
TOKENS_DEFAULT = 100
TEMPERATURE_DEFAULT = 0.7
"""The guide's example server has these two defaults."""
RETRY_SECONDS = 5
STATUS_OF: tuple[tuple[type[LocalChatError], int], ...] = (
    (UnknownModelError, 404),
    (RefusedError, 400),
    (BusyError, 429),
    (NotReadyError, 503),
    (AnswerFailedError, 502),
)


class Chat(BaseModel):
    """A request. What is not here is refused by name, never quietly left out."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt: str = Field(min_length=1, max_length=PROMPT_CHARACTERS_MAX)
    temperature: float = Field(default=TEMPERATURE_DEFAULT, ge=0, le=2)
    max_tokens: int = Field(default=TOKENS_DEFAULT, ge=1, le=TOKENS_MAX)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the API tells of its node. `uptime_seconds` counts from the daemon's start."""

    version: str
    uptime_seconds: Callable[[], int]
    model: Callable[[ModelId], ModelRecord | None]
    """The registry's record of a model."""


class MinerApi:
    """The handlers. `key_opens` says whether an API key does; without it only this machine may chat."""

    def __init__(
        self, chat: LocalChat, facts: NodeFacts, wall_clock: WallClock, key_opens: KeyCheck | None = None
    ) -> None:
        self._chat = chat
        self._facts = facts
        self._wall_clock = wall_clock
        self._key_opens = key_opens

    def routes(self) -> Sequence[BaseRoute]:
        """Return the routes of all of it."""
        return (
            Route("/api/chat", self.chat, methods=["POST"]),
            Route("/api/chat/{model:path}", self.chat, methods=["POST"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/info", self.info, methods=["GET"]),
        )

    async def chat(self, request: Request) -> Response:
        """Answer one prompt whole."""
        if not is_allowed(request, self._key_opens):
            return _error(
                401,
                "this node answers programs on its own machine, or with an API key: send Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
        try:
            wanted = Chat.model_validate(await read_json(request, bytes_max=BODY_BYTES_MAX))
        except BodyError as error:
            return _error(error.status, str(error))
        except ValidationError as error:
            return _error(400, _explain(error))
        except ClientDisconnect:
            return Response(status_code=400)
        model = request.path_params.get("model")
        return await unless_gone(request, lambda: self._answer(None if model is None else ModelId(model), wanted))

    async def health(self, _request: Request) -> Response:
        """Whether this node can answer: 200 if so, 503 while its engines cannot."""
        ready, wanted = self._chat.ready(), self._chat.wanted()
        healthy = bool(ready) or not wanted
        body = {
            "status": "healthy" if healthy else "unhealthy",
            "model_loaded": bool(ready),
            "uptime": uptime_text(self._facts.uptime_seconds()),
        }
        return JSONResponse(body, status_code=200 if healthy else 503)

    async def info(self, _request: Request) -> Response:
        """What is served: the first model in the guide's words, and all of them under `models`."""
        models = [self._model_body(model_id) for model_id in self._chat.ready() or self._chat.wanted()]
        if not models:
            return _error(404, "this node serves no model; it has no [[engines]]")
        first = models[0]
        return JSONResponse({**first, "version": self._facts.version, "models": models})

    async def _answer(self, model_id: ModelId | None, wanted: Chat) -> Response:
        temperature_milli = round(wanted.temperature * PER_MILLE)
        try:
            answer = await self._chat.answer(
                model_id, wanted.prompt, temperature_milli=temperature_milli, max_tokens=wanted.max_tokens
            )
        except LocalChatError as error:
            return _failure(error)
        return JSONResponse(self._answer_body(answer))

    def _answer_body(self, answer: LocalAnswer) -> dict[str, object]:
        at = datetime.fromtimestamp(self._wall_clock(), UTC)
        return {
            "response": answer.text,
            "model": answer.model_id,
            "timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "processing_time": round(answer.seconds, 2),
        }

    def _model_body(self, model_id: ModelId) -> dict[str, object]:
        record = self._facts.model(model_id)
        return {
            "model_name": model_id,
            "model_type": "llm",
            "capabilities": ["text-generation", "chat"],
            "max_context_length": None if record is None else record.context_length,
        }


def uptime_text(seconds: int) -> str:
    """Return seconds as the guide writes them: `2h 15m 30s`."""
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}h {minute}m {second}s"


def _failure(error: LocalChatError) -> Response:
    status = next(status for kind, status in STATUS_OF if isinstance(error, kind))
    retry = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else None
    return _error(status, str(error), retry)


def _explain(error: ValidationError) -> str:
    details = error.errors()[:5]
    words = []
    for detail in details:
        place = ".".join(str(part) for part in detail["loc"]) or "the body"
        words.append(f"{place}: {'there is no such field' if detail['type'] == 'extra_forbidden' else detail['msg']}")
    return "; ".join(words)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)
