"""A control server with a daemon behind it that is made of canned answers."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from node.control.methods import method_table
from node.control.server import serve_control
from tests.unit.control.canned import CannedOperations


@pytest.fixture
def operations() -> CannedOperations:
    return CannedOperations()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path short enough for a socket wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="quern") as directory:
        yield Path(directory) / "control.sock"


ServerContext = Callable[[], AbstractAsyncContextManager[Path]]


@pytest.fixture
def control_server(operations: CannedOperations, socket_path: Path) -> ServerContext:
    """Runs a server for as long as the returned context lasts."""

    @asynccontextmanager
    async def run() -> AsyncIterator[Path]:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, socket_path, method_table(operations))
            yield socket_path
            nursery.cancel_scope.cancel()

    return run
