"""The paths of the OpenAI API, over the gateway: who asks, what is asked, what is answered, what it cost."""

import ipaddress
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import structlog
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.api.openai.answers import Answers, Reader
from node.api.openai.bodies import read_parameters
from node.api.openai.call_formats import format_of
from node.api.openai.calls import CACHE_HEADER, REQUEST_HEADER, Call
from node.api.openai.chat import ChatShape, StreamedChat, WholeChat
from node.api.openai.chat_request import ChatParameters
from node.api.openai.chunks import ChunkWriter
from node.api.openai.completion_request import CompletionParameters
from node.api.openai.completions import StreamedCompletion, WholeCompletion
from node.api.openai.embedding_request import EmbeddingParameters
from node.api.openai.event_stream import DONE, EventStream, EventWriter, cancel_on_disconnect
from node.api.openai.faults import ApiError, fault_of, invalid
from node.api.openai.frontage import REQUEST_ID_HEADER, Frontage, state_of
from node.api.openai.gatekeeper import Caller, Gatekeeper, Grant
from node.api.openai.parameters import IGNORED, GenerationParameters
from node.api.openai.usage import Usage, usage_of
from node.ports import WallClock
from node.protocol.identifiers import ModelId
from node.protocol.records import ModelRecord
from node.protocol.tails import makes_vectors
from node.services.asking import Asker
from node.services.embedding import Embeddings
from node.services.embedding_frames import EmbeddingInput
from node.services.gateway import ChatRequest, GatewayError
from node.services.groups import sole_error

log = structlog.get_logger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""Never seen by anyone: the connection is gone. Named as other servers name it."""
SPECIAL_TOKENS_PER_INPUT = 8
"""A tokenizer may add as many to a text that becomes a vector."""
REQUEST_ID_CHARACTERS = 8
PLACE_BITS = 64
"""Of an IPv6 address: whoever has one has all that begin so."""


class VectorSource(Protocol):
    """What embeddings need."""

    async def embed(self, model_id: ModelId, inputs: Sequence[EmbeddingInput], *, private: bool = False) -> Embeddings:
        """Return a vector for each input; nothing is kept of what is `private`. Raises GatewayError."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks for, before it is let in."""

    parameters: GenerationParameters
    chats: Sequence[ChatRequest]
    whole: Callable[[Call], "WholeReader"]
    streamed: Callable[[Call, EventWriter], "StreamReader"]


class WholeReader(Reader, Protocol):
    """Makes one response of all."""

    def body(self) -> dict[str, object]:
        """Return the response."""


class StreamReader(Reader, Protocol):
    """Writes events."""

    @property
    def chunks(self) -> ChunkWriter:
        """What writes them."""


