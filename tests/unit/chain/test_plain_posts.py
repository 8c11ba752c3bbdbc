"""The short way to a chain endpoint: replies, limits and errors as on the long one, which is there where needed."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from node.chain import plain_posts
from node.chain.plain_posts import PlainPosts, StrangeReplyError, is_plain, open_plain_posts
from node.chain.rpc import JsonRpc, RpcUnavailableError

OK = b"HTTP/1.1 200 OK\r\n"
SECRET = "/v2/secret-key?token=secret"


class Server:
    """Answers each request with the next of `replies`, the last one for ever."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.requests: list[tuple[int, bytes, bytes]] = []
        """Number of the connection, head and body of each."""
        self.connections = 0
        self.url = ""
        self.ends_after = 1000
        """Requests that a connection serves before it is ended without a word."""

    async def serve(self, stream: trio.SocketStream) -> None:
        number, self.connections = self.connections, self.connections + 1
        async with stream:
            for _ in range(self.ends_after):
                data = b""
                while b"\r\n\r\n" not in data:
                    part = await stream.receive_some()
                    if not part:
                        return
                    data += part
                head, _, body = data.partition(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += await stream.receive_some()
                self.requests.append((number, head, body))
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                if not reply:
                    await trio.sleep_forever()
                await stream.send_all(reply)


def with_length(body: bytes, head: bytes = OK) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[PlainPosts]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}{SECRET}"
        with open_plain_posts([server.url]) as posts, trio.fail_after(30):
            yield posts[server.url]
        nursery.cancel_scope.cancel()


async def test_questions_travel_over_one_connection_with_path_and_length() -> None:
    server = Server(
        with_length(b"one"), OK + b"transfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n", with_length(b"")
    )
    async with served(server) as posts:
        assert [await posts.post(body) for body in (b"a", b"bb", b"ccc")] == [b"one", b"two", b""]
    assert server.connections == 1
    assert [body for _, _, body in server.requests] == [b"a", b"bb", b"ccc"]
    head = server.requests[0][1].decode()
    assert head.startswith(f"POST {SECRET} HTTP/1.1\r\n")
    assert f"host: {httpx.URL(server.url).netloc.decode()}" in head
    assert "user-agent: quern\r\n" in head, "fronts refuse who names none, and would not if asked through httpx"


async def test_many_ask_at_once_and_few_connections_stay() -> None:
    server = Server(with_length(b"x"))
    async with served(server) as posts:

        async def ask() -> None:
            assert await posts.post(b"a") == b"x"

        async with trio.open_nursery() as nursery:
            for _ in range(3 * plain_posts.KEPT_MAX):
                nursery.start_soon(ask)
        before = server.connections
        for _ in range(5):
            await ask()
    assert server.connections == before


async def test_a_question_goes_out_again_if_its_kept_connection_was_just_ended() -> None:
    server = Server(with_length(b"x"))
    server.ends_after = 1
    async with served(server) as posts:
        for _ in range(4):
            assert await posts.post(b"a") == b"x"
    assert [number for number, _, _ in server.requests] == [0, 1, 2, 3]


@pytest.mark.parametrize("status", [b"301 Moved", b"401 No", b"429 Slow down", b"503 Later"])
async def test_a_status_that_is_none_of_success_is_an_error_without_the_secret_of_the_url(status: bytes) -> None:
    server = Server(with_length(b"no", b"HTTP/1.1 " + status + b"\r\n"))
    async with served(server) as posts:
        with pytest.raises(httpx.HTTPStatusError) as raised:
            await posts.post(b"a")
        assert raised.value.response.status_code == int(status[:3])
        assert "secret" not in str(raised.value)
        async with httpx.AsyncClient() as client:
            for ways in ({}, {server.url: posts}):
                with capture_logs() as logs, pytest.raises(RpcUnavailableError) as told:
                    await JsonRpc([server.url], client, plain=ways).call_once("eth_blockNumber")
                assert status[:3].decode() in str(told.value)
                assert "secret" not in str(told.value) + str(logs)


async def test_a_reply_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_posts, "RESPONSE_BYTES_MAX", 10)
    async with served(Server(with_length(b"x" * 10), with_length(b"x" * 11))) as posts:
        assert await posts.post(b"a") == b"x" * 10
        with pytest.raises(ValueError, match="larger"):
            await posts.post(b"a")


async def test_an_endpoint_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_posts, "REQUEST_SECONDS_MAX", 0.05)
    async with served(Server(b"")) as posts:
        with pytest.raises(httpx.ReadTimeout):
            await posts.post(b"a")


async def test_nobody_there_is_said() -> None:
    listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener[0].socket.getsockname()[1]
    await listener[0].aclose()
    with pytest.raises(httpx.ConnectError):
        await PlainPosts(f"http://127.0.0.1:{port}").post(b"a")


@pytest.mark.parametrize(
    "reply",
    [
        with_length(b"x", OK + b"content-encoding: gzip\r\n"),
        b"HTTP/1.1 200 OK\r\n\r\nwithout a length",
        b"ICY 200 OK\r\ncontent-length: 1\r\n\r\nx",
    ],
)
async def test_what_is_not_read_here_is_a_strange_reply(reply: bytes) -> None:
    async with served(Server(reply)) as posts:
        with pytest.raises(StrangeReplyError):
            await posts.post(b"a")


async def test_an_endpoint_with_strange_replies_is_asked_through_httpx_from_then_on() -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": "0x5"}).encode()
    until_the_end = OK + b"connection: close\r\n\r\n"  # httpx reads such a reply to the connection's end
    server = Server(until_the_end + body, until_the_end + body, until_the_end + body.replace(b"1,", b"2,"))
    server.ends_after = 1
    async with served(server) as posts, httpx.AsyncClient() as client:
        rpc = JsonRpc([server.url], client, plain={server.url: posts})
        with capture_logs() as logs:
            assert await rpc.block_number() == 5
            assert await rpc.block_number() == 5
    agents = [b"user-agent: python-httpx" in head.lower() for _, head, _ in server.requests]
    assert agents == [False, True, True]
    assert len(logs) == 1
    assert "secret" not in str(logs)


async def test_a_cancelled_question_does_not_leave_its_reply_to_the_next() -> None:
    server = Server(b"", with_length(b"second"))
    async with served(server) as posts:
        with trio.move_on_after(0.1):
            await posts.post(b"first")
        assert await posts.post(b"second") == b"second"
    assert [number for number, _, _ in server.requests] == [0, 1]


@pytest.mark.parametrize("empty", [with_length(b""), b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_what_follows_an_empty_reply_is_not_taken_for_the_next(empty: bytes) -> None:
    server = Server(empty + with_length(b"surplus"), with_length(b"second"))
    async with served(server) as posts:
        assert await posts.post(b"first") == b""
        assert await posts.post(b"second") == b"second"
    assert [number for number, _, _ in server.requests] == [0, 1]


def test_only_plain_addresses_take_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert is_plain("http://127.0.0.1:8545/key")
    assert is_plain("http://[::1]:8545")
    assert not is_plain("https://rpc.example")
    assert not is_plain("http://user:password@rpc.example")
    assert not is_plain("ws://rpc.example")
    assert not is_plain("nonsense")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert not is_plain("http://127.0.0.1:8545")
