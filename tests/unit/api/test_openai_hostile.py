"""Clients that leave, stall, trickle or come from somebody's web page: nothing goes on at their or our cost."""

import json
import socket
from collections import Counter
from typing import Any

import httpx
import pytest
import trio.testing
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from node.api import bounded_stream
from node.api.faces import compose
from node.api.openai import bodies, event_stream
from node.api.openai.event_stream import HEARTBEAT, EventStream
from node.api.openai.faults import ApiError
from node.services.answers import AnswerPart
from tests.unit.api.canned_gateway import on_a_socket, served

BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SCOPE: dict[str, Any] = {"type": "http"}


async def test_a_client_that_leaves_a_stream_ends_the_answer() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        face.gateway.endless = True
        async with client.stream("POST", f"{face.url}/chat/completions", json={**BODY, "stream": True}) as response:
            async for _ in response.aiter_lines():
                break
        with trio.fail_after(10):
            await face.gateway.left.wait()


@pytest.mark.parametrize("fields", [{}, {"n": 3}])
async def test_a_client_that_leaves_before_a_whole_answer_ends_it(fields: dict[str, Any]) -> None:
    async with served() as face:
        face.gateway.endless = True
        with trio.move_on_after(0.5):
            async with httpx.AsyncClient(timeout=30) as client:
                await client.post(f"{face.url}/chat/completions", json={**BODY, **fields})
        with trio.fail_after(10):
            await face.gateway.left.wait()
            while face.gateway.running:
                await trio.sleep(0.01)
        assert face.gateway.asked


async def test_a_client_that_stops_reading_stops_the_answer_and_then_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bounded_stream, "STALL_SECONDS_MAX", 0.5)
    async with served() as face:
        face.gateway.endless = True
        stream = await connected(face.url)
        await post_raw(stream, b'{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}')
        await stream.receive_some(10)
        with trio.fail_after(20):
            await face.gateway.left.wait()  # though the connection is still there
        given = face.gateway.given
        assert 0 < given < 50_000  # what the sockets' buffers hold, not all that could be made
        await stream.aclose()


async def test_a_client_that_does_not_read_cannot_keep_the_server_from_stopping() -> None:
    with trio.fail_after(20):
        async with served() as face:
            face.gateway.endless = True
            stream = await connected(face.url)
            await post_raw(
                stream, b'{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
            )
            given = -1
            while given != face.gateway.given:  # until nothing moves any more
                given = face.gateway.given
                await trio.sleep(0.5)
    await stream.aclose()


async def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.2)
    async with served() as face:
        stream = await connected(face.url)
        await post_raw(stream, b'{"model"', length=1000)
        with trio.fail_after(10):
            reply = await stream.receive_some(4096)
        assert reply.startswith(b"HTTP/1.1 408")
        await stream.aclose()


async def connected(url: str) -> trio.SocketStream:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    return await trio.open_tcp_stream(host, int(port))


async def post_raw(stream: trio.SocketStream, body: bytes, length: int = 0) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(body)}\r\n\r\n"
    await stream.send_all(head.encode() + body)


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_web_pages_from_elsewhere_may_not_spend(origin: str) -> None:
    async with served(cors_origins=["https://chat.example"]) as face, httpx.AsyncClient() as client:
        refused = await client.post(f"{face.url}/chat/completions", json=BODY, headers={"origin": origin})
        assert refused.status_code == 403
        assert face.gateway.asked == []
        assert "access-control-allow-origin" not in refused.headers

        headers = {"origin": "https://chat.example", "access-control-request-method": "POST"}
        preflight = await client.options(f"{face.url}/chat/completions", headers=headers)
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        allowed = await client.post(f"{face.url}/chat/completions", json=BODY, headers=headers)
        assert allowed.status_code == 200
        assert "quern-request-id" in allowed.headers["access-control-expose-headers"]


async def test_no_web_page_is_let_in_by_default() -> None:
    async with served() as face, httpx.AsyncClient() as client:
        reply = await client.post(f"{face.url}/chat/completions", json=BODY, headers={"origin": "http://127.0.0.1:1"})
        assert reply.status_code == 403
        assert reply.json()["error"]["code"] == "origin_not_allowed"