class OpenAiApi:
    """The handlers, over one gateway."""

    def __init__(
        self, asker: Asker, gatekeeper: Gatekeeper, wall_clock: WallClock, vectors: VectorSource | None = None
    ) -> None:
        self._asker = asker
        self._gatekeeper = gatekeeper
        self._wall_clock = wall_clock
        self._vectors = vectors

    async def health(self, _request: Request) -> Response:
        """Whether anything can be asked now."""
        models = len(self._asker.models())
        return JSONResponse({"status": "ok" if models else "no models yet"}, status_code=200 if models else 503)

    async def models(self, request: Request) -> Response:
        """List the models of this epoch that the caller may ask."""
        caller = self._identify(request)
        data = [_model_body(model) for model in self._gatekeeper.visible(caller, self._asker.models())]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """Show one model."""
        caller = self._identify(request)
        return JSONResponse(_model_body(self._model(caller, ModelId(request.path_params["model_id"]))))

    async def chat(self, request: Request) -> Response:
        """Answer a chat."""
        caller = self._enter(request)
        parameters = await read_parameters(ChatParameters, request, IGNORED)
        chats, tools = parameters.requests(), parameters.tool_use()
        model = self._model(caller, parameters.model_id)
        shape = ChatShape(tools.syntax(format_of(model)), wants_logprobs=parameters.logprobs)
        question = Question(
            parameters,
            chats,
            lambda call: WholeChat(call, shape),
            lambda call, write: StreamedChat(call, shape, write),
        )
        return await self._answer(request, caller, model, question)

    async def completion(self, request: Request) -> Response:
        """Answer a completion."""
        caller = self._enter(request)
        parameters = await read_parameters(CompletionParameters, request, IGNORED)
        chats = parameters.requests()
        model = self._model(caller, parameters.model_id)
        wants_logprobs = parameters.logprobs is not None
        question = Question(
            parameters,
            chats,
            lambda call: WholeCompletion(call, parameters.echoed, wants_logprobs=wants_logprobs),
            lambda call, write: StreamedCompletion(call, parameters.echoed, write, wants_logprobs=wants_logprobs),
        )
        return await self._answer(request, caller, model, question)

    async def embedding(self, request: Request) -> Response:
        """Answer with vectors."""
        caller = self._enter(request)
        parameters = await read_parameters(EmbeddingParameters, request, IGNORED)
        inputs, vectors = parameters.inputs(), self._vectors
        if vectors is None:
            raise ApiError(501, "server_error", "embeddings_unavailable", "this gateway serves no embeddings")
        model = self._model(caller, parameters.model_id)
        tokens_max = sum(entry.weight + SPECIAL_TOKENS_PER_INPUT for entry in inputs)
        grant = self._gatekeeper.reserve_reading(caller, model, tokens_max)

        async def answer() -> Response:
            usage = Usage(0, 0, 0)
            try:
                found = await vectors.embed(model.model_id, inputs, private=parameters.quern.private)
                usage = Usage(found.prompt_tokens, 0, found.price)
            except GatewayError as error:
                if error.code == "bad-request" and not makes_vectors(model):
                    raise invalid(f"{model.model_id} writes answers; it makes no embeddings", "model") from error
                raise fault_of(error) from error
            finally:
                grant.settle(usage)
            return JSONResponse(parameters.body(found))

        return await _unless_gone(request, answer)

    async def _answer(self, request: Request, caller: Caller, model: ModelRecord, question: Question) -> Response:
        state = state_of(request.scope)
        grant = self._gatekeeper.reserve(caller, model, question.chats)
        user = user_of(caller, request)
        chats = [replace(chat, caller_id=state.request_id, user=user) for chat in grant.chats]
        answers = Answers(self._asker, chats, lambda: state.headers.update(call.headers))
        call = Call(
            model,
            chats,
            answers,
            self._wall_clock(),
            wants_usage_in_stream=question.parameters.wants_usage_in_stream,
        )
        state.headers |= self._gatekeeper.headers(caller)

        async def whole() -> Response:
            reader = question.whole(call)
            with _accounted(caller, state.request_id, call, grant):
                await answers.read(reader)
            return JSONResponse(reader.body())

        async def stream(write: EventWriter) -> None:
            reader = question.streamed(call, write)
            with _accounted(caller, state.request_id, call, grant):
                await answers.read(reader)
            if call.wants_usage_in_stream:
                await write(reader.chunks.usage(usage_of(answers.summaries)))
            await write(DONE)

        return EventStream(stream) if question.parameters.stream else await _unless_gone(request, whole)

    def _identify(self, request: Request) -> Caller:
        return self._gatekeeper.identify(request.headers.get("authorization", ""))

    def _enter(self, request: Request) -> Caller:
        """Let a request in that costs something: before its body is read."""
        caller = self._identify(request)
        state_of(request.scope).headers |= self._gatekeeper.headers(caller)
        self._gatekeeper.admit(caller)
        return caller

    def _model(self, caller: Caller, model_id: ModelId) -> ModelRecord:
        self._gatekeeper.check_model(caller, model_id)
        models = self._asker.models()
        found = next((model for model in models if model.model_id == model_id), None)
        if found is None:
            known = ", ".join(model.model_id for model in self._gatekeeper.visible(caller, models)) or "none at present"
            message = f"there is no model {model_id}; models that can be asked: {known}"
            raise ApiError(404, "invalid_request_error", "model_not_found", message, param="model")
        return found


