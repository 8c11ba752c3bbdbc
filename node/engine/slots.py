"""The servers that one ML node has at a time: each with files of its own, what ends it, and how it ended."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from node.engine.endpoint import Endpoint
from node.engine.identity import EngineOutsideRangeError
from node.engine.leftovers import end_leftover
from node.engine.plan import Choice
from node.engine.running import EngineEnvironment, LocalPlace, Place, RemotePlace, ServerRun
from node.engine.server import ServerStartError
from node.engine.watchdog import Patience
from node.ports import EngineFailedError
from node.protocol.identifiers import NodeId

SERVERS_MAX = 3
"""Of one node at once: one that serves, one that retires, one that ends."""


class Slot:
    """A server that runs, and what ends it."""

    def __init__(self, run: ServerRun, number: int) -> None:
        self.run = run
        self.number = number
        """Tells its files from those of the node's other servers."""
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.ready_at = math.inf

    @property
    def running(self) -> int:
        """Requests without a complete answer."""
        return self.run.traffic.running

    async def until_idle(self) -> None:
        """Wait until no request runs."""
        while self.running:
            await self.run.traffic.changed.wait()

    async def end(self) -> None:
        """End the server and wait until nothing of it is left."""
        self.scope.cancel()
        await self.ended.wait()


class Slots:
    """Those of one node that have not ended. `place` and `patience` are as of EngineNode."""

    def __init__(
        self, node_id: NodeId, place: EngineEnvironment | Endpoint, directory: Path, patience: Patience | None
    ) -> None:
        self._node_id = node_id
        self._place = place
        self._directory = directory
        self._patience = patience
        self._numbers: set[int] = set()

    async def end_leftovers(self) -> None:
        """End what an earlier daemon left running; none of this one's runs yet."""
        if isinstance(self._place, EngineEnvironment):
            for number in range(SERVERS_MAX):
                group_file = self._local_place(self._place, number).group_file
                if group_file.exists():
                    await trio.to_thread.run_sync(end_leftover, group_file)
        self._numbers.clear()

    def open(self, choice: Choice) -> Slot:
        """Return a slot for a server with `choice`; it runs once it is kept."""
        number = min(set(range(SERVERS_MAX)) - self._numbers)
        place: Place = (
            RemotePlace(self._place) if isinstance(self._place, Endpoint) else self._local_place(self._place, number)
        )
        self._numbers.add(number)
        return Slot(ServerRun(choice, place, self._patience), number)

    async def keep(
        self, slot: Slot, became_ready: Callable[[Slot], None], failed: Callable[[Slot, str, bool], None]
    ) -> None:
        """Run one server to its end. Calls `failed`, unless it was ended, with why, and with whether its version is
        outside the network's range."""
        reason, outside = "", False
        try:
            with slot.scope:
                await slot.run.run(partial(became_ready, slot))
        except* EngineOutsideRangeError as errors:
            reason, outside = _first(errors), True
        except* (ServerStartError, EngineFailedError, OSError) as errors:
            reason = _first(errors)
        finally:
            self._numbers.discard(slot.number)
            slot.ended.set()
        if not slot.scope.cancel_called:
            failed(slot, reason, outside)

    def _local_place(self, environment: EngineEnvironment, number: int) -> LocalPlace:
        name = f"engine-{self._node_id}" + (f"~{number}" if number else "")  # no node's own name has a tilde
        return LocalPlace(environment, self._directory, name)


def _first(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
