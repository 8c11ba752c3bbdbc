"""Whatever answers in a server's place: replies are bounded, lead nowhere else, and only the engine's words count."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from node.engine import transport
from node.engine.client import EngineClient
from node.engine.endpoint import Endpoint, EndpointError, parse_endpoint
from node.engine.identity import EngineOutsideRangeError, identify, read_vocabulary_size
from node.engine.plan import Choice
from node.engine.transport import Traffic, open_http
from node.ports import EngineFailedError, GenerationChunk, GenerationRequest, PushedChunks
from node.protocol.identifiers import Cid, ModelId
from node.protocol.sampling import SamplingParameters
from node.services.groups import sole_error

CHOICE = Choice(ModelId("tiny"), Cid("bafy"), (), context_length=2048)
Answer = Callable[[str, bytes], bytes | Awaitable[bytes]]
REQUEST = GenerationRequest((1, 2, 3), 8, SamplingParameters(0), 1, (), 0)


def reply(body: object, *, status: str = "200 OK", headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data


def events(*lines: str) -> bytes:
    text = "".join(f"{line}\n\n" for line in lines)
    return reply(text.encode(), headers="content-type: text/event-stream\r\n")


async def talk(answer: Answer, heads: list[str], stream: trio.SocketStream) -> None:
    """Answer the requests of one connection."""
    async with stream:
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                data = await stream.receive_some()
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            heads.append(head.decode())
            length = next(
                (int(line.split(":")[1]) for line in heads[-1].lower().splitlines() if line.startswith("content-le")), 0
            )
            while len(received) < length:
                received += await stream.receive_some()
            body, received = received[:length], received[length:]
            answered = answer(heads[-1].split()[1], body)
            try:
                await stream.send_all(answered if isinstance(answered, bytes) else await answered)
            except trio.BrokenResourceError:
                return


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[tuple[Endpoint, list[str]]]:
    """A server on TCP that says what it is told to."""
    heads: list[str] = []
    with sole_error():
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, partial(talk, answer, heads), 0, host="127.0.0.1")
            listeners = await nursery.start(serve)
            port = listeners[0].socket.getsockname()[1]
            yield parse_endpoint(f"http://127.0.0.1:{port}", "secret-key"), heads
            nursery.cancel_scope.cancel()


def vllm(path: str, _body: bytes, *, version: str = "0.32.0+cpu", served: str = "tiny", length: int = 4096) -> bytes:
    if path == "/version":
        return reply({"version": version})
    if path == "/v1/models":
        return reply({"data": [{"id": served, "max_model_len": length}]})
    return reply({}, status="404 Not Found")


async def identify_at(answer: Answer, choice: Choice = CHOICE) -> str:
    async with server(answer) as (endpoint, _), open_http(endpoint, Traffic()) as http:
        return (await identify(http, choice)).version


async def test_a_server_that_is_what_it_should_be_is_taken_and_gets_the_key() -> None:
    async with server(vllm) as (endpoint, heads), open_http(endpoint, Traffic()) as http:
        assert (await identify(http, CHOICE)).version == "0.32.0+cpu"
    assert all("authorization: bearer secret-key" in head.lower() for head in heads)
    assert "secret-key" not in repr(endpoint)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (partial(vllm, served="other"), "--served-model-name tiny"),
        (partial(vllm, length=512), "--max-model-len 2048"),
        (lambda *_: reply({"detail": "no"}, status="401 Unauthorized"), "api_key_file"),
        (lambda *_: reply(b"<html>"), "not JSON"),
        (lambda *_: reply([]), "not an object"),
        (lambda *_: reply({"version": 7}), "names no version"),
        (lambda *_: reply({"version": "x" * 1000}), "names no version"),
        (lambda *_: reply({}, status="500 Internal Server Error"), "status 500"),
        (lambda *_: reply({}, status="302 Found", headers="location: http://127.0.0.1:1/\r\n"), "redirects"),
        (lambda *_: reply(b"x", headers="content-encoding: gzip\r\n"), "compresses"),
        (lambda *_: b"SSH-2.0-OpenSSH\r\n\r\n", "cannot be reached"),
    ],
)
async def test_a_server_that_is_not_is_refused_in_words_that_say_what_to_do(answer: Answer, told: str) -> None:
    with pytest.raises(EngineFailedError, match=told):
        await identify_at(answer)


async def test_a_version_outside_the_range_of_the_model_is_no_failure_but_an_exclusion() -> None:
    with pytest.raises(EngineOutsideRangeError, match=r"vllm>=0\.32,<0\.33, this node has vllm 0\.31\.4"):
        await identify_at(partial(vllm, version="0.31.4"))
    assert await identify_at(partial(vllm, version="0.31.4"), replace(CHOICE, engine="vllm>=0.31")) == "0.31.4"


async def test_nobody_at_the_place_is_told_as_such() -> None:
    async with open_http(parse_endpoint("http://127.0.0.1:1"), Traffic()) as http:
        with pytest.raises(EngineFailedError, match="cannot be reached"):
            await identify(http, CHOICE)


async def test_a_reply_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "REPLY_BYTES_MAX", 100_000)
    with pytest.raises(EngineFailedError, match="too large"):
        await identify_at(lambda *_: reply(b" " * 200_000))


@pytest.fixture(params=["one by one", "pushed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which chunks are taken."""
    monkeypatch.setattr(f"{__name__}.is_pushed", request.param == "pushed")


