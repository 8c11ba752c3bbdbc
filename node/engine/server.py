"""One vLLM API server as a supervised child: its own process group, a Unix socket, a log file, a deadline to start."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import structlog
import trio

from node.engine import launcher
from node.engine.leftovers import members_of, record_group
from node.engine.startup import START_MARK, of_newest_start, phase_of

log = structlog.get_logger(__name__)

START_SECONDS_MAX = 1800.0
"""Large models take many minutes to load; a server that has not answered by then never will."""
START_POLL_SECONDS = 0.5
START_REPORT_SECONDS = 15.0
TERMINATE_SECONDS_MAX = 5.0
"""For a server to end by itself, and remove what it has in shared memory; one that is wedged never does."""
GROUP_END_SECONDS_MAX = 15.0
"""How long killed processes may take to free their memory; the next server needs it."""
GROUP_END_POLL_SECONDS = 0.05
LOG_TAIL_BYTES = 2000
LOG_PHASE_BYTES = 64 * 1024
LOG_BYTES_MAX = 16 * 1024 * 1024
LOGS_KEPT = 3
"""Full logs kept of each engine, beside the one being written: 64 MiB altogether."""
SOCKET_PATH_BYTES_MAX = 107


class ServerStartError(Exception):
    """The server ended or stayed silent before it was ready; the message has the end of its log."""


class EngineServer:
    """A running server."""

    def __init__(self, process: trio.Process, log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    async def until_ready(self, http: httpx.AsyncClient, tell: Callable[[str], None]) -> None:
        """Wait until the server answers /health; `tell` it how far the start has come. Raises ServerStartError."""
        started = trio.current_time()
        reported = started
        while True:
            if self.process.poll() is not None:
                raise ServerStartError(f"the engine ended at its start; {self.log_tail()}")
            try:
                if (await http.get("/health", timeout=5.0)).is_success:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            now = trio.current_time()
            if now - started > START_SECONDS_MAX:
                raise ServerStartError(f"the engine was not ready after {START_SECONDS_MAX:.0f} s; {self.log_tail()}")
            phase = await trio.to_thread.run_sync(self._phase)
            tell(phase)
            if now - reported > START_REPORT_SECONDS:
                reported = now
                log.info("the engine is loading", seconds=round(now - started), phase=phase, log=str(self.log_path))
            await trio.sleep(START_POLL_SECONDS)

    async def until_exit(self) -> None:
        """Wait until the server ends. Any end but by `run_server` is a failure, whatever its status."""
        await self.process.wait()

    def log_tail(self) -> str:
        """Return the end of the log, in words for the operator."""
        return f"the end of {self.log_path}:\n{of_newest_start(_end_of(self.log_path, LOG_TAIL_BYTES)).strip()}"

    def _phase(self) -> str:
        return phase_of(_end_of(self.log_path, LOG_PHASE_BYTES))


@asynccontextmanager
async def run_server(
    command: Sequence[str], environment: Mapping[str, str], log_path: Path, group_file: Path
) -> AsyncIterator[EngineServer]:
    """Run a server until the context is left; then nothing of its process group is left either.

    `group_file` names the group while it runs: what a killed daemon leaves is found by it.
    """
    await trio.Path(log_path.parent).mkdir(parents=True, exist_ok=True)
    with log_path.open("a", encoding="utf-8") as file:
        file.write(START_MARK + "\n")
    process = await trio.lowlevel.open_process(
        [sys.executable, "-I", launcher.__file__, str(log_path), str(LOG_BYTES_MAX), str(LOGS_KEPT), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        record_group(group_file, process.pid, Path(command[0]))
        yield EngineServer(process, log_path)
    finally:
        with trio.CancelScope(shield=True):
            await end_group(process)
            await trio.to_thread.run_sync(partial(group_file.unlink, missing_ok=True))


async def end_group(process: trio.Process) -> None:
    """End a process group: politely, then for certain, and wait until its processes have let go of the GPU.

    The launcher leads it, so its pid is the group's.
    """
    _signal_group(process.pid, signal.SIGTERM)
    with trio.move_on_after(TERMINATE_SECONDS_MAX):
        await process.wait()
    _signal_group(process.pid, signal.SIGKILL)  # also whatever outlived the launcher
    await process.wait()
    with trio.move_on_after(GROUP_END_SECONDS_MAX):
        while await trio.to_thread.run_sync(members_of, process.pid):  # noqa: ASYNC110 - not our children: nobody tells us
            await trio.sleep(GROUP_END_POLL_SECONDS)
    if process.stdin is not None:
        await process.stdin.aclose()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # all gone


@asynccontextmanager
async def socket_path(directory: Path, name: str) -> AsyncIterator[Path]:
    """Yield where a server may listen: in `directory`, which only we can enter, or in a temporary one.

    Unix sockets take 107 bytes of path. A socket that a killed daemon left is removed.
    """
    wanted = directory / f"{name}.sock"
    temporary = len(os.fsencode(wanted)) > SOCKET_PATH_BYTES_MAX
    if temporary:
        directory = Path(tempfile.mkdtemp(prefix="quern-"))
        wanted = directory / f"{name}.sock"
    else:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted.unlink(missing_ok=True)
    try:
        yield wanted
    finally:
        wanted.unlink(missing_ok=True)
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)


def _end_of(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read(size).decode("utf-8", errors="replace")
    except OSError:
        return ""  # it is being turned over
