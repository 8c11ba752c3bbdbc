"""Keeps a file that says which models are here, for other programs; written anew after each change."""

from pathlib import Path

import structlog
import trio

from node.models.registry import ModelRegistry, export_registry, write_export

log = structlog.get_logger(__name__)

EXPORT_PAUSE_SECONDS = 1.0
"""Changes within this time are written to the export file once."""


class ExportFile:
    """The export of one registry."""

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = registry
        self._due = trio.Event()

    def changed(self) -> None:
        """Note that the registry changed."""
        self._due.set()

    def text(self) -> str:
        """Return what is written, as JSON."""
        return export_registry(self._registry.query(), self._registry.files)

    async def keep(self, path: Path) -> None:
        """Write `path` now and after each change, for ever."""
        while True:
            self._due = trio.Event()
            try:
                await trio.to_thread.run_sync(write_export, path, self.text())
            except OSError as error:
                log.warning("the registry's export cannot be written", path=str(path), error=str(error))
            await self._due.wait()
            await trio.sleep(EXPORT_PAUSE_SECONDS)
