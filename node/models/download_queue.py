"""Downloads that wait or run: those that were asked for wait for one of a few slots, those of engines do not."""

from collections.abc import Callable, Collection

import trio

from node.models.bandwidth import BandwidthLimit
from node.models.downloads import ActiveDownload, Downloader, DownloadFailedError, new_download
from node.models.identity import LocalModelId
from node.models.peers_source import PeersSource
from node.models.registry import ModelRegistry
from node.models.requests import DownloadRequest
from node.models.source import FileSource
from node.models.states import ModelEvent
from node.models.use import ModelUse
from node.private_files import PrivateFileError

QUEUE_MAX = 64
"""Downloads that wait or run. More are refused, so that nobody fills the queue from outside."""


class DownloadQueue:
    """At most one download of each model at a time; `at_once` of those that wait for a slot run."""

    def __init__(
        self,
        registry: ModelRegistry,
        downloader: Downloader,
        use: ModelUse,
        source: Callable[[DownloadRequest], FileSource | PeersSource],
        *,
        at_once: int,
        bytes_per_second_max: int,
    ) -> None:
        """`source` makes that of a request; it may raise PrivateFileError."""
        self._registry = registry
        self._downloader = downloader
        self._use = use
        self._source = source
        self._slots = trio.Semaphore(at_once)
        self._limit = BandwidthLimit(bytes_per_second_max)
        self._active: dict[LocalModelId, ActiveDownload] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more are to be started from outside."""
        return len(self._active) >= QUEUE_MAX

    @property
    def model_ids(self) -> Collection[LocalModelId]:
        """Of all that wait or run, as it is now and later."""
        return self._active.keys()

    def active(self, model_id: LocalModelId) -> ActiveDownload | None:
        """Return the download of a model; None if there is none."""
        return self._active.get(model_id)

    def start(self, nursery: trio.Nursery, model_id: LocalModelId, request: DownloadRequest) -> None:
        """Download a model, whose entry is pending, when its turn comes."""
        active = new_download(model_id, self._limit)
        self._active[model_id] = active
        nursery.start_soon(self._run, active, request)

    async def run_now(self, model_id: LocalModelId, request: DownloadRequest) -> None:
        """Download a model without a slot. Raises DownloadFailedError, PrivateFileError."""
        active = new_download(model_id, self._limit)
        self._active[model_id] = active
        try:
            await self._downloader.run(active, self._source(request))
        finally:
            self._end(active)

    async def _run(self, active: ActiveDownload, request: DownloadRequest) -> None:
        model_id = active.model_id
        try:
            started = has_slot = False
            with active.cancellable():
                if (removal := self._use.removal(model_id)) is not None:
                    await removal.wait()
                has_slot = await self._take_slot(active)
                started = True
            if not started:
                self._registry.step(model_id, ModelEvent.FAILED, reason=f"cancelled by {active.cancelled_by}")
                return
            try:
                source = self._source(request)
                await self._downloader.run(active, source)
            except PrivateFileError as error:
                self._registry.step(model_id, ModelEvent.FAILED, reason=str(error))
            except DownloadFailedError:
                pass  # the entry has the reason
            finally:
                if has_slot:
                    self._slots.release()
        finally:
            self._end(active)

    async def _take_slot(self, active: ActiveDownload) -> bool:
        """Wait for a slot, or until an engine cannot wait; return whether a slot was taken."""
        taken = False

        async def take() -> None:
            nonlocal taken
            await self._slots.acquire()
            taken = True
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await active.urgent.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            if taken:  # cancelled in the moment in which it was taken
                self._slots.release()
            raise
        return taken

    def _end(self, active: ActiveDownload) -> None:
        if self._active.get(active.model_id) is active:
            del self._active[active.model_id]
        active.done.set()
