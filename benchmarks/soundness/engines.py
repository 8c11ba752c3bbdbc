"""Starts one engine of a variant on the CPU, as a daemon starts it, and gives a client of it."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.soundness.variants import EngineVariant
from node.engine.arguments import server_command, server_environment
from node.engine.client import EngineClient
from node.engine.endpoint import local_endpoint
from node.engine.server import run_server, socket_path
from node.engine.transport import Traffic, open_http
from node.ml_nodes import default_engine_python

MODEL_NAME = "measured"
CONTEXT_TOKENS = 512


@asynccontextmanager
async def open_engine(variant: EngineVariant, models: Path) -> AsyncIterator[EngineClient]:
    """Yield a client of a running engine; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        async with socket_path(directory / "run", "engine") as socket:
            command = server_command(
                default_engine_python(),
                socket,
                models / variant.model,
                MODEL_NAME,
                ("--max-model-len", str(CONTEXT_TOKENS)),
                on_cpu=True,
            )
            environment = server_environment(on_cpu=True, kv_cache_gib=1) | dict(variant.environment)
            files = directory / "engine.log", directory / "engine.pgid"
            async with (
                run_server((*command, *variant.arguments), environment, *files) as server,
                open_http(local_endpoint(socket), Traffic()) as http,
            ):
                await server.until_ready(http, lambda _: None)
                yield EngineClient(http, MODEL_NAME)
