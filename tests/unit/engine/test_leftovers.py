"""No process outlives its daemon: not by a kill -9 of the daemon, of the launcher, or of both."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from node.engine import launcher
from node.engine import server as server_module
from node.engine.launcher import TurningLog
from node.engine.leftovers import end_leftover, is_running, members_of, read_process, read_record, record_group
from node.engine.server import run_server

SERVER = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("core", child.pid, flush=True)
time.sleep(600)
"""
"""A server of two processes that does not listen to kindness."""

DAEMON = """
import sys, trio
from pathlib import Path
from node.engine.server import run_server

async def main():
    directory = Path(sys.argv[1])
    command = (sys.executable, "-c", sys.argv[2])
    async with run_server(command, {}, directory / "engine.log", directory / "engine.pgid") as server:
        print(server.process.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def until(what: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_stopped(pid: int) -> bool:
    status = read_process(pid)
    return status is not None and status.state == "T"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that runs a server as the daemon does, and the server's group of three processes."""
    process = subprocess.Popen([sys.executable, "-c", DAEMON, str(tmp_path), SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    group = int(process.stdout.readline())
    until(lambda: len(members_of(group)) == 3)
    yield process, group
    process.kill()
    process.wait()
    process.stdout.close()
    for pid in members_of(group):
        os.kill(pid, signal.SIGKILL)


def test_the_server_ends_with_a_daemon_that_is_killed(daemon: tuple[subprocess.Popen[str], int]) -> None:
    process, group = daemon
    process.kill()
    until(lambda: not members_of(group))


def test_what_outlives_both_daemon_and_launcher_is_ended_at_the_next_start(
    daemon: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, group = daemon
    process.send_signal(signal.SIGSTOP)  # so that it cannot end the group itself
    until(lambda: is_stopped(process.pid))
    os.kill(group, signal.SIGKILL)
    process.kill()
    process.wait()
    until(lambda: len(members_of(group)) == 2)  # the API process and its core hold the GPU, and answer nobody
    assert end_leftover(tmp_path / "engine.pgid")
    assert members_of(group) == []
    assert not (tmp_path / "engine.pgid").exists()
    assert not end_leftover(tmp_path / "engine.pgid")


def test_a_group_that_outlives_only_its_daemon_is_ended_too(
    daemon: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, group = daemon
    os.kill(group, signal.SIGSTOP)  # the launcher does not see that the daemon is gone
    until(lambda: is_stopped(group))
    process.kill()
    process.wait()
    assert len(members_of(group)) == 3
    assert end_leftover(tmp_path / "engine.pgid")
    assert members_of(group) == []


async def test_nothing_of_a_server_is_left_once_it_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TERMINATE_SECONDS_MAX", 0.3)
    command = (sys.executable, "-c", SERVER)
    async with run_server(command, {}, tmp_path / "engine.log", tmp_path / "engine.pgid") as server:
        group = server.process.pid
        with trio.fail_after(20):
            while len(members_of(group)) < 3:
                await trio.sleep(0.02)
    assert members_of(group) == []
    assert not (tmp_path / "engine.pgid").exists()
    assert "core" in (tmp_path / "engine.log").read_text()


async def test_a_server_is_given_time_to_clean_up(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "def end(*_):\n    time.sleep(0.3); print('cleaned up', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
    )
    log = tmp_path / "engine.log"
    async with run_server((sys.executable, "-c", script), {}, log, tmp_path / "engine.pgid"):
        with trio.fail_after(20):
            while "up" not in log.read_text():
                await trio.sleep(0.02)
    assert "cleaned up" in log.read_text()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process group that is not ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("field", ["started_ticks", "boot_id"])
def test_a_stranger_that_has_the_number_now_is_left_alone(
    stranger: subprocess.Popen[bytes], tmp_path: Path, field: str
) -> None:
    file = tmp_path / "engine.pgid"
    record_group(file, stranger.pid, Path(sys.executable))
    record = json.loads(file.read_text())
    record[field] = record[field] - 1 if field == "started_ticks" else "another boot"
    file.write_text(json.dumps(record))
    assert not end_leftover(file)
    assert stranger.poll() is None
    assert not file.exists()


def test_members_without_a_leader_that_run_another_program_are_left_alone(tmp_path: Path) -> None:
    script = "import subprocess; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    leader = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    file = tmp_path / "engine.pgid"
    record_group(file, leader.pid, Path(sys.executable))
    record = read_record(file)
    assert record is not None
    assert is_running(record)
    leader.kill()
    leader.wait()
    leader.stdout.close()
    try:
        assert not end_leftover(file)
        assert members_of(leader.pid) == [member]
    finally:
        os.kill(member, signal.SIGKILL)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"group": 1}', "x" * 10_000])
def test_a_damaged_record_harms_nobody(tmp_path: Path, content: str) -> None:
    file = tmp_path / "engine.pgid"
    file.write_text(content)
    assert not end_leftover(file)
    assert not file.exists()


def test_logs_turn_over_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    log = TurningLog(str(path), 100, 2)
    for number in range(10):
        log.write(f"{number}".encode() * 60)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["engine.log.1", "engine.log.2"]
    assert path.with_suffix(".log.1").read_text() == "8" * 60 + "9" * 60
    log.write(b"x")
    assert path.read_text() == "x"


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    TurningLog(str(tmp_path / "absent" / "engine.log"), 100, 2).write(b"x")


def run_to_its_end(command: list[str]) -> int:
    """Run a launcher with a daemon that lives: the other end of its standard input stays open."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        return process.wait(60)


def test_the_launcher_writes_what_the_server_says_and_ends_as_it_does(tmp_path: Path) -> None:

    script = textwrap.dedent("""
        import sys
        for number in range(3000):
            print(f"line {number}", flush=number % 100 == 0)
        print("last words", file=sys.stderr)
        sys.exit(7)
    """)
    log = tmp_path / "engine.log"
    command = [sys.executable, "-I", launcher.__file__, str(log), "8192", "3", sys.executable, "-c", script]
    assert run_to_its_end(command) == 7
    written = "".join(file.read_text() for file in (log.with_suffix(".log.1"), log) if file.exists())
    assert "line 2999" in written
    assert "last words" in written
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 4 * (8192 + 65536)


def test_a_program_that_is_not_there_is_named_in_the_log(tmp_path: Path) -> None:

    log = tmp_path / "engine.log"
    command = [sys.executable, "-I", launcher.__file__, str(log), "8192", "3", "/absent/python"]
    assert run_to_its_end(command) == 127
    assert "/absent/python cannot be started" in log.read_text()
