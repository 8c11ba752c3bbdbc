"""One real vLLM server for all tests that neither harm it nor need it otherwise than the daemon starts it.

A start takes 17 seconds. Tests that kill, stop or crowd their engine, or want other arguments, start their own
(`test_vllm.ready_engine`); the others join this one by its socket, each with an `EngineNode` of its own.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import trio

from netsim.scenario import MODEL as SIMULATED
from node.engine import launcher
from node.engine.adapter import EngineNode
from node.engine.arguments import model_arguments, server_command, server_environment
from node.engine.endpoint import Endpoint, local_endpoint
from node.engine.leftovers import members_of
from node.engine.running import EngineEnvironment
from node.engine.server import LOG_BYTES_MAX, LOGS_KEPT
from node.ml_nodes import default_engine_python
from node.protocol.identifiers import NodeId
from node.protocol.records import ModelRecord
from tests.builders import model

TINY_MODEL = Path(__file__).resolve().parents[3] / ".cache" / "tiny-model"
MODEL = replace(model(), model_args=("--max-model-len", "2048"), context_length=2048)
NAMES = (MODEL.model_id, SIMULATED.model_id)
"""What the tests call the model: their own record's, and the one of the simulated networks."""
START_SECONDS_MAX = 240.0
START_POLL_SECONDS = 0.2
JOIN_SECONDS_MAX = 60
END_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class SharedServer:
    """A server that runs."""

    endpoint: Endpoint
    log_path: Path

    @asynccontextmanager
    async def joined(self, directory: Path, record: ModelRecord = MODEL) -> AsyncIterator[EngineNode]:
        """Yield a node that uses the server and serves `record`."""
        engine = EngineNode(NodeId("node-1"), self.endpoint, directory)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            engine.load(record, TINY_MODEL)
            with trio.fail_after(JOIN_SECONDS_MAX):
                await engine.until_ready()
            yield engine
            nursery.cancel_scope.cancel()


@contextmanager
def run_shared_server() -> Iterator[SharedServer]:
    """Run a server as the daemon does, by its launcher: however the tests end, its process group ends with them."""
    environment = EngineEnvironment(default_engine_python())
    on_cpu = environment.on_cpu
    directory = Path(tempfile.mkdtemp(prefix="quern-"))  # a path short enough for a socket
    socket, log_path = directory / "shared.sock", directory / "shared.log"
    arguments = model_arguments(MODEL.model_args, MODEL.context_length, on_cpu=on_cpu)
    command = list(server_command(environment.python, socket, TINY_MODEL, NAMES[0], arguments, on_cpu=on_cpu))
    more_names_at = command.index("--served-model-name") + 2
    command[more_names_at:more_names_at] = NAMES[1:]
    variables = server_environment(on_cpu=on_cpu, kv_cache_gib=environment.kv_cache_gib)
    try:
        with subprocess.Popen(
            [sys.executable, "-I", launcher.__file__, str(log_path), str(LOG_BYTES_MAX), str(LOGS_KEPT), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **variables},
            start_new_session=True,
        ) as process:
            try:
                _until_ready(process, socket, log_path)
                yield SharedServer(local_endpoint(socket), log_path)
            finally:
                _end(process)
    finally:
        shutil.rmtree(directory)


def _until_ready(process: "subprocess.Popen[bytes]", socket: Path, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get("http://engine/health").is_success:
                    return
            except httpx.HTTPError:
                pass  # not listening yet
            time.sleep(START_POLL_SECONDS)
    log = log_path.read_text(errors="replace")[-4000:] if log_path.exists() else "it wrote nothing"
    raise AssertionError(f"the shared engine did not start:\n{log}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the whole group, politely and then for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + END_SECONDS_MAX
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(START_POLL_SECONDS)
    deadline = time.monotonic() + END_SECONDS_MAX
    while members_of(process.pid) and time.monotonic() < deadline:
        time.sleep(START_POLL_SECONDS)
