"""The control socket: private, bounded, and not to be brought down by any client."""

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from node.control.client import ControlError, DaemonNotRunningError, connect_control
from node.control.frames import FRAME_BYTES_MAX
from node.control.jsonrpc import ErrorCode
from node.control.server import CONNECTIONS_MAX, IDLE_SECONDS_MAX, ControlSocketError, open_control_socket
from node.control.views import AskView, PeersView, StatusView
from tests.unit.control.canned import CannedOperations


async def exchange(path: Path, data: bytes) -> list[Any]:
    """Send `data`, close the sending half, return every JSON line that comes back."""
    received = b""
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        async for part in stream:
            received += part
    return [json.loads(line) for line in received.splitlines()]


def request(method: str, request_id: object = 1, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode() + b"\n"


def ask(text: str, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], **more}


async def test_only_its_owner_may_open_the_socket(control_server: Any) -> None:
    async with control_server() as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_socket_file_goes_with_the_daemon(control_server: Any) -> None:
    async with control_server() as path:
        assert path.exists()
    assert not path.exists()


async def test_a_call_is_answered(control_server: Any) -> None:
    async with control_server() as path, connect_control(path) as client:
        status = await client.call("status", {}, StatusView, deadline_seconds=5)
        assert status.head_block == 2


async def test_ask_streams_events_before_its_answer(control_server: Any) -> None:
    events = []

    async def note(event: Any) -> None:
        events.append(event["text"])

    async with control_server() as path, connect_control(path) as client:
        answer = await client.call("ask", ask("to be or"), AskView, deadline_seconds=5, on_event=note)
    assert events == ["to ", "be ", "or "]
    assert answer.text == "to be or"


async def test_a_line_tool_that_closes_its_sending_half_still_gets_its_answer(control_server: Any) -> None:
    async with control_server() as path:
        lines = await exchange(path, request("ask", **ask("a b")))
    assert [line.get("method") for line in lines] == ["ask.event", "ask.event", None]
    assert lines[-1]["result"]["output_tokens"] == 2


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"not json\n", ErrorCode.PARSE_ERROR),
        (b"[]\n", ErrorCode.INVALID_REQUEST),
        (b"{}\n", ErrorCode.INVALID_REQUEST),
        (request("nonsense"), ErrorCode.METHOD_NOT_FOUND),
        (request("status", surprise=1), ErrorCode.INVALID_PARAMS),
        (request("ask"), ErrorCode.INVALID_PARAMS),
        (request("ask", **ask("x", max_tokens=0)), ErrorCode.INVALID_PARAMS),
        (request("ask", **ask("x", max_tokens="5")), ErrorCode.INVALID_PARAMS),
        (request("ask", messages=[{"role": "root", "content": "x"}]), ErrorCode.INVALID_PARAMS),
        (request("ask", **ask("x", deadline_seconds=float("1e9"))), ErrorCode.INVALID_PARAMS),
        (request("ask", **ask("x", model="none")), ErrorCode.REFUSED),
        (request("epoch"), ErrorCode.INTERNAL_ERROR),
    ],
)
async def test_what_is_wrong_gets_its_code_and_the_connection_lives(
    control_server: Any, operations: CannedOperations, data: bytes, code: ErrorCode
) -> None:
    operations.broken_epoch = True
    async with control_server() as path:
        first, second = await exchange(path, data + request("status", request_id="after"))
    error, answer = (first, second) if "error" in first else (second, first)
    assert error["error"]["code"] == code
    assert answer["id"] == "after"
    assert answer["result"]["head_block"] == 2


async def test_an_internal_error_tells_the_client_nothing_of_its_inside(
    control_server: Any, operations: CannedOperations
) -> None:
    operations.broken_epoch = True
    async with control_server() as path:
        (line,) = await exchange(path, request("epoch"))
    assert "hunter2" not in json.dumps(line)


async def test_bad_parameters_are_named(control_server: Any) -> None:
    async with control_server() as path:
        (line,) = await exchange(path, request("ask", **ask("x", max_tokens=0, surprise=1)))
    assert "max_tokens" in line["error"]["message"]
    assert "surprise" in line["error"]["message"]


async def test_an_endless_frame_is_cut_off_and_the_server_lives(control_server: Any) -> None:
    async with control_server() as path:
        async with await trio.open_unix_socket(str(path)) as stream:
            with pytest.raises(trio.BrokenResourceError):
                while True:  # never a newline: only the server can end this
                    await stream.send_all(b"x" * 65536)
        assert len(await exchange(path, request("status"))) == 1


async def test_a_frame_of_exactly_the_limit_is_read(control_server: Any) -> None:
    line = request("status").rstrip()
    async with control_server() as path:
        (answer,) = await exchange(path, line + b" " * (FRAME_BYTES_MAX - len(line)) + b"\n")
        assert "result" in answer
        (answer,) = await exchange(path, line + b" " * (FRAME_BYTES_MAX - len(line) + 1) + b"\n")
        assert "larger than" in answer["error"]["message"]


