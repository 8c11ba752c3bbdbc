"""The short way to an engine says what httpx would say, and leads nowhere else."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from node.engine.plain_client import PlainClient

TIMEOUT = httpx.Timeout(7.0, connect=3.0)
BODY = {"prompt": [1, 2, 3], "text": "Grüße, \u2028 & 'so'", "temperature": 0.7, "stop": [], "none": None}


class Body(httpx.AsyncByteStream):
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data

    async def aclose(self) -> None:
        self.is_closed = True


class Recorder(httpx.AsyncBaseTransport):
    """Answers every request the same, and remembers what it was."""

    def __init__(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.status, self.headers = status, headers or {}
        self.requests: list[httpx.Request] = []
        self.bodies: list[Body] = []
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(Body(b'{"a":1}'))
        return httpx.Response(self.status, headers=self.headers, stream=self.bodies[-1])

    async def aclose(self) -> None:
        self.closed = True


def short(recorder: Recorder, base_url: str = "http://engine") -> PlainClient:
    return PlainClient(recorder, base_url=base_url, timeout=TIMEOUT)


@pytest.mark.parametrize("base_url", ["http://engine", "http://127.0.0.1:8000", "https://far.example/"])
async def test_it_says_what_httpx_would_say(base_url: str) -> None:
    ours, theirs = Recorder(), Recorder()
    async with (
        short(ours, base_url) as client,
        httpx.AsyncClient(transport=theirs, base_url=base_url, timeout=TIMEOUT) as stock,
    ):
        for path in ("/v1/completions", "/tokenize"):
            await client.post(path, json=BODY)
            await stock.post(path, json=BODY)
    for mine, other in zip(ours.requests, theirs.requests, strict=True):
        assert (mine.method, mine.url, mine.content) == (other.method, other.url, other.content)
        assert json.loads(mine.content) == BODY
        assert mine.extensions["timeout"] == other.extensions["timeout"]
        for name in ("host", "content-type", "content-length", "accept"):
            assert mine.headers[name] == other.headers[name]


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("GET", {}),
        ("POST", {"content": b"raw"}),
        ("POST", {"json": BODY, "headers": {"x-more": "1"}}),
        ("POST", {"json": BODY, "params": {"q": "1"}}),
        ("POST", {"json": BODY, "timeout": 1.0}),
    ],
)
async def test_what_is_more_than_json_is_said_as_well(method: str, given: dict[str, Any]) -> None:
    recorder = Recorder()
    async with short(recorder) as client:
        await client.request(method, "/x", **given)
    (request,) = recorder.requests
    assert request.method == method
    assert request.headers.get("x-more") == given.get("headers", {}).get("x-more")
    assert request.url.query == (b"q=1" if "params" in given else b"")
    assert request.extensions["timeout"]["read"] == given.get("timeout", TIMEOUT.read)
    if "content" in given:
        assert request.content == b"raw"


async def test_a_redirect_is_a_reply_like_any_other() -> None:
    recorder = Recorder(307, {"location": "http://elsewhere/"})
    async with short(recorder) as client:
        response = await client.post("/v1/completions", json=BODY)
    assert response.is_redirect
    assert len(recorder.requests) == 1


async def test_what_is_no_json_is_not_sent() -> None:
    recorder = Recorder()
    async with short(recorder) as client:
        with pytest.raises(ValueError, match="JSON"):
            await client.post("/v1/completions", json={"temperature": float("nan")})
    assert not recorder.requests


async def test_a_reply_that_is_left_is_closed() -> None:
    recorder = Recorder()
    async with short(recorder) as client:
        with trio.CancelScope() as scope:
            async with client.stream("POST", "/v1/completions", json=BODY) as response:
                assert response.status_code == 200
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert recorder.bodies[0].is_closed
    assert recorder.closed


async def test_a_client_that_was_closed_sends_nothing() -> None:
    recorder = Recorder()
    client = short(recorder)
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.post("/v1/completions", json=BODY)
    assert not recorder.requests
