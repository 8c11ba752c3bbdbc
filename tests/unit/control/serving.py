"""A control server in a thread of its own, for tests of commands, which block until they are answered."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from pathlib import Path

import trio

from node.control.methods import Method
from node.control.server import serve_control

STOP_SECONDS_MAX = 20


@contextmanager
def serving(path: Path, methods: Mapping[str, Method]) -> Iterator[None]:
    """Serve `methods` on the socket `path` meanwhile."""
    with serving_opened(path, nullcontext(methods)):
        yield


@contextmanager
def serving_opened(
    path: Path, opened: AbstractAsyncContextManager[Mapping[str, Method]], *, start_seconds_max: float = 10
) -> Iterator[None]:
    """Serve methods whose parts run beside the server, in its thread: `opened` is entered there before it starts."""
    ready = threading.Event()
    token: trio.lowlevel.TrioToken | None = None
    scope = trio.CancelScope()

    async def serve() -> None:
        nonlocal token
        token = trio.lowlevel.current_trio_token()
        with scope:
            async with opened as methods, trio.open_nursery() as nursery:
                await nursery.start(serve_control, path, methods)
                ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(start_seconds_max)
        yield
    finally:
        if token is not None and thread.is_alive():
            token.run_sync_soon(scope.cancel)
        thread.join(STOP_SECONDS_MAX)
    assert not thread.is_alive()
