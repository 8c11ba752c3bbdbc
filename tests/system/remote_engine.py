"""A real vLLM server that no daemon started: as on another machine, and shared by whoever is told its URL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import trio

from node.engine.arguments import server_command, server_environment
from node.engine.server import run_server
from scripts.local_network import ROOT, free_ports

ENGINE_PYTHON = ROOT / ".engine" / "cpu" / "bin" / "python"
START_SECONDS_MAX = 240.0
POLL_SECONDS = 0.5


@asynccontextmanager
async def remote_engine(directory: Path, name: str, model: Path, model_id: str) -> AsyncIterator[str]:
    """Run a server of the model in `model` until the context is left; yield its URL at once, before it answers.

    Its files in `directory` begin with `name`.
    """
    (port,) = free_ports(1)
    command = server_command(ENGINE_PYTHON, directory / "unused.sock", model, model_id, (), on_cpu=True)
    position = command.index("--uds")
    over_tcp = (*command[:position], "--host", "127.0.0.1", "--port", str(port), *command[position + 2 :])
    environment = server_environment(on_cpu=True, kv_cache_gib=1)
    log, group = directory / f"{name}-engine.log", directory / f"{name}-engine.group"
    async with run_server(over_tcp, environment, log, group):
        yield f"http://127.0.0.1:{port}"


async def until_answering(url: str) -> None:
    """Wait until a server answers. Raises trio.TooSlowError."""
    with trio.fail_after(START_SECONDS_MAX):
        async with httpx.AsyncClient(base_url=url, timeout=5.0, trust_env=False) as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get("/health")).is_success:
                        return
                await trio.sleep(POLL_SECONDS)