def user_of(caller: Caller, request: Request) -> str:
    """Return who asks: by key, or where none is asked for by address, of IPv6 the network that one place has."""
    if caller.key is not None:
        return f"key {caller.key.key_id}"
    host = "" if request.client is None else request.client.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped is not None:
        return host
    return str(ipaddress.IPv6Network((address, PLACE_BITS), strict=False))


def make_app(
    gateway: Asker,
    wall_clock: WallClock,
    gatekeeper: Gatekeeper,
    *,
    vectors: VectorSource | None = None,
    cors_origins: Sequence[str] = (),
    more_routes: Sequence[Route] = (),
) -> Starlette:
    """Return the application. `cors_origins`: web pages that may use it."""
    api = OpenAiApi(gateway, gatekeeper, wall_clock, vectors)
    middleware = [Middleware(Frontage, origins=cors_origins)]
    if cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID_HEADER, REQUEST_HEADER, CACHE_HEADER, "retry-after", "openai-processing-ms"],
        )
        middleware.insert(0, cors)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Guarded(api.chat), methods=["POST"]),
            Route("/v1/completions", _Guarded(api.completion), methods=["POST"]),
            Route("/v1/embeddings", _Guarded(api.embedding), methods=["POST"]),
            Route("/v1/models", _Guarded(api.models), methods=["GET"]),
            Route("/v1/models/{model_id:path}", _Guarded(api.model), methods=["GET"]),
            Route("/healthz", api.health, methods=["GET"]),
            *more_routes,
        ],
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, Exception: _fault_of_ours},
    )


class _Guarded:
    """A handler with its faults as OpenAI's errors: an ASGI application, which Starlette runs without wrapping it."""

    def __init__(self, handler: Callable[[Request], Awaitable[Response]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            response = await self._handler(Request(scope, receive, send))
        except ApiError as fault:
            response = fault.response()
        except ClientDisconnect:
            response = Response(status_code=CLIENT_CLOSED_REQUEST)
        await response(scope, receive, send)


@contextmanager
def _accounted(caller: Caller, request_id: str, call: Call, grant: Grant) -> Iterator[None]:
    """Count what a call costs, however it ends, before its user knows the end; and leave a line in the log."""
    began, outcome = trio.current_time(), "gone"
    try:
        yield
        outcome = "answered"
    except ApiError as fault:
        outcome = fault.code
        raise
    except Exception:
        outcome = "fault"
        raise
    finally:
        usage = usage_of(call.answers.summaries)
        grant.settle(usage)
        log.info(
            "a call is over",
            request=request_id,
            network_request=call.request_ids[:REQUEST_ID_CHARACTERS],
            key=caller.name or None,
            model=call.model.model_id,
            outcome=outcome,
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.output_tokens,
            price=usage.price,
            seconds=round(trio.current_time() - began, 3),
        )


async def _unless_gone(request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    """Answer, unless the client goes away before: then nothing more is generated or paid for."""
    response = Response(status_code=CLIENT_CLOSED_REQUEST)
    with sole_error():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_disconnect, request.receive, nursery.cancel_scope)
            response = await answer()
            nursery.cancel_scope.cancel()
    return response


def _model_body(model: ModelRecord) -> dict[str, object]:
    return {
        "id": model.model_id,
        "object": "model",
        "created": 0,
        "owned_by": "quern",
        "max_model_len": model.context_length,
    }


async def _fault_of_ours(_request: Request, error: Exception) -> Response:
    # No traceback: those of the log show what is in variables, and so what users wrote.
    place = traceback.extract_tb(error.__traceback__)[-1]
    log.error(
        "a request failed through a fault of this program",
        kind=type(error).__name__,
        at=f"{place.filename}:{place.lineno}",
    )
    return ApiError(500, "server_error", "internal_error", "this gateway has a fault; its log says which").response()


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    message = {
        404: "there is no such path; below /v1 there are chat/completions, completions, embeddings, models, "
        "prompts, pricing",
        405: "this path takes another method",
    }.get(error.status_code, str(error.detail))
    fault = ApiError(error.status_code, "invalid_request_error", "not_found", message)
    return fault.response()