is_pushed = False


async def collect(answer: Answer, traffic: Traffic) -> list[int]:
    async with server(answer) as (endpoint, _), open_http(endpoint, traffic) as http:
        return await tokens_of(EngineClient(http, "tiny"))


async def tokens_of(client: EngineClient, began: Callable[[], None] = lambda: None) -> list[int]:
    tokens: list[int] = []

    def take(chunks: Sequence[GenerationChunk]) -> bool:
        began()
        tokens.extend(token for chunk in chunks for token in chunk.token_ids)
        return True

    async with client.generate(REQUEST) as chunks:
        if is_pushed:
            assert isinstance(chunks, PushedChunks)
            await chunks.push_to(take)
        else:
            async for chunk in chunks:
                take((chunk,))
    return tokens


def piece(tokens: list[int], reason: str | None = None) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "text": "x", "token_ids": tokens, "finish_reason": reason}]})


@pytest.mark.usefixtures("way")
async def test_an_event_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LINE_BYTES_MAX", 100_000)
    with pytest.raises(EngineFailedError):
        await collect(lambda *_: events("data: " + "x" * 200_000), Traffic())


@pytest.mark.usefixtures("way")
async def test_a_long_answer_in_many_events_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LINE_BYTES_MAX", 1000)
    lines = [piece([number]) for number in range(200)]
    assert await collect(lambda *_: events(*lines, piece([7], "stop")), Traffic()) == [*range(200), 7]


@pytest.mark.usefixtures("way")
async def test_done_after_a_cut_is_an_error_and_no_end() -> None:
    """vLLM ends a stream that its dead engine cut with an error event, and then [DONE]."""
    error = 'data: {"error": {"message": "EngineCore died", "code": 500}}'
    for lines in ((piece([1]), error, "data: [DONE]"), (piece([1]), "data: [DONE]"), (piece([1]),)):
        with pytest.raises(EngineFailedError):
            await collect(lambda *_, said=lines: events(*said), Traffic())
    assert await collect(lambda *_: events(piece([1]), piece([2], "length"), "data: [DONE]"), Traffic()) == [1, 2]


@pytest.mark.usefixtures("way")
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "choice",
    [
        {"text": "x", "token_ids": [1.5]},
        {"text": "x", "token_ids": ["1"]},
        {"text": "x", "token_ids": [True]},
        {"text": 5, "token_ids": [1]},
        {"text": "x", "token_ids": [1], "finish_reason": 3},
    ],
)
async def test_tokens_that_are_none_are_a_failure_of_the_engine(choice: dict[str, object]) -> None:
    line = "data: " + json.dumps({"choices": [choice]})
    with pytest.raises(EngineFailedError):
        await collect(lambda *_: events(line, piece([7], "stop")), Traffic())


