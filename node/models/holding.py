"""Keeps what came by CID served from where it lies: the model manager moves models, content follows them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog
import trio

from node.models.registry import ModelRegistry
from node.models.states import ModelStatus
from node.ports import ContentUnavailableError
from node.protocol.identifiers import Cid

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""Between looks at the registry: a model is served so much later than it can be loaded."""


class HoldsDirectories(Protocol):
    """The part of the content adapter that is needed."""

    async def hold_directory(self, cid: Cid, directory: Path) -> None:
        """Serve `cid` from the files of `directory`; see ContentAdapter."""


class ModelHolding:
    """Looks for available models whose CID is known."""

    def __init__(self, content: HoldsDirectories, registry: ModelRegistry) -> None:
        self._content = content
        self._registry = registry
        self._known: set[tuple[Cid, Path]] = set()

    async def run(self) -> None:
        """Look now and again until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Have each new or moved model held. What cannot be is told of once."""
        present = set(self._present())
        self._known &= present
        for cid, path in sorted(present - self._known):
            self._known.add((cid, path))
            try:
                await self._content.hold_directory(cid, path)
            except (ContentUnavailableError, OSError) as error:
                log.warning("a model is not given to peers", cid=cid, reason=str(error))

    def _present(self) -> Iterable[tuple[Cid, Path]]:
        for entry in self._registry.query():
            cid = entry.metadata.get("cid")
            if entry.status is ModelStatus.AVAILABLE and cid:
                yield Cid(str(cid)), entry.path
