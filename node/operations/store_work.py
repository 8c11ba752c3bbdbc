"""How blocking work on the block store runs for an operator: in a thread, telling how far it is, with errors that say
what to do."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from node.control.content_views import ContentProgress
from node.control.jsonrpc import ErrorCode, RpcError
from node.ports import ContentUnavailableError
from p2p.content.blockstore import FileChangedError, StoreFullError
from p2p.content.dagpb import DagPbError
from p2p.content.tree import PathError
from p2p.content.unixfs import UnixFsError

EMIT_SECONDS = 0.2
"""Between two reports of progress."""

Result = TypeVar("Result")
EmitProgress = Callable[[ContentProgress], Awaitable[None]]


class Meter:
    """Reports progress from a worker thread, and stops its work when the caller has gone."""

    def __init__(self, what: str, total_bytes: int | None, emit: EmitProgress) -> None:
        self._what = what
        self._total_bytes = total_bytes
        self._emit = emit
        self._done_bytes = 0
        self._told = 0.0

    def advance(self, size: int) -> None:
        """Count bytes; tells at most every EMIT_SECONDS. Raises trio.Cancelled."""
        trio.from_thread.check_cancelled()
        self._done_bytes += size
        now = time.monotonic()
        if now - self._told >= EMIT_SECONDS or self._done_bytes == self._total_bytes:
            self._told = now
            trio.from_thread.run(
                self._emit,
                ContentProgress(what=self._what, done_bytes=self._done_bytes, total_bytes=self._total_bytes),
            )


async def forward(receive: trio.MemoryReceiveChannel[ContentProgress], emit: EmitProgress) -> None:
    """Emit what comes, not more often than every EMIT_SECONDS."""
    async with receive:
        async for progress in receive:
            await emit(progress)
            await trio.sleep(EMIT_SECONDS)


async def in_thread(run: Callable[[], Result]) -> Result:
    """Run blocking work; what an operator can act on becomes an RpcError."""
    try:
        return await trio.to_thread.run_sync(run)
    except (PathError, FileChangedError, FileExistsError, FileNotFoundError, PermissionError) as error:
        raise RpcError(ErrorCode.REFUSED, str(error)) from error
    except (UnixFsError, DagPbError) as error:
        raise RpcError(ErrorCode.REFUSED, str(error), "Nothing was written.") from error
    except (StoreFullError, OSError) as error:
        raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error


async def from_network(fetching: Awaitable[None]) -> None:
    """Fetch; what an operator can act on becomes an RpcError."""
    try:
        await fetching
    except ContentUnavailableError as error:
        raise RpcError(
            ErrorCode.UNAVAILABLE, str(error), "Are there peers that hold it? (quern peers) A retry goes on from here."
        ) from error
    except ValueError as error:
        raise RpcError(ErrorCode.REFUSED, str(error), "It is not a tree that is written to disk.") from error
    except OSError as error:
        raise RpcError(ErrorCode.UNAVAILABLE, str(error)) from error