@pytest.mark.usefixtures("way")
async def test_traffic_counts_what_runs_and_hears_only_the_engine() -> None:
    traffic = Traffic()
    seen: list[tuple[int, int, bool]] = []

    def answer(path: str, body: bytes) -> bytes:
        seen.append((traffic.running, traffic.longest_request_bytes - len(body), traffic.heard_at > -1e18))
        return reply({"tokens": [1]}) if path == "/tokenize" else events(piece([1], "stop"))

    async with server(answer) as (endpoint, _), open_http(endpoint, traffic) as http:
        client = EngineClient(http, "tiny")
        await client.tokenize("x")  # the API process answers this, also beside a dead core
        await tokens_of(client)
        assert traffic.running == 0
    assert [(running, heard) for running, _, heard in seen] == [(0, False), (1, False)]
    assert seen[1][1] == 0  # the size of the request is known while it runs
    assert traffic.heard_at > -1e18


async def test_a_request_that_is_left_is_no_longer_counted() -> None:
    traffic = Traffic()

    async def silence() -> bytes:
        await trio.sleep_forever()
        return b""

    async with server(lambda *_: silence()) as (endpoint, _), open_http(endpoint, traffic) as http:
        with trio.move_on_after(0.2):
            async with EngineClient(http, "tiny").generate(REQUEST):
                pass
        assert traffic.running == 0


@pytest.mark.usefixtures("way")
async def test_requests_that_run_are_broken_off_when_their_server_is_given_up() -> None:
    """A wedged server elsewhere keeps its connections open: whoever reads must not wait on it."""
    failed: list[str] = []
    begun, asked_again = trio.Event(), trio.Event()

    async def first_token_only() -> bytes:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        line = (piece([1]) + "\n\n").encode()
        return head + f"{len(line):x}\r\n".encode() + line + b"\r\n"

    async def silence() -> bytes:
        asked_again.set()
        await trio.sleep_forever()
        return b""

    answers = iter((first_token_only, silence))

    async def read(client: EngineClient) -> None:
        with pytest.raises(EngineFailedError):
            await tokens_of(client, begun.set)
        failed.append("x")

    traffic = Traffic()
    with trio.fail_after(20):
        async with server(lambda *_: next(answers)()) as (endpoint, _), trio.open_nursery() as nursery:
            async with open_http(endpoint, traffic) as http:
                client = EngineClient(http, "tiny")
                nursery.start_soon(read, client)
                await begun.wait()
                nursery.start_soon(read, client)
                await asked_again.wait()
            while len(failed) < 2:
                await trio.sleep(0.01)
    assert traffic.running == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host:1", "expected http"),
        ("host:8000", "expected http"),
        ("http://", "expected http"),
        ("http://user:pw@host:1", "api_key_file"),
        ("http://host:8000/v1", "only scheme, host and port"),
        ("http://host:99999", "out of range"),
        ("unix:relative", "absolute"),
    ],
)
def test_a_wrong_place_is_explained(text: str, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        parse_endpoint(text)


def test_places_are_read() -> None:
    assert parse_endpoint("https://gpu.example").url == "https://gpu.example"
    assert parse_endpoint("http://[::1]:8000/").url == "http://[::1]:8000"
    assert parse_endpoint("unix:/run/vllm.sock").socket == Path("/run/vllm.sock")


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", '{"vocab_size": true}', '{"vocab_size": -1}', '{"vocab_size": "9"}']
)
def test_a_model_without_a_vocabulary_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(EngineFailedError):
        read_vocabulary_size(tmp_path)


def test_the_vocabulary_of_a_model_with_several_parts_is_that_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"vocab_size": 9}}')
    assert read_vocabulary_size(tmp_path) == 9


async def test_the_environment_has_no_say_in_where_requests_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert await identify_at(vllm) == "0.32.0+cpu"
