"""The model manager: what an operator, the API and the engines ask of models on this machine, in one place.

Detail: downloads that were asked for wait for one of a few slots; those of engines do not, because a node without its
model earns nothing. Every change is a legal step of the registry and an entry of the audit log. `run` is a service:
it mends what an earlier life left, runs the downloads, and tidies up from time to time.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from node.models.audit import AuditLog
from node.models.cooling import Cooling
from node.models.download_queue import QUEUE_MAX, DownloadQueue
from node.models.downloads import Downloader, DownloadLimits, guess_type
from node.models.eviction import Held
from node.models.export_file import ExportFile
from node.models.identity import LocalModelId
from node.models.peers_source import PeersSource, cid_faults
from node.models.progress import Progress, progress_at_rest, progress_under_way
from node.models.recovery import recover, sweep
from node.models.registry import ModelEntry, ModelQuery, ModelRegistry
from node.models.removal import Remover, cid_of
from node.models.requests import DownloadRequest, request_from_json, request_to_json
from node.models.source import FileSource
from node.models.sources import SourceContext, make_source
from node.models.states import ModelEvent, ModelStatus
from node.models.storage import ModelStorage, find_faults
from node.models.threads import run_abandonable
from node.models.use import ModelUse
from node.ports import WallClock

log = structlog.get_logger(__name__)

TIDY_SECONDS = 3600.0
ASKED_BY_ENGINE = "engine"


class ManagerRefusedError(Exception):
    """Something will not be done; the message says why, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """What an operator sets."""

    downloads_at_once: int
    limits: DownloadLimits
    bandwidth_bytes_per_second_max: int = 0
    cold_after_seconds: int = 0
    """Models not used for so long move to the cold directory, if there is one."""
    export_file: Path | None = None


