"""Moves models that nobody uses to the cold directory, unless one comes into use meanwhile."""

from collections.abc import Callable

import structlog
import trio

from node.models.audit import AuditLog
from node.models.eviction import Held, plan_cooling
from node.models.registry import ModelRegistry
from node.models.removal import Remover
from node.models.storage import ModelStorage
from node.models.use import ModelUse
from node.ports import WallClock

log = structlog.get_logger(__name__)


class Cooling:
    """Cools what was not used for `after_seconds`. `held` gives all models on disk."""

    def __init__(
        self,
        registry: ModelRegistry,
        storage: ModelStorage,
        remover: Remover,
        use: ModelUse,
        audit: AuditLog,
        wall_clock: WallClock,
        held: Callable[[], list[Held]],
        *,
        after_seconds: int,
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._remover = remover
        self._use = use
        self._audit = audit
        self._wall_clock = wall_clock
        self._held = held
        self._after_seconds = after_seconds

    async def cool(self) -> None:
        """Move what is to be moved now; nothing if there is no cold directory."""
        if self._storage.cold_directory is None:
            return
        for model_id in plan_cooling(self._held(), self._wall_clock(), self._after_seconds):
            entry, target = self._registry.get(model_id), self._storage.cold_path_of(model_id)
            if target is None or self._use.is_used(model_id):
                continue
            with self._use.occupied(model_id):
                try:
                    await trio.to_thread.run_sync(self._storage.transfer, entry.path, target)
                    # Forgotten at its old place before it is found at its new one (node.models.holding).
                    await self._remover.forget(entry, entry.path)
                    if self._use.is_loaded(model_id):  # meanwhile: it stays where it is open
                        await trio.to_thread.run_sync(self._storage.remove, target)
                        continue
                    self._registry.move(model_id, target)
                    await trio.to_thread.run_sync(self._storage.remove, entry.path)
                except OSError as error:
                    log.warning("a model cannot be moved to the cold directory", model=model_id, error=str(error))
                else:
                    self._audit.note("daemon", "cool", model_id)
