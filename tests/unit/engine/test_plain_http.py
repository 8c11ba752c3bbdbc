"""Our own HTTP to engines: whole replies come whole however they are cut, and a broken server is found out."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node.engine import plain_http
from node.engine.plain_http import PlainTransport
from node.http1.replies import HEAD_BYTES_MAX, ChunkedBody, LengthBody, ReplyError, body_of, read_head

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"content-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def as_chunks(parts: Sequence[bytes], trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x;x=y\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return body + b"0\r\n" + trailer + b"\r\n"


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_a_body_in_chunks_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int], trailer: bool) -> None:
    body = ChunkedBody()
    data = as_chunks(parts, b"x-checksum: 5\r\n" if trailer else b"")
    content = b""
    for piece in pieces(data, cuts):
        assert not body.is_complete
        content += body.feed(piece)
    assert content == b"".join(parts)
    assert body.is_complete


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=9))
def test_any_bytes_end_well_or_are_refused(data: bytes, cuts: list[int]) -> None:
    body = ChunkedBody()
    with suppress(ReplyError):
        for piece in pieces(data, cuts):
            body.feed(piece)
    with suppress(ReplyError):
        body_of(read_head(data))


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n", b"\r\n", b"-5\r\n", b"0x5\r\n", b"5\r\nhelloX\r\n", b"f" * 16 + b"\r\n", b"1" * 2000,
        b"0\r\n" + b"a: b\r\n" * 101,
    ],
)  # fmt: skip
def test_chunks_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(ReplyError):
        ChunkedBody().feed(data)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 abc OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n: nameless",
        b"HTTP/1.1 200 OK\r\n folded: line",
        b"HTTP/1.1 200 OK\r\na : b",
        b"HTTP/1.1 200 OK\r\na: b\nc: d",
        b"HTTP/1.1 200 OK" + b"\r\na: b" * 101,
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0x5",
        b"HTTP/1.1 200 OK",
    ],
)
def test_heads_that_leave_a_doubt_are_refused(head: bytes) -> None:
    with pytest.raises(ReplyError):
        body_of(read_head(head))


@given(st.integers(0, 100), st.lists(st.binary(max_size=30), max_size=9))
def test_a_body_of_a_stated_length_takes_no_more(length: int, parts: list[bytes]) -> None:
    body = LengthBody(length)
    assert b"".join(map(body.feed, parts)) == b"".join(parts)[:length]
    assert body.is_complete == (len(b"".join(parts)) >= length)


@asynccontextmanager
async def serving(*sends: bytes, ends: bool = True) -> AsyncIterator[tuple[httpx.AsyncClient, list[bytes]]]:
    """Serve one reply, in these pieces, to whoever connects; yield a client and what was asked."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some(65536)
            asked.append(data)
            for piece in sends:
                await stream.send_all(piece)
                await trio.sleep(0.01)
            if not ends:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with httpx.AsyncClient(
            transport=PlainTransport(), base_url=f"http://127.0.0.1:{port}", timeout=httpx.Timeout(1.0)
        ) as client:
            yield client, asked
        nursery.cancel_scope.cancel()


async def test_a_reply_is_read_as_it_comes() -> None:
    sends = (CHUNKED[:10], CHUNKED[10:] + b"5\r\nhel", b"lo\r\n", b"1\r\n!\r\n0\r\n\r\n")
    async with (
        serving(*sends) as (client, asked),
        client.stream("POST", "/v1/completions", json={"a": 1}, headers={"x-key": "5"}) as response,
    ):
        assert response.status_code == 200
        assert b"".join([part async for part in response.aiter_raw()]) == b"hello!"
    (request,) = asked
    assert request.startswith(b"POST /v1/completions HTTP/1.1\r\n")
    head = request.lower()
    assert b"x-key: 5\r\n" in head
    assert b"connection:" not in head
    assert head.count(b"content-length") == head.count(b"host:") == 1
    assert request.endswith(b'{"a":1}')