class ModelManager:
    """All that is done with models on this machine."""

    def __init__(
        self,
        registry: ModelRegistry,
        storage: ModelStorage,
        audit: AuditLog,
        sources: SourceContext,
        options: ManagerOptions,
        wall_clock: WallClock,
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._audit = audit
        self._sources = sources
        self._options = options
        self._wall_clock = wall_clock
        self._use = ModelUse()
        self._remover = Remover(storage, sources.content)
        self._downloads = DownloadQueue(
            registry,
            Downloader(registry, storage, self._remover, options.limits, self.held, self._evict),
            self._use,
            self._source,
            at_once=options.downloads_at_once,
            bytes_per_second_max=options.bandwidth_bytes_per_second_max,
        )
        self._cooling = Cooling(
            registry, storage, self._remover, self._use, audit, wall_clock, self.held,
            after_seconds=options.cold_after_seconds,
        )  # fmt: skip
        self._export_file = ExportFile(registry)
        self._nursery: trio.Nursery | None = None
        self._ready = trio.Event()

    # --- The service --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Mend, then serve until cancelled."""
        pending = await recover(
            self._registry, self._storage, self._remover, self._wall_clock, self._downloads.model_ids
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for entry in pending:
                    if entry.metadata.get("asked_by") != ASKED_BY_ENGINE:
                        self._resume(entry)
                nursery.start_soon(self._tidy)
                if self._options.export_file is not None:
                    nursery.start_soon(self._export_file.keep, self._options.export_file)
                self._ready.set()
                await trio.sleep_forever()
            finally:
                self._nursery = None
                self._ready = trio.Event()

    async def until_ready(self) -> None:
        """Wait until what an earlier life left is mended."""
        await self._ready.wait()

    def changed(self) -> None:
        """Note that the registry changed (see `ModelRegistry`)."""
        self._export_file.changed()

    # --- Looking ------------------------------------------------------------------------------------------------------

    @property
    def registry(self) -> ModelRegistry:
        """The entries, for looking."""
        return self._registry

    @property
    def audit(self) -> AuditLog:
        """Who did what."""
        return self._audit

    def progress(self, model_id: LocalModelId) -> Progress:
        """Return how far a model is. Raises UnknownModelError."""
        entry = self._registry.get(model_id)
        active = self._downloads.active(model_id)
        if active is None:
            return progress_at_rest(entry, len(self._registry.files(model_id)))
        return progress_under_way(entry, active)

    async def watch(self, model_id: LocalModelId, every_seconds: float) -> AsyncIterator[Progress]:
        """Yield how far a model is until nothing more happens by itself. Raises UnknownModelError."""
        while True:
            progress = self.progress(model_id)
            yield progress
            active = self._downloads.active(model_id)
            if progress.ended and active is None:
                return
            with trio.move_on_after(every_seconds):
                if active is None:
                    await trio.sleep_forever()
                else:
                    await active.done.wait()

    def is_loaded(self, model_id: LocalModelId) -> bool:
        """Whether an engine has it open."""
        return self._use.is_loaded(model_id)

    def held(self) -> list[Held]:
        """Return all models on disk, as far as room is concerned."""
        cold = self._storage.cold_directory
        return [
            Held(
                entry.model_id,
                entry.size_bytes,
                entry.last_used_at,
                pinned=entry.pinned,
                loaded=self._use.is_used(entry.model_id),
                cold=cold is not None and entry.path.is_relative_to(cold),
            )
            for entry in self._registry.query(ModelQuery(status=ModelStatus.AVAILABLE))
        ]

    def export(self, actor: str) -> str:
        """Return the registry as JSON."""
        self._audit.note(actor, "export")
        return self._export_file.text()

    # --- Changing -----------------------------------------------------------------------------------------------------

    def download(self, request: DownloadRequest, actor: str) -> ModelEntry:
        """Ask for a model; returns at once. A model that is here or on its way is returned as it is.

        Raises ManagerRefusedError; the id of a request may raise BadNameError.
        """
        model_id = request.local_id()
        known = self._registry.find(model_id)
        text = request_to_json(request)
        if known is not None and known.status in (
            ModelStatus.AVAILABLE,
            ModelStatus.PENDING,
            ModelStatus.DOWNLOADING,
        ):
            if known.request not in ("", text):
                raise ManagerRefusedError(
                    f"{model_id} is {known.status.value} already, from another source or version ({known.version})",
                    f"Remove it first (quern model remove {model_id}), or give this one another id.",
                )
            if known.status is ModelStatus.PENDING and self._downloads.active(model_id) is None:
                self._downloads.start(self._check_running(), model_id, request)
            return known
        if self._downloads.is_full:
            raise ManagerRefusedError(f"{QUEUE_MAX} downloads wait already", "Wait for some, or cancel some.")
        nursery = self._check_running()
        entry = self._registry.add(model_id, guess_type(request.model_type), self._storage.path_of(model_id), text)
        self._audit.note(actor, "download", model_id, text)
        self._downloads.start(nursery, model_id, request)
        return entry

    def cancel(self, model_id: LocalModelId, actor: str) -> None:
        """Cancel a download; what came of it is kept for a while. Raises UnknownModelError, ManagerRefusedError."""
        self._registry.get(model_id)
        active = self._downloads.active(model_id)
        if active is None:
            raise ManagerRefusedError(f"{model_id} is not being downloaded")
        self._audit.note(actor, "cancel", model_id)
        active.cancel(actor)

    async def remove(self, model_id: LocalModelId, actor: str) -> None:
        """Remove a model and what was staged of it. Raises UnknownModelError, ManagerRefusedError."""
        entry = self._registry.get(model_id)
        if self.is_loaded(model_id):
            raise ManagerRefusedError(
                f"{model_id} is loaded by an engine", "Take it out of [[engines]] and restart the daemon first."
            )
        if self._use.is_occupied(model_id):
            raise ManagerRefusedError(f"{model_id} is being verified or moved", "Try again when that is done.")
        if entry.pinned:
            raise ManagerRefusedError(f"{model_id} is pinned", f"Unpin it first: quern model unpin {model_id}")
        active = self._downloads.active(model_id)
        if active is not None:
            active.cancel(actor)
            await active.done.wait()
            await self.remove(model_id, actor)  # what it is by now
            return
        self._audit.note(actor, "remove", model_id, entry.version)
        await self._remove(entry)

    def pin(self, model_id: LocalModelId, actor: str, *, pinned: bool) -> ModelEntry:
        """Keep a model from eviction, or no longer. Raises UnknownModelError."""
        entry = self._registry.pin(model_id, pinned=pinned)
        self._audit.note(actor, "pin" if pinned else "unpin", model_id)
        return entry

    async def verify(
        self, model_id: LocalModelId, actor: str, advance: Callable[[int], None] = lambda _count: None
    ) -> list[str]:
        """Read all bytes of a model and compare; return its faults. A damaged model is in error from then on.

        Raises UnknownModelError, ManagerRefusedError.
        """
        entry = self._registry.get(model_id)
        if entry.status is not ModelStatus.AVAILABLE:
            raise ManagerRefusedError(f"{model_id} is {entry.status.value}: there is nothing to verify")
        if self._use.is_occupied(model_id):
            raise ManagerRefusedError(f"{model_id} is being verified or moved", "Try again when that is done.")
        files = self._registry.files(model_id)
        with self._use.occupied(model_id):
            faults = await run_abandonable(partial(find_faults, entry.path, files, advance))
            cid = cid_of(entry)
            if not faults and cid is not None:
                faults = await run_abandonable(partial(cid_faults, entry.path, cid))
        self._audit.note(actor, "verify", model_id, "; ".join(faults[:5]) or "whole")
        if faults and not self.is_loaded(model_id):
            self._registry.step(model_id, ModelEvent.DAMAGED, reason="; ".join(faults))
        return faults

    # --- For engines --------------------------------------------------------------------------------------------------

    async def ensure(self, request: DownloadRequest) -> Path:
        """Return where a model lies, downloading it now if needed, and count it as loaded until `release`.

        Raises DownloadFailedError if it is not to be had, this time.
        """
        await self.until_ready()
        model_id = request.local_id()
        while True:
            if (active := self._downloads.active(model_id)) is not None:
                active.urgent.set()
                await active.done.wait()
                continue
            if (removal := self._use.removal(model_id)) is not None:
                await removal.wait()
                continue
            entry = self._registry.find(model_id)
            if entry is not None and entry.status is ModelStatus.AVAILABLE:
                self._use.load(model_id)  # before anything is waited for: from here on it stays where it is
                if await trio.Path(entry.path).is_dir():
                    break
                self._use.release(model_id)
                self._registry.step(model_id, ModelEvent.DAMAGED, reason="its files are gone from the disk")
                continue
            await self._download_for_engine(model_id, request)
        self._registry.touch(model_id)
        self._audit.note(ASKED_BY_ENGINE, "load", model_id, entry.version)
        return entry.path

    def release(self, model_id: LocalModelId) -> None:
        """Note that an engine no longer has a model open."""
        self._use.release(model_id)
        if self._registry.find(model_id) is not None:
            self._registry.touch(model_id)

    def damaged(self, model_id: LocalModelId, reason: str) -> None:
        """Note that an engine's model is not what it should be; it was not counted as loaded, or is released."""
        if self._registry.get(model_id).status is ModelStatus.AVAILABLE:
            self._registry.step(model_id, ModelEvent.DAMAGED, reason=reason)

    async def _download_for_engine(self, model_id: LocalModelId, request: DownloadRequest) -> None:
        entry = self._registry.find(model_id)
        if entry is None or entry.status in (ModelStatus.DELETED, ModelStatus.ERROR):
            self._registry.add(
                model_id, guess_type(request.model_type), self._storage.path_of(model_id), request_to_json(request)
            )
            self._audit.note(ASKED_BY_ENGINE, "download", model_id)
        self._registry.annotate(model_id, {"asked_by": ASKED_BY_ENGINE})
        await self._downloads.run_now(model_id, request)

    # --- Inside -------------------------------------------------------------------------------------------------------

    def _resume(self, entry: ModelEntry) -> None:
        request = _request(entry)
        if request is None:
            self._registry.step(entry.model_id, ModelEvent.FAILED, reason="what was asked for cannot be read any more")
        else:
            self._downloads.start(self._check_running(), entry.model_id, request)

    def _source(self, request: DownloadRequest) -> FileSource | PeersSource:
        return make_source(request, self._sources, self._find_same)

    def _find_same(self, sha256: str) -> Path | None:
        for entry, path in self._registry.same_content(sha256):
            return entry.path / path
        return None

    async def _evict(self, model_id: LocalModelId, why: str) -> None:
        """Remove a model to make room, unless it came into use since that was planned."""
        entry = self._registry.find(model_id)
        if entry is None or entry.status is not ModelStatus.AVAILABLE or entry.pinned:
            return
        if self._use.is_used(model_id):
            return
        self._audit.note("daemon", "evict", model_id, why)
        log.info("a model is evicted", model=model_id, reason=why)
        await self._remove(entry)

    async def _remove(self, entry: ModelEntry) -> None:
        """Remove a model that nothing uses: the entry first, so that nobody begins to."""
        self._registry.step(entry.model_id, ModelEvent.REMOVED)
        with self._use.removing(entry.model_id), trio.CancelScope(shield=True):
            await self._remover.remove(entry, entry.path)
            await trio.to_thread.run_sync(self._storage.staging(entry.model_id).discard)

    def _check_running(self) -> trio.Nursery:
        if self._nursery is None:
            raise ManagerRefusedError("the model manager is not running yet", "Try again in a moment.")
        return self._nursery

    async def _tidy(self) -> None:
        while True:
            await self._cooling.cool()
            await sweep(self._registry, self._storage, self._wall_clock)
            await trio.sleep(TIDY_SECONDS)


def _request(entry: ModelEntry) -> DownloadRequest | None:
    try:
        return request_from_json(entry.request)
    except ValueError:
        return None
