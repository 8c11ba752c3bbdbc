"""Prompts that nobody streams, over HTTP: one path hands them in, another tells what became of them.

`POST /v1/prompts` takes the body of a chat completion with a `mode` beside it: `open` (whoever is drawn answers) or
`chain`. `GET /v1/prompts/{id}` shows it. Keys, rates and budgets are those of the OpenAI API; a key sees the prompts
that it handed in, nobody else's.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.api.openai.bodies import parse_body, read_body
from node.api.openai.chat_request import ChatParameters
from node.api.openai.faults import ApiError, fault_of, invalid
from node.api.openai.gatekeeper import Caller, Gatekeeper, Grant
from node.api.openai.parameters import IGNORED
from node.api.openai.usage import Usage
from node.protocol.records import ModelRecord
from node.services.asking import Asker
from node.services.checks import reading_tokens_max
from node.services.gateway import ChatRequest, GatewayError
from node.services.prompt_asks import AskMode, AskState, PromptAsk
from node.services.prompt_desk import DeskError, PromptDesk, PromptWish

WAIT_SECONDS_MAX = 60
"""How long a client may have its question about a prompt wait for the answer."""
CLIENT_CLOSED_REQUEST = 499


class PromptParameters(ChatParameters):
    """A prompt that is handed in."""

    mode: Literal["open", "chain"]

    def chat(self) -> ChatRequest:
        """Return it as the gateway has chats. Raises ApiError for what only a stream or a chat can have."""
        for name, is_asked in (
            ("stream", self.stream),
            ("n", self.n != 1),
            ("logprobs", self.logprobs),
            ("tools", bool(self.tools)),
        ):
            if is_asked:
                raise invalid(f"{name}: is not for prompts that are handed in; ask /v1/chat/completions", name)
        return self.requests()[0]


class PromptApi:
    """The handlers, over one desk."""

    def __init__(self, desk: PromptDesk, asker: Asker, gatekeeper: Gatekeeper) -> None:
        """`asker` knows the models of this epoch."""
        self._desk = desk
        self._asker = asker
        self._gatekeeper = gatekeeper

    def routes(self) -> tuple[Route, ...]:
        """Return the paths."""
        return (
            Route("/v1/prompts", _guarded(self.hand_in), methods=["POST"]),
            Route("/v1/prompts/{prompt_id}", _guarded(self.show), methods=["GET"]),
        )

    async def hand_in(self, request: Request) -> Response:
        """Take a prompt; answer with its id."""
        caller = self._gatekeeper.identify(request.headers.get("authorization", ""))
        self._gatekeeper.admit(caller)
        parameters = parse_body(PromptParameters, await read_body(request), IGNORED)
        chat = parameters.chat()
        model = self._model(caller, parameters)
        grant = self._gatekeeper.reserve(caller, model, [chat])
        (granted,) = grant.chats
        written = model.context_length if granted.max_tokens is None else granted.max_tokens
        wish = PromptWish(
            AskMode(parameters.mode),
            model.model_id,
            granted.prompt,
            max_tokens=min(reading_tokens_max(granted.prompt) + written, model.context_length),
            max_output_tokens=written,
            sampling=granted.sampling,
            seed=granted.seed,
            stop=granted.stop,
            response_format=granted.response_format,
            private=parameters.quern.private,
        )
        try:
            ask = await self._desk.hand_in(wish, owner=_owner(caller), ended=lambda ended: _settle(grant, ended))
        except BaseException as error:
            grant.settle(Usage(0, 0, 0))
            if isinstance(error, DeskError):
                raise _fault(error) from error
            raise
        return JSONResponse(_body(ask), status_code=202)

    async def show(self, request: Request) -> Response:
        """Tell what became of a prompt; with `?wait=SECONDS`, once there is something to tell."""
        caller = self._gatekeeper.identify(request.headers.get("authorization", ""))
        seconds = _wait_seconds(request.query_params.get("wait", "0"))
        prompt_id = str(request.path_params["prompt_id"])
        try:
            ask = self._desk.get(prompt_id)
            if ask.owner != _owner(caller):
                raise DeskError("not-found", f"there is no prompt {prompt_id[:64]}, or it was forgotten since")
            with trio.move_on_after(seconds):
                await self._desk.until_ended(prompt_id)
            ask = self._desk.get(prompt_id)
        except DeskError as error:
            raise _fault(error) from error
        body = _body(ask)
        if ask.state is AskState.ANSWERED:
            try:
                answer = await self._desk.answer(ask)
                body["result"] = {"text": answer.text, "finish_reason": answer.finish_reason, "cid": ask.result_cid}
            except DeskError as error:
                body["error"] = {"message": error.message, "code": error.code.replace("-", "_")}
        return JSONResponse(body)

    def _model(self, caller: Caller, parameters: PromptParameters) -> ModelRecord:
        self._gatekeeper.check_model(caller, parameters.model_id)
        found = next((model for model in self._asker.models() if model.model_id == parameters.model_id), None)
        if found is None:
            raise ApiError(
                404,
                "invalid_request_error",
                "model_not_found",
                f"there is no model {parameters.model_id}; see /v1/models",
                param="model",
            )
        return found


def _guarded(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Return `handler` with its faults in OpenAI's shape."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as fault:
            return fault.response()
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    return answer


def _owner(caller: Caller) -> str:
    return "" if caller.key is None else caller.key.key_id


def _settle(grant: Grant, ask: PromptAsk) -> None:
    paid = ask.state is AskState.ANSWERED
    grant.settle(Usage(ask.prompt_tokens, ask.output_tokens, ask.price) if paid else Usage(0, 0, 0))


def _wait_seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 3 or int(text) > WAIT_SECONDS_MAX:
        raise invalid(f"wait: seconds, 0 to {WAIT_SECONDS_MAX}", "wait")
    return int(text)


def _fault(error: DeskError) -> ApiError:
    if error.code == "not-found":
        return ApiError(404, "invalid_request_error", "not_found", error.message)
    if error.code == "busy":
        return ApiError(429, "rate_limit_error", "busy", error.message, retry_after=10)
    return fault_of(GatewayError(error.code, error.message))


def _body(ask: PromptAsk) -> dict[str, object]:
    failed = ask.has_ended and ask.state is not AskState.ANSWERED
    return {
        "id": ask.ask_id,
        "object": "quern.prompt",
        "mode": ask.mode.value,
        "status": ask.state.value,
        "model": ask.model_id,
        "private": ask.private,
        "created": ask.asked_at,
        "prompt_cid": ask.prompt_cid,
        "prompt_id": ask.prompt_id,
        "executor": ask.executor,
        "price": str(ask.price),
        "usage": {
            "prompt_tokens": ask.prompt_tokens,
            "completion_tokens": ask.output_tokens,
            "total_tokens": ask.prompt_tokens + ask.output_tokens,
        },
        "result": None,
        "error": {"message": ask.reason, "code": ask.state.value} if failed else None,
    }