async def test_a_batch_is_answered_by_one_array_without_its_notifications(control_server: Any) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "status"},
        {"jsonrpc": "2.0", "method": "status"},
        {"jsonrpc": "2.0", "id": 2, "method": "none"},
        5,
    ]
    async with control_server() as path:
        (answers,) = await exchange(path, json.dumps(batch).encode() + b"\n")
    assert [answer["id"] for answer in answers] == [1, 2, None]


async def test_a_notification_gets_no_answer_even_if_it_fails(
    control_server: Any, operations: CannedOperations
) -> None:
    operations.broken_epoch = True
    async with control_server() as path:
        assert await exchange(path, b'{"jsonrpc":"2.0","method":"epoch"}\n') == []


async def test_too_many_connections_are_told_so(control_server: Any) -> None:
    async with control_server() as path:
        streams = [await trio.open_unix_socket(str(path)) for _ in range(CONNECTIONS_MAX)]
        await trio.testing.wait_all_tasks_blocked()
        async with connect_control(path) as client:
            with pytest.raises(ControlError, match="too many connections") as caught:
                await client.call("status", {}, StatusView, deadline_seconds=5)
        assert caught.value.code == ErrorCode.BUSY
        await streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert len(await exchange(path, request("status"))) == 1
        for stream in streams:
            await stream.aclose()


async def test_an_idle_client_is_let_go_but_not_one_that_waits(
    control_server: Any, operations: CannedOperations, autojump_clock: trio.testing.MockClock
) -> None:
    async with control_server() as path:
        async with await trio.open_unix_socket(str(path)) as idle:
            begin = trio.current_time()
            assert await idle.receive_some() == b""
            assert trio.current_time() - begin == pytest.approx(IDLE_SECONDS_MAX)
        operations.hold_answers = trio.Event()
        async with trio.open_nursery() as nursery, connect_control(path) as client:

            async def release() -> None:
                await trio.sleep(IDLE_SECONDS_MAX * 2.5)
                operations.hold_answers.set()

            nursery.start_soon(release)
            await client.call("peers", {}, PeersView, deadline_seconds=IDLE_SECONDS_MAX * 3)


async def test_a_client_that_vanishes_ends_its_ask(control_server: Any, operations: CannedOperations) -> None:
    async with control_server() as path:
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(request("ask", **ask("word " * 20_000)))
        await stream.receive_some(10)
        await stream.aclose()
        with trio.fail_after(10):
            while not operations.asks_cancelled:
                await trio.lowlevel.checkpoint()
        assert len(await exchange(path, request("status"))) == 1


async def test_an_error_carries_its_remedy_to_the_client(control_server: Any) -> None:
    async with control_server() as path, connect_control(path) as client:
        with pytest.raises(ControlError) as caught:
            await client.call("ask", ask("x", model="none"), AskView, deadline_seconds=5)
    assert caught.value.remedy == "See `quern models`."


async def test_a_missed_deadline_is_an_error(
    control_server: Any, operations: CannedOperations, autojump_clock: trio.testing.MockClock
) -> None:
    operations.hold_answers = trio.Event()
    async with control_server() as path, connect_control(path) as client:
        with pytest.raises(ControlError, match="within 3 s"):
            await client.call("peers", {}, PeersView, deadline_seconds=3)


async def test_without_a_daemon_the_client_says_so(socket_path: Path) -> None:
    with pytest.raises(DaemonNotRunningError):
        async with connect_control(socket_path):
            pass


async def test_a_second_daemon_is_refused(control_server: Any) -> None:
    async with control_server() as path:
        with pytest.raises(ControlSocketError, match="another daemon"):
            open_control_socket(path)
        assert path.exists()


def leave_stale_socket(path: Path) -> None:
    """Do what a killed daemon does: the listener is gone, its file is not."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()
    assert path.exists()


async def test_the_socket_of_a_killed_daemon_is_taken_over(control_server: Any, socket_path: Path) -> None:
    leave_stale_socket(socket_path)
    async with control_server() as path:
        assert len(await exchange(path, request("status"))) == 1


def test_a_file_in_the_way_is_not_deleted(socket_path: Path) -> None:
    socket_path.write_text("precious")
    with pytest.raises(ControlSocketError, match="is no socket"):
        open_control_socket(socket_path)
    assert socket_path.read_text() == "precious"


def test_a_directory_that_is_not_there_is_explained(socket_path: Path) -> None:
    with pytest.raises(ControlSocketError, match="can't open the control socket"):
        open_control_socket(socket_path.parent / "none" / "control.sock")


async def test_a_client_refuses_an_answer_of_another_form(socket_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.fspath(socket_path))
    server.listen()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(server))
    async with trio.open_nursery() as nursery:

        async def answer_nonsense(stream: trio.SocketStream) -> None:
            await stream.receive_some()
            await stream.send_all(b'{"jsonrpc":"2.0","id":1,"result":{"version":3}}\n')

        nursery.start_soon(trio.serve_listeners, answer_nonsense, [listener])
        async with connect_control(socket_path) as client:
            with pytest.raises(ControlError, match="another form"):
                await client.call("status", {}, StatusView, deadline_seconds=5)
        nursery.cancel_scope.cancel()