async def test_a_reply_of_a_stated_length_and_an_interim_one() -> None:
    async with serving(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\n{}ignored") as (client, _):
        response = await client.post("/tokenize", json={})
        assert response.json() == {}


@pytest.mark.parametrize(
    ("sends", "ends", "words"),
    [
        ([CHUNKED + b"5\r\nhel"], True, "before the reply was complete"),
        ([OK + b"content-length: 9\r\n\r\nhel"], True, "before the reply was complete"),
        ([OK], True, "before the reply was complete"),
        ([b""], False, "nothing came"),
        ([CHUNKED + b"5\r\nhel"], False, "nothing came"),
        ([OK + b"x: " + b"y" * (HEAD_BYTES_MAX + 9)], False, "too long"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 9], False, "without end"),
        ([CHUNKED + b"zz\r\n"], False, "no number"),
        ([b"SSH-2.0-x\r\n\r\n"], False, "does not begin"),
    ],
)
async def test_a_broken_server_is_an_error_of_http_in_time(sends: list[bytes], ends: bool, words: str) -> None:
    with trio.fail_after(10):
        async with serving(*sends, ends=ends) as (client, _):
            with pytest.raises(httpx.HTTPError, match=words):
                await client.post("/v1/completions", json={})


async def test_leaving_a_stream_closes_its_connection() -> None:
    gone = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(CHUNKED + b"1\r\nx\r\n")
        try:
            while await stream.receive_some(1):
                pass
        except trio.BrokenResourceError:
            pass
        gone.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with httpx.AsyncClient(transport=PlainTransport(), base_url=f"http://127.0.0.1:{port}") as client:
            async with client.stream("POST", "/v1/completions", json={}) as response:
                async for _ in response.aiter_raw():
                    break
            with trio.fail_after(5):
                await gone.wait()
        nursery.cancel_scope.cancel()


async def asked_twice(
    replies: Sequence[bytes], *, cut_after: int = 99, pause: float = 0.0
) -> tuple[list[tuple[int, bytes]], list[str]]:
    """Ask several times, one after the other; return (connection, request) as the server saw them, and what came.

    The server ends a connection after `cut_after` requests, as one that had enough of waiting does.
    """
    seen: list[tuple[int, bytes]] = []
    connections = itertools.count()
    answers = iter(replies)

    async def serve(stream: trio.SocketStream) -> None:
        number = next(connections)
        async with stream:
            for served in itertools.count():
                data = await stream.receive_some(65536)
                if not data or served >= cut_after:
                    return
                seen.append((number, data))
                await stream.send_all(next(answers))

    came = []
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with httpx.AsyncClient(transport=PlainTransport(), base_url=f"http://127.0.0.1:{port}") as client:
            for _ in replies:
                came.append((await client.post("/tokenize", json={})).text)
                await trio.sleep(pause)
        nursery.cancel_scope.cancel()
    return seen, came


WHOLE = OK + b"content-length: 2\r\n\r\n{}"


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        (WHOLE, {0}),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", {0}),
        (OK + b"Connection: Close\r\ncontent-length: 2\r\n\r\n{}", {0, 1, 2}),
        (WHOLE.replace(b"HTTP/1.1", b"HTTP/1.0"), {0, 1, 2}),
        (WHOLE + b"more than it said", {0, 1, 2}),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\nmore", {0, 1, 2}),
    ],
)
async def test_a_connection_is_used_again_where_its_reply_ended_cleanly(reply: bytes, connections: set[int]) -> None:
    with trio.fail_after(10):
        seen, came = await asked_twice([reply] * 3)
    assert came == ["{}"] * 3
    assert {number for number, _ in seen} == connections


async def test_a_request_goes_out_again_if_its_kept_connection_was_just_ended() -> None:
    with trio.fail_after(10):
        seen, came = await asked_twice([WHOLE] * 4, cut_after=1)
    assert came == ["{}"] * 4
    assert [number for number, _ in seen] == [0, 1, 2, 3]


async def test_connections_are_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_http, "KEPT_SECONDS_MAX", 0.01)
    with trio.fail_after(10):
        seen, came = await asked_twice([WHOLE] * 3, pause=0.05)
    assert came == ["{}"] * 3
    assert [number for number, _ in seen] == [0, 1, 2]


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    async with httpx.AsyncClient(
        transport=PlainTransport(tmp_path / "absent.sock"), base_url="http://engine"
    ) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
    async with httpx.AsyncClient(transport=PlainTransport(), base_url="https://127.0.0.1:1") as client:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("/health")


async def test_a_header_cannot_add_a_line() -> None:
    async with serving(OK + b"content-length: 0\r\n\r\n") as (client, asked):
        with pytest.raises((httpx.LocalProtocolError, ValueError)):
            await client.get("/health", headers=[(b"x-key", b"5\r\nevil: 1")])  # type: ignore[list-item]
        assert asked == []
