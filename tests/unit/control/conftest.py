"""A control server with a daemon behind it that is made of canned answers."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.methods import AskParams, ConnectParams, method_table
from node.control.server import serve_control
from node.control.views import (
    AskEvent,
    AskView,
    ConnectView,
    DoctorView,
    EarningsView,
    EpochView,
    ModelsView,
    PeersView,
    StatusView,
    StopView,
)


class CannedOperations:
    """Answers without a daemon; `ask` gives one event per word of the question."""

    def __init__(self) -> None:
        self.asks_cancelled = 0
        self.hold_answers = trio.Event()
        self.hold_answers.set()

    async def status(self) -> StatusView:
        return StatusView(
            version="0",
            uptime_seconds=1,
            roles=["gateway"],
            account="0x0",
            peer_id="12D3",
            addresses=[],
            network_id="n",
            chain_id=1,
            head_block=2,
            confirmed_block=1,
            epoch=0,
            stage="serve",
            registered=True,
            peers=0,
            api_url=None,
            content_address=None,
            engines=[],
            services=[],
        )

    async def peers(self) -> PeersView:
        await self.hold_answers.wait()
        return PeersView(peers=[])

    async def models(self) -> ModelsView:
        raise RpcError(ErrorCode.UNAVAILABLE, "the chain is away", "Start it.")

    async def epoch(self) -> EpochView:
        raise ZeroDivisionError("a fault with a secret: hunter2")

    async def earnings(self) -> EarningsView:
        raise NotImplementedError

    async def doctor(self) -> DoctorView:
        return DoctorView(findings=[])

    async def connect(self, params: ConnectParams) -> ConnectView:
        return ConnectView(peer_id=params.address)

    async def stop(self) -> StopView:
        return StopView(stopping=True)

    async def ask(self, params: AskParams, emit: Callable[[AskEvent], Awaitable[None]]) -> AskView:
        words = params.messages[-1].content.split()
        try:
            for word in words:
                await emit(AskEvent(text=word))
                await trio.lowlevel.checkpoint()
        except BaseException:
            self.asks_cancelled += 1
            raise
        return AskView(
            text=" ".join(words),
            model_id="tiny",
            request_id="00",
            executor="0x0",
            prompt_tokens=1,
            output_tokens=len(words),
            price="1",
            finish_reason="stop",
            seconds=0.1,
            transaction=None,
        )


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
            nursery.start_soon(serve_control, socket_path, method_table(operations))
            await trio.testing.wait_all_tasks_blocked()
            yield socket_path
            nursery.cancel_scope.cancel()

    return run
