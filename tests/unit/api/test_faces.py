"""The faces of a daemon as one application: short ways change nothing of what is answered."""

from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from node.api.faces import compose
from node.api.server import bind_api, serve_api


def says(text: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        return PlainTextResponse(text)

    return answer


def face(origins: Sequence[str] = ()) -> Starlette:
    own = [Route("/health", says("own"), methods=["GET"]), Route("/both", says("own"), methods=["POST"])]
    behind = [
        Route("/v1/models", says("behind"), methods=["GET"]),
        Route("/v1/models/{name}", says("one"), methods=["GET"]),
        Route("/both", says("behind"), methods=["POST"]),
    ]
    return compose(own, Starlette(routes=behind), origins)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/health", 200, "own"),
        ("GET", "/v1/models", 200, "behind"),
        ("GET", "/v1/models/x", 200, "one"),
        ("POST", "/both", 200, "own"),
        ("POST", "/v1/models", 405, "Method Not Allowed"),
        ("GET", "/nowhere", 404, "Not Found"),
    ],
)
async def test_own_routes_come_first_and_all_else_is_the_others(method: str, path: str, status: int, text: str) -> None:
    for origins in ((), ("https://chat.example",)):
        transport = httpx.ASGITransport(app=face(origins))
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            response = await client.request(method, path)
            assert (response.status_code, response.text) == (status, text)


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/x"])
async def test_pages_from_elsewhere_are_turned_away_from_every_path(path: str) -> None:
    transport = httpx.ASGITransport(app=face(["https://chat.example"]))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        assert (await client.get(path, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await client.get(path, headers={"origin": "https://chat.example"})).status_code == 200


async def test_a_reply_that_is_only_a_head_reaches_a_client_whose_connection_ends_with_it() -> None:
    async def nothing(_request: Request) -> Response:
        return Response(status_code=204)

    listener = bind_api("127.0.0.1", 0)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_api, compose([Route("/nothing", nothing)], None), listener)
            async with await trio.open_tcp_stream(*listener.getsockname()) as stream:
                await stream.send_all(b"GET /nothing HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")
                came = b"".join([part async for part in stream])
            nursery.cancel_scope.cancel()
    listener.close()
    assert came.startswith(b"HTTP/1.1 204 ")
    assert came.endswith(b"\r\n\r\n")
