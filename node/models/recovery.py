"""Mends the registry and the storage at the start of a daemon, whatever point it died at before."""

from collections.abc import Collection
from pathlib import Path

import structlog
import trio

from node.models.identity import LocalModelId
from node.models.registry import ModelEntry, ModelQuery, ModelRegistry
from node.models.removal import Remover, cid_of
from node.models.requests import IpfsRequest, request_to_json
from node.models.states import ModelEvent, ModelStatus, ModelType
from node.models.storage import STAGED_SECONDS_MAX, ModelStorage, list_files
from node.ports import WallClock
from p2p.content.unixfs_export import PARTIAL_PREFIX

log = structlog.get_logger(__name__)


async def recover(
    registry: ModelRegistry,
    storage: ModelStorage,
    remover: Remover,
    wall_clock: WallClock,
    running: Collection[LocalModelId],
) -> tuple[ModelEntry, ...]:
    """Bring entries and disk into agreement; return the pending entries, whose downloads have to go on.

    `running` are downloads of this life of the daemon: they are left alone.
    """
    await trio.to_thread.run_sync(storage.prepare)
    await _adopt(registry, storage)
    for entry in registry.query(ModelQuery(with_deleted=True)):
        if entry.model_id in running:
            continue
        match entry.status:
            case ModelStatus.DOWNLOADING:
                await _mend_download(registry, storage, entry)
            case ModelStatus.AVAILABLE:
                await _mend_available(registry, storage, remover, entry)
            case ModelStatus.DELETED:
                for path in _places(storage, entry.model_id):
                    await remover.remove(entry, path)
            case ModelStatus.PENDING | ModelStatus.ERROR:
                pass
    await sweep(registry, storage, wall_clock)
    pending = registry.query(ModelQuery(status=ModelStatus.PENDING))
    return tuple(entry for entry in pending if entry.model_id not in running)


async def sweep(registry: ModelRegistry, storage: ModelStorage, wall_clock: WallClock) -> None:
    """Remove what failed downloads left, once nobody is likely to try them again."""
    listed = await trio.to_thread.run_sync(storage.stagings)
    # From here to the renames nothing else runs: no download can begin in a directory that is thrown away.
    kept, fetching = set(), set()
    for entry in registry.query():
        staging = storage.staging(entry.model_id)
        fresh = wall_clock() - max(staging.age_mark, entry.last_used_at) < STAGED_SECONDS_MAX
        if entry.status in (ModelStatus.PENDING, ModelStatus.DOWNLOADING) or (
            entry.status is ModelStatus.ERROR and fresh
        ):
            kept.add(staging.directory)
            if (cid := cid_of(entry)) is not None:
                fetching.add(f"{PARTIAL_PREFIX}{cid}")
    doomed = [path for path in listed if path not in kept and not path.name.startswith(tuple(fetching))]
    storage.throw_away(doomed)
    for path in doomed:
        log.info("what was left of a download is removed", name=path.name)
    await trio.to_thread.run_sync(storage.empty_trash)


async def _adopt(registry: ModelRegistry, storage: ModelStorage) -> None:
    """Take over what a daemon of before the registry left: directories named by their CIDs, whole by their renames."""
    for path in await trio.to_thread.run_sync(storage.unregistered):
        request = IpfsRequest(cid=path.name)
        model_id = request.local_id()
        if registry.find(model_id) is not None:
            continue
        place = storage.path_of(model_id)
        await trio.to_thread.run_sync(path.rename, place)
        registry.add(model_id, ModelType.TEXT_GENERATION, place, request_to_json(request))
        registry.step(model_id, ModelEvent.STARTED)
        registry.complete(model_id, await trio.to_thread.run_sync(list_files, place), {"cid": path.name})
        log.info("a model of an earlier version is taken over", model=model_id)


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


async def _mend_available(registry: ModelRegistry, storage: ModelStorage, remover: Remover, entry: ModelEntry) -> None:
    if not entry.path.is_dir():
        registry.step(entry.model_id, ModelEvent.DAMAGED, reason="its files are gone from the disk")
        log.error("a model's files are gone", model=entry.model_id, path=str(entry.path))
        return
    for path in _places(storage, entry.model_id):
        if path != entry.path:  # a move between the tiers that was cut off
            await remover.remove(entry, path)


def _places(storage: ModelStorage, model_id: LocalModelId) -> list[Path]:
    cold = storage.cold_path_of(model_id)
    return [path for path in (storage.path_of(model_id), cold) if path is not None and path.is_dir()]
