"""The management API of models on this machine: `/models`, for operators and their programs, with a token each.

Detail: off while there is no token; on loopback unless the settings say otherwise. A token has a role: `read-only`
looks, `operator` also downloads, `admin` also removes. Model ids hold slashes, which may stand in the path as they are
or as `%2F`. Errors have one shape: `{"error": {"code", "message", "remedy"}}`.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog
import trio
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.models.identity import BadNameError, LocalModelId, parse_model_id
from node.models.manager import ManagerRefusedError, ModelManager
from node.models.presenting import BadRequestError, files_facts, model_facts, parse_request, progress_facts
from node.models.registry import ModelQuery, UnknownModelError
from node.models.states import ModelStatus, ModelType
from node.models.tokens import ApiRole, ApiToken, find_api_token, read_api_tokens
from node.private_files import PrivateFileError

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 256 * 1024
"""A request with the most files and the longest addresses that would be taken is larger: nobody has one."""
BODY_SECONDS_MAX = 10.0
TOKEN_CHARACTERS_MAX = 256
MODELS_SHOWN_MAX = 1_000

Handler = Callable[[Request, ApiToken], Awaitable[Response]]


class ApiError(Exception):
    """A request that is not done: its status and what to say."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.remedy = remedy

    def response(self) -> Response:
        """Return the answer."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else None
        body = {"error": {"code": self.code, "message": str(self), "remedy": self.remedy}}
        return JSONResponse(body, status_code=self.status, headers=headers)


class ModelApi:
    """The handlers, over one manager. `tokens_file` is read for each request: a removed token is out at once."""

    def __init__(self, manager: ModelManager, tokens_file: Path) -> None:
        self._manager = manager
        self._tokens_file = tokens_file

    def guarded(self, needed: ApiRole, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return `handler` for those whose token has the `needed` role, with its errors in our shape."""

        async def answer(request: Request) -> Response:
            try:
                token = await self._token(request)
                if not token.role.may(needed):
                    raise ApiError(
                        403, "forbidden", f"the token {token.name} is {token.role.value}; this needs {needed.value}"
                    )
                return await handler(request, token)
            except ApiError as error:
                return error.response()
            except UnknownModelError as error:
                return ApiError(404, "not_found", str(error), "GET /models lists them.").response()
            except (BadNameError, BadRequestError) as error:
                return ApiError(400, "invalid_params", str(error)).response()
            except ManagerRefusedError as error:
                return ApiError(409, "refused", str(error), error.remedy).response()
            except ClientDisconnect:
                return Response(status_code=400)

        return answer

    async def list_models(self, request: Request, _token: ApiToken) -> Response:
        """`GET /models`: all, or those of `type`, `status`, or with `q` in their ids."""
        wanted = request.query_params
        unknown = sorted(set(wanted) - {"type", "status", "q"})
        if unknown:
            raise ApiError(400, "invalid_params", f"unknown parameter {unknown[0]}; there are type, status and q")
        try:
            query = ModelQuery(
                model_type=ModelType(wanted["type"]) if "type" in wanted else None,
                status=ModelStatus(wanted["status"]) if "status" in wanted else None,
                text=wanted.get("q"),
            )
        except ValueError as error:
            raise ApiError(400, "invalid_params", str(error)) from error
        found = self._manager.registry.query(query)
        return JSONResponse(
            {
                "models": [model_facts(self._manager, entry) for entry in found[:MODELS_SHOWN_MAX]],
                "total": len(found),
            }
        )

    async def show(self, request: Request, _token: ApiToken) -> Response:
        """`GET /models/{id}`."""
        return JSONResponse(model_facts(self._manager, self._manager.registry.get(_model_id(request))))

    async def files(self, request: Request, _token: ApiToken) -> Response:
        """`GET /models/{id}/files`."""
        return JSONResponse(files_facts(self._manager, self._manager.registry.get(_model_id(request))))

    async def progress(self, request: Request, _token: ApiToken) -> Response:
        """`GET /models/{id}/status`: live progress of a download."""
        return JSONResponse(progress_facts(self._manager.progress(_model_id(request))))

    async def download(self, request: Request, token: ApiToken) -> Response:
        """`POST /models/download`: begins, and answers at once with where to look (202; 200 if it is here)."""
        wanted = await _read_json(request)
        if isinstance(wanted, dict) and wanted.get("source") == "directory" and not token.role.may(ApiRole.ADMIN):
            # Whoever names a directory has the daemon read it: more than an operator of models may.
            raise ApiError(403, "forbidden", "copying a directory of this machine needs an admin token")
        entry = self._manager.download(parse_request(wanted), _actor(token))
        progress = progress_facts(self._manager.progress(entry.model_id))
        status = 200 if entry.status is ModelStatus.AVAILABLE else 202
        headers = {"Location": f"/models/{entry.model_id}/status"}
        return JSONResponse(progress, status_code=status, headers=headers)

    async def remove(self, request: Request, token: ApiToken) -> Response:
        """`DELETE /models/{id}`."""
        await self._manager.remove(_model_id(request), _actor(token))
        return Response(status_code=204)

    async def _token(self, request: Request) -> ApiToken:
        scheme, _, presented = request.headers.get("authorization", "").partition(" ")
        try:
            tokens = await trio.to_thread.run_sync(read_api_tokens, self._tokens_file)
        except PrivateFileError as error:
            log.error("the management API's tokens cannot be read", reason=str(error))
            raise ApiError(503, "unavailable", "the tokens cannot be read now", "See the daemon's log.") from error
        found = None
        if scheme.lower() == "bearer" and 0 < len(presented) <= TOKEN_CHARACTERS_MAX:
            found = find_api_token(tokens, presented.strip())
        if found is None:
            raise ApiError(401, "unauthorized", "a valid token is needed", "Send Authorization: Bearer TOKEN.")
        return found


def make_model_app(manager: ModelManager, tokens_file: Path) -> Starlette:
    """Return the application."""
    api = ModelApi(manager, tokens_file)

    def route(path: str, method: str, needed: ApiRole, handler: Handler) -> Route:
        return Route(path, api.guarded(needed, handler), methods=[method])

    return Starlette(
        routes=[
            route("/models", "GET", ApiRole.READ_ONLY, api.list_models),
            route("/models/download", "POST", ApiRole.OPERATOR, api.download),
            route("/models/{model_id:path}/files", "GET", ApiRole.READ_ONLY, api.files),
            route("/models/{model_id:path}/status", "GET", ApiRole.READ_ONLY, api.progress),
            route("/models/{model_id:path}", "GET", ApiRole.READ_ONLY, api.show),
            route("/models/{model_id:path}", "DELETE", ApiRole.ADMIN, api.remove),
        ],
        exception_handlers={HTTPException: _http_error},
    )


async def _read_json(request: Request) -> Any:
    body = b""
    with trio.move_on_after(BODY_SECONDS_MAX):
        async for piece in request.stream():
            body += piece
            if len(body) > BODY_BYTES_MAX:
                raise ApiError(413, "too_large", f"the body is over {BODY_BYTES_MAX} bytes")
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, "invalid_params", f"the body is not JSON: {str(error)[:200]}") from error
    raise ApiError(408, "too_slow", f"the body did not come within {BODY_SECONDS_MAX:.0f} s")


def _model_id(request: Request) -> LocalModelId:
    return parse_model_id(request.path_params["model_id"])


def _actor(token: ApiToken) -> str:
    return f"api: {token.name}"


async def _http_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_params")
    return ApiError(error.status_code, code, str(error.detail), "The paths are those of /models.").response()
