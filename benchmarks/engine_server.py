"""A vLLM server on the CPU as the daemon starts it, for benchmarks that ask an engine without a daemon."""

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from node.engine.arguments import server_command, server_environment
from node.engine.endpoint import local_endpoint
from node.engine.server import run_server, socket_path
from node.engine.transport import Traffic, open_http
from node.ml_nodes import default_engine_python
from scripts.local_network import TINY_MODEL


@dataclass(frozen=True, slots=True)
class StartedServer:
    """A server that is ready."""

    http: httpx.AsyncClient
    socket: Path
    group: int
    """Of its processes."""


def model_directory() -> Path:
    """Return the model that the command line names, or else that of scripts/setup; exits if it names none."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else TINY_MODEL
    if not (directory / "config.json").is_file():
        raise SystemExit(
            f"usage: python -m benchmarks.NAME [MODEL_DIRECTORY]: {directory} is no model's, it has no config.json"
        )
    return directory


@asynccontextmanager
async def open_server(
    model: Path,
    name: str,
    context_tokens: int,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    kv_cache_gib: int = 1,
) -> AsyncIterator[StartedServer]:
    """Yield a server of `model` under `name` once it is ready; nothing of it is left afterwards.

    `arguments` and `environment` are vLLM's, on top of what the daemon gives it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        async with socket_path(directory / "run", "engine") as socket:
            length = ("--max-model-len", str(context_tokens))
            command = server_command(default_engine_python(), socket, model, name, length, on_cpu=True)
            variables = server_environment(on_cpu=True, kv_cache_gib=kv_cache_gib) | dict(environment or {})
            files = directory / "engine.log", directory / "engine.pgid"
            async with (
                run_server((*command, *arguments), variables, *files) as server,
                open_http(local_endpoint(socket), Traffic()) as http,
            ):
                await server.until_ready(http, lambda _: None)
                yield StartedServer(http, socket, server.process.pid)
