"""Mends the registry and the storage at the start of a daemon, whatever point it died at before."""

from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from node.models.identity import LocalModelId
from node.models.registry import ModelEntry, ModelQuery, ModelRegistry
from node.models.states import ModelEvent, ModelStatus
from node.models.storage import STAGED_SECONDS_MAX, ModelStorage
from node.ports import WallClock

log = structlog.get_logger(__name__)


async def recover(registry: ModelRegistry, storage: ModelStorage, wall_clock: WallClock) -> tuple[ModelEntry, ...]:
    """Bring entries and disk into agreement; return the pending entries, whose downloads have to go on."""
    await trio.to_thread.run_sync(storage.prepare)
    for entry in registry.query(ModelQuery(with_deleted=True)):
        match entry.status:
            case ModelStatus.DOWNLOADING:
                await _mend_download(registry, storage, entry)
            case ModelStatus.AVAILABLE:
                await _mend_available(registry, storage, entry)
            case ModelStatus.DELETED:
                for path in _places(storage, entry.model_id):
                    await trio.to_thread.run_sync(storage.remove, path)
            case ModelStatus.PENDING | ModelStatus.ERROR:
                pass
    await sweep(registry, storage, wall_clock)
    return registry.query(ModelQuery(status=ModelStatus.PENDING))


async def sweep(registry: ModelRegistry, storage: ModelStorage, wall_clock: WallClock) -> None:
    """Remove what failed downloads left, once nobody is likely to try them again."""
    kept = {}
    for entry in registry.query():
        if entry.status in (ModelStatus.PENDING, ModelStatus.DOWNLOADING, ModelStatus.ERROR):
            staging = storage.staging(entry.model_id)
            kept[staging.directory] = entry.status, staging

    def is_kept(path: Path) -> bool:
        if path not in kept:
            return False
        status, staging = kept[path]
        return status is not ModelStatus.ERROR or wall_clock() - staging.age_mark < STAGED_SECONDS_MAX

    for name in await trio.to_thread.run_sync(_clean, storage, is_kept):
        log.info("what was left of a download is removed", name=name)


async def _mend_download(registry: ModelRegistry, storage: ModelStorage, entry: ModelEntry) -> None:
    staging = storage.staging(entry.model_id)
    manifest = await trio.to_thread.run_sync(staging.manifest)
    path = storage.path_of(entry.model_id)
    if manifest is not None and path.is_dir() and not staging.files.exists():
        log.info("a model was complete when the daemon ended", model=entry.model_id)
        registry.complete(entry.model_id, manifest, {})
        return
    log.info("a model's download goes on", model=entry.model_id)
    registry.step(entry.model_id, ModelEvent.INTERRUPTED)


async def _mend_available(registry: ModelRegistry, storage: ModelStorage, entry: ModelEntry) -> None:
    if not entry.path.is_dir():
        registry.step(entry.model_id, ModelEvent.DAMAGED, reason="its files are gone from the disk")
        log.error("a model's files are gone", model=entry.model_id, path=str(entry.path))
        return
    for path in _places(storage, entry.model_id):
        if path != entry.path:  # a move between the tiers that was cut off
            await trio.to_thread.run_sync(storage.remove, path)


def _places(storage: ModelStorage, model_id: LocalModelId) -> list[Path]:
    cold = storage.cold_path_of(model_id)
    return [path for path in (storage.path_of(model_id), cold) if path is not None and path.is_dir()]


def _clean(storage: ModelStorage, kept: Callable[[Path], bool]) -> list[str]:
    return storage.clean(kept)