class Client:
    """The far end of a response, on a clock of the test's."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def test_a_stream_is_kept_alive_until_the_first_token(autojump_clock: trio.testing.MockClock) -> None:
    async def produce(write: event_stream.Write) -> None:
        await trio.sleep(35)
        await write(b"data: 1\n\n")

    client = Client()
    await EventStream(produce)(SCOPE, client.receive, client.send)
    assert client.body == HEARTBEAT * 3 + b"data: 1\n\n"
    assert client.sent[0]["status"] == 200


async def test_what_fails_before_the_first_event_has_its_own_status(autojump_clock: trio.testing.MockClock) -> None:
    async def produce(_write: event_stream.Write) -> None:
        await trio.sleep(5)
        raise ApiError(429, "rate_limit_error", "overloaded", "all are busy", retry_after=2)

    client = Client()
    await EventStream(produce)(SCOPE, client.receive, client.send)
    assert client.sent[0]["status"] == 429
    assert (b"retry-after", b"2") in client.sent[0]["headers"]


async def test_what_fails_after_a_heartbeat_is_an_event(autojump_clock: trio.testing.MockClock) -> None:
    async def produce(_write: event_stream.Write) -> None:
        await trio.sleep(15)
        raise ApiError(503, "server_error", "no_executor", "nobody is there")

    client = Client()
    await EventStream(produce)(SCOPE, client.receive, client.send)
    assert client.body.startswith(HEARTBEAT + b'data: {"error"')


async def test_events_that_wait_go_out_together(autojump_clock: trio.testing.MockClock) -> None:
    class SlowClient(Client):
        async def send(self, message: Message) -> None:
            await trio.sleep(1)
            await super().send(message)

    async def produce(write: event_stream.Write) -> None:
        for number in range(50):
            await write(b"data: %d\n\n" % number)

    client = SlowClient()
    await EventStream(produce)(SCOPE, client.receive, client.send)
    assert client.body == b"".join(b"data: %d\n\n" % number for number in range(50))
    assert len(client.sent) < 10


async def test_web_pages_are_kept_from_the_miner_s_api_too() -> None:
    reached: list[str] = []

    async def chat(_request: Request) -> Response:
        reached.append("chat")
        return Response(status_code=200)

    app = compose([Route("/api/chat", chat, methods=["POST"])], None, ["https://chat.example"])
    async with on_a_socket(app) as url, httpx.AsyncClient() as client:
        path = url.replace("/v1", "/api/chat")
        assert (await client.post(path, headers={"origin": "https://evil.example"})).status_code == 403
        assert reached == []
        assert (await client.post(path, headers={"origin": "https://chat.example"})).status_code == 200
        assert (await client.post(path)).status_code == 200


async def test_a_client_that_reads_slowly_gets_every_byte_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel takes only half of goes on where it stopped, whichever way events are written."""
    behind = Counter[bool]()
    flush = bounded_stream.BoundedStream.flush

    def counted(stream: bounded_stream.BoundedStream) -> None:
        flush(stream)
        behind[stream.is_full] += 1

    monkeypatch.setattr(bounded_stream.BoundedStream, "flush", counted)
    async with served() as face:
        texts = [f"word{number} " * 2500 for number in range(500)]  # more than all buffers between the two hold
        face.gateway.parts = [AnswerPart(text, (number,)) for number, text in enumerate(texts)]
        face.gateway.pause_seconds = 0.002
        stream = trio.SocketStream(trio.socket.socket())
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = face.url.removeprefix("http://").removesuffix("/v1").split(":")
        await stream.socket.connect((host, int(port)))
        await post_raw(stream, b'{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}')
        got = bytearray()
        with trio.fail_after(60):
            while not behind[True]:  # nothing is read before the kernel takes no more
                await trio.sleep(0.01)
            while b"\r\n0\r\n\r\n" not in got[-9:]:
                data = await stream.receive_some(30_000)
                assert data
                got += data
        await stream.aclose()
    head, _, rest = bytes(got).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head.lower()
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        assert rest[int(size, 16) : int(size, 16) + 2] == b"\r\n"
        rest = rest[int(size, 16) + 2 :]
    events = [line[6:] for line in bytes(body).split(b"\n\n") if line.startswith(b"data: {")]
    deltas = [choice["delta"] for event in events for choice in json.loads(event)["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == "".join(texts)
    assert bytes(body).endswith(b"data: [DONE]\n\n")
    assert behind[False] > 0


async def test_a_client_of_the_old_http_gets_its_events_unchunked() -> None:
    async with served() as face:
        stream = await connected(face.url)
        body = b'{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
        head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        got = bytearray()
        with trio.fail_after(20):
            while data := await stream.receive_some(4096):
                got += data
        await stream.aclose()
    answer = bytes(got).partition(b"\r\n\r\n")[2]
    assert answer.startswith(b"data: {")
    assert answer.endswith(b"data: [DONE]\n\n")
    assert all(part.startswith(b"data: ") for part in answer.split(b"\n\n") if part)
