"""Starts one engine of a variant on the CPU, as a daemon starts it, and gives a client of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.engine_server import open_server
from benchmarks.soundness.variants import EngineVariant
from node.engine.client import EngineClient

MODEL_NAME = "measured"
CONTEXT_TOKENS = 512


@asynccontextmanager
async def open_engine(variant: EngineVariant, models: Path) -> AsyncIterator[EngineClient]:
    """Yield a client of a running engine; nothing of it is left afterwards."""
    async with open_server(
        models / variant.model,
        MODEL_NAME,
        CONTEXT_TOKENS,
        arguments=variant.arguments,
        environment=dict(variant.environment),
    ) as server:
        yield EngineClient(server.http, MODEL_NAME)
