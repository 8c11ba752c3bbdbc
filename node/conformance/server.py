"""A server under examination: asked over HTTP, believed in nothing. Replies are bounded and lead nowhere else."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from node.engine.endpoint import Endpoint
from node.engine.transport import Traffic, open_http

REPLY_SECONDS_MAX = 120.0
"""For any one question: all are of a few tokens."""
EVENTS_MAX = 10_000
WORDS_MAX = 200
"""Characters of a server's own words in a report."""


class ServerError(Exception):
    """A question that was not answered as asked; the message says how. `status` is None without an HTTP answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_missing(self) -> bool:
        """Whether the server does not have this at all."""
        return self.status in (404, 405, 501)

    @property
    def is_refusal(self) -> bool:
        """Whether the server took it for a fault of the request."""
        return self.status is not None and 400 <= self.status < 500


class Server:
    """Asks one server. Every method raises ServerError."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, path: str) -> Any:
        """Return the JSON at `path`; None for an empty reply."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Mapping[str, object]) -> Any:
        """Return the JSON answer to a JSON body."""
        return await self._ask("POST", path, body)

    async def text(self, path: str) -> str:
        """Return the text at `path`."""
        return (await self._reply("GET", path, None)).text

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, object]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Yield the events of a stream; leaving the context closes the connection."""
        try:
            async with self._client.stream("POST", path, json=dict(body)) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise ServerError(_words(path, response), response.status_code)
                yield _events(path, response)
        except httpx.HTTPError as error:
            raise ServerError(f"{path}: {type(error).__name__}: {error}") from error

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> Any:
        response = await self._reply(method, path, body)
        if not response.content:
            return None
        try:
            return from_json(response.content)
        except ValueError as error:
            raise ServerError(f"{path}: the reply is not JSON", response.status_code) from error

    async def _reply(self, method: str, path: str, body: Mapping[str, object] | None) -> httpx.Response:
        try:
            with trio.fail_after(REPLY_SECONDS_MAX):
                response = await self._client.request(method, path, json=None if body is None else dict(body))
        except trio.TooSlowError as error:
            raise ServerError(f"{path}: no reply within {REPLY_SECONDS_MAX:.0f} s") from error
        except httpx.HTTPError as error:
            raise ServerError(f"{path}: {type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise ServerError(_words(path, response), response.status_code)
        return response


@asynccontextmanager
async def open_server(endpoint: Endpoint) -> AsyncIterator[Server]:
    """Connect to a server."""
    async with open_http(endpoint, Traffic()) as client:
        yield Server(client)


async def _events(path: str, response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    count = 0
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        text = line.removeprefix("data:").strip()
        if text == "[DONE]":
            continue
        count += 1
        if count > EVENTS_MAX:
            raise ServerError(f"{path}: more than {EVENTS_MAX} events")
        try:
            event = from_json(text)
        except ValueError as error:
            raise ServerError(f"{path}: an event is not JSON") from error
        if not isinstance(event, dict):
            raise ServerError(f"{path}: an event is not an object")
        yield event


def _words(path: str, response: httpx.Response) -> str:
    said = " ".join(response.text.split())[:WORDS_MAX]
    return f"{path} answers {response.status_code}" + (f": {said}" if said else "")
