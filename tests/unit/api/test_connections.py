"""Connections to the API that their clients have closed make room for others at once, not when they would time out."""

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api import server
from node.api.server import bind_api, serve_api


async def answer(request: Request) -> Response:
    return Response((await request.body()).upper())


async def test_a_client_may_come_and_go_more_often_than_there_are_connections(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """A connection that is closed while nothing is asked counted for as long as one may be silent."""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    listener = bind_api("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    nursery.start_soon(serve_api, Starlette(routes=[Route("/", answer, methods=["POST"])]), listener)

    async def ask(client: httpx.AsyncClient) -> bytes | None:
        try:
            return (await client.post(url, content=b"hello")).content
        except httpx.RemoteProtocolError:
            return None  # there is no room: the connection is closed unanswered

    async with httpx.AsyncClient(trust_env=False) as first, httpx.AsyncClient(trust_env=False) as second:
        assert [await ask(first), await ask(second)] == [b"HELLO", b"HELLO"]
        async with httpx.AsyncClient(trust_env=False) as third:
            assert await ask(third) is None
    with trio.fail_after(10):
        for _ in range(6):
            async with httpx.AsyncClient(trust_env=False) as client:
                while await ask(client) is None:  # the server hears of the end of those before in a moment
                    await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()
