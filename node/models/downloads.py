"""One download from its request to an available model: room is made, tries follow one another, all moves at once.

Detail of a try: resolve the version; make room; fetch into staging; write the manifest; rename to the model's place;
note it as available. Models of peers go to their place by the content store's own steps. A daemon that dies anywhere
in between finds in the registry, in the staging and at the model's place which of these steps were done
(`node.models.recovery`).
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from node.models.bandwidth import BandwidthLimit
from node.models.eviction import Held, NoRoom, plan_eviction
from node.models.file_fetching import most_telling
from node.models.identity import LocalModelId
from node.models.peers_source import PeersSource
from node.models.registry import ModelEntry, ModelRegistry
from node.models.removal import Remover
from node.models.retries import RetryPolicy, pause_before_retry
from node.models.source import (
    FileSource,
    Listing,
    SourceError,
    SourceUnavailableError,
    WholeSource,
    check_listing,
)
from node.models.staging import Staging
from node.models.states import ModelEvent, ModelStatus, ModelType
from node.models.storage import ModelStorage, list_files
from node.models.transfer import Transfer
from node.store.model_tables import FileRow
from p2p.content.unixfs import UnixFsError

log = structlog.get_logger(__name__)

SLOW_SECONDS = 300.0
SLOW_BYTES_MIN = 64 * 1024
"""Less in that time is as good as nothing: the try is given up. Long enough to hash 100 GB that are here."""


class NoSpaceError(Exception):
    """There is no room for a model, and none can be made; the message says what to do."""


class DownloadFailedError(Exception):
    """A model did not become available; the entry has the reason as well."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        """`permanent`: another try would bring the same."""
        super().__init__(message)
        self.permanent = permanent


@dataclass(slots=True)
class ActiveDownload:
    """A download that waits or runs, for those who watch it."""

    model_id: LocalModelId
    transfer: Transfer
    tries: int = 0
    message: str = "waiting for its turn"
    cancelled_by: str = ""
    """Who cancelled it, if somebody did; else its cancellation is the daemon's end."""
    urgent: trio.Event = field(default_factory=trio.Event)
    """Set when an engine needs it: it waits for its turn no longer."""
    done: trio.Event = field(default_factory=trio.Event)
    _scope: trio.CancelScope | None = None

    def cancel(self, actor: str) -> None:
        """End it, whether it waits or runs."""
        self.cancelled_by = actor
        if self._scope is not None:
            self._scope.cancel()

    def cancellable(self) -> trio.CancelScope:
        """Return a scope that `cancel` ends; one that is cancelled already, if it was called before."""
        self._scope = trio.CancelScope()
        if self.cancelled_by:
            self._scope.cancel()
        return self._scope


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What an operator sets."""

    timeout_seconds: float
    """Longest time of one try."""
    bytes_max: int
    """Disk that models may take; 0: no limit."""
    retries: RetryPolicy = field(default_factory=RetryPolicy)


class Downloader:
    """Runs downloads. Knows which models are loaded only through `held`."""

    def __init__(
        self,
        registry: ModelRegistry,
        storage: ModelStorage,
        remover: Remover,
        limits: DownloadLimits,
        held: Callable[[], list[Held]],
        evict: Callable[[LocalModelId, str], Awaitable[None]],
    ) -> None:
        """`held` gives all models on disk; `evict` removes one, unless it came into use."""
        self._registry = registry
        self._storage = storage
        self._remover = remover
        self._limits = limits
        self._held = held
        self._evict = evict
        self._room = trio.Lock()
        self._promised: dict[LocalModelId, int] = {}
        """Bytes that running downloads still need: two of them must not count on the same room."""

    async def run(self, active: ActiveDownload, source: FileSource | PeersSource) -> ModelEntry:
        """Download; return the available entry. Raises DownloadFailedError. The entry must be pending or in error."""
        model_id = active.model_id
        self._registry.step(model_id, ModelEvent.STARTED)
        try:
            with active.cancellable() as scope:
                entry = await self._try_until_done(active, source)
            if not scope.cancelled_caught:
                return entry
            self._fail(model_id, f"cancelled by {active.cancelled_by}")
            raise DownloadFailedError(f"{model_id}: cancelled by {active.cancelled_by}")
        except (DownloadFailedError, KeyboardInterrupt):
            raise
        except Exception as error:  # a fault of ours must not leave an entry that never ends
            log.error("a download failed for no known reason", model=model_id, error=repr(error))
            raise self._failed(model_id, f"internal error: {error!r}") from error
        except trio.Cancelled:
            # The daemon ends: the entry says so, and the next start goes on.
            if self._registry.get(model_id).status is ModelStatus.DOWNLOADING:
                self._registry.step(model_id, ModelEvent.INTERRUPTED)
            raise
        finally:
            self._promised.pop(model_id, None)

    async def _try_until_done(self, active: ActiveDownload, source: FileSource | PeersSource) -> ModelEntry:
        fruitless = 0
        while True:
            active.tries += 1
            before = active.transfer.bytes_new
            try:
                with trio.fail_after(self._limits.timeout_seconds):
                    return await self._try(active, source)
            except SourceUnavailableError as error:
                reason = str(error)
            except trio.TooSlowError:
                reason = f"it took longer than {self._limits.timeout_seconds:.0f} s"
            except NoSpaceError as error:
                raise self._failed(active.model_id, str(error)) from error
            except (SourceError, UnixFsError) as error:
                raise self._failed(active.model_id, str(error), permanent=True) from error
            except OSError as error:  # not the network's: sources tell those in their words
                raise self._failed(active.model_id, _disk_words(error)) from error
            came = active.transfer.bytes_new - before
            fruitless = 1 if came >= self._limits.retries.progress_bytes_min else fruitless + 1
            pause = pause_before_retry(self._limits.retries, fruitless)
            if pause is None:
                raise self._failed(active.model_id, f"given up after {active.tries} tries: {reason}")
            active.message = f"trying again in {pause:.0f} s: {reason}"
            log.warning("a model's download is tried again", model=active.model_id, reason=reason, pause_seconds=pause)
            await trio.sleep(pause)

    async def _try(self, active: ActiveDownload, source: FileSource | PeersSource) -> ModelEntry:
        model_id = active.model_id
        active.message = "asking what there is"
        entry = self._registry.get(model_id)
        listing = await source.resolve(entry.version)
        if not isinstance(source, PeersSource):
            check_listing(listing)
        model_type = listing.model_type or entry.model_type
        entry = self._registry.resolved(model_id, listing.version, listing.size_bytes, model_type, listing.metadata)
        if isinstance(source, PeersSource):
            return await self._fetch_whole(active, source, entry)
        staging = self._storage.staging(model_id)
        await trio.to_thread.run_sync(staging.begin, listing.version)
        await self._make_room(model_id, listing, staging)
        active.message = "downloading"
        await _fetch_not_too_slowly(source, listing, staging, active.transfer)
        metadata = await source.finish(listing)
        active.message = "moving to its place"
        destination = self._storage.path_of(model_id)
        with trio.CancelScope(shield=True):
            rows = await trio.to_thread.run_sync(_gather, listing, staging)
            await self._remover.remove(entry, destination)  # what it left there before it was damaged
            await trio.to_thread.run_sync(_publish, staging, rows, destination)
            done = self._registry.complete(model_id, rows, metadata)
            await trio.to_thread.run_sync(staging.discard)
        if moved := metadata.get("revision_moved_to"):
            log.warning("the revision moved while it was downloaded", model=model_id, has=listing.version, now=moved)
        return done

    async def _fetch_whole(self, active: ActiveDownload, source: WholeSource, entry: ModelEntry) -> ModelEntry:
        """Fetch to the model's place, by a source that does that in one step."""
        destination = self._storage.path_of(active.model_id)
        if await trio.Path(destination).is_dir():
            # It came just before the daemon died, or it is what was found damaged: its bytes tell.
            active.message = "reading what is here"
            if await source.find_faults(destination):
                await self._remover.remove(entry, destination)
        active.message = "downloading"
        await source.fetch_to(destination, active.transfer)
        with trio.CancelScope(shield=True):
            rows = await trio.to_thread.run_sync(list_files, destination)
            done = self._registry.complete(active.model_id, rows, {})
            await self.enforce_cap()  # its size was not known before
        return done

    async def enforce_cap(self) -> None:
        """Evict what is over the cap; what cannot be is told of."""
        plan = plan_eviction(self._held(), 0, self._limits.bytes_max)
        if isinstance(plan, NoRoom):
            log.warning("models take more disk than [models] bytes_max", over_bytes=plan.missing_bytes)
            return
        await self._carry_out(plan, "over the cap of [models] bytes_max")

    async def _carry_out(self, plan: tuple[LocalModelId, ...], why: str) -> None:
        for name in plan:
            await self._evict(name, why)

    async def _make_room(self, model_id: LocalModelId, listing: Listing, staging: Staging) -> None:
        """Evict what has to give way. Raises NoSpaceError if that does not suffice."""
        async with self._room:
            staged = await trio.to_thread.run_sync(_staged_bytes, listing, staging)
            missing = max(0, listing.size_bytes - staged)
            self._promised.pop(model_id, None)
            promised = sum(self._promised.values())
            plan = plan_eviction(self._held(), listing.size_bytes + promised, self._limits.bytes_max)
            if isinstance(plan, NoRoom):
                raise NoSpaceError(
                    f"{model_id} has {listing.size_bytes} bytes, {plan.missing_bytes} more than [models] bytes_max "
                    "leaves room for. Remove or unpin models, or raise the limit"
                )
            await self._carry_out(plan, f"to make room for {model_id}")
            free = await trio.to_thread.run_sync(self._storage.free_bytes)
            if missing + promised > free:
                raise NoSpaceError(
                    f"{model_id} needs {missing} more bytes of disk, {max(0, free - promised)} can be used. Free some "
                    "space, or set [models] storage_dir to a larger disk"
                )
            self._promised[model_id] = missing

    def _failed(self, model_id: LocalModelId, reason: str, *, permanent: bool = False) -> DownloadFailedError:
        self._fail(model_id, reason)
        return DownloadFailedError(f"{model_id}: {reason}", permanent=permanent)

    def _fail(self, model_id: LocalModelId, reason: str) -> None:
        self._registry.step(model_id, ModelEvent.FAILED, reason=reason)
        log.warning("a model is not available", model=model_id, reason=reason)


async def _fetch_not_too_slowly(source: FileSource, listing: Listing, staging: Staging, transfer: Transfer) -> None:
    """Fetch, but not from a server that gives a byte now and then. Raises SourceUnavailableError."""

    async def watch() -> None:
        while True:
            before = transfer.activity
            await trio.sleep(SLOW_SECONDS)
            if transfer.activity - before < SLOW_BYTES_MIN:
                raise SourceUnavailableError(f"fewer than {SLOW_BYTES_MIN} bytes came in {SLOW_SECONDS:.0f} s")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await source.fetch(listing, staging, transfer)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise most_telling(group) from group


def new_download(model_id: LocalModelId, limit: BandwidthLimit) -> ActiveDownload:
    """Return a download that has not begun."""
    return ActiveDownload(model_id, Transfer(limit))


def guess_type(requested: ModelType | None) -> ModelType:
    """Return the type of an entry before its source has been asked."""
    return requested or ModelType.OTHER


def _publish(staging: Staging, rows: tuple[FileRow, ...], destination: Path) -> None:
    staging.write_manifest(rows)
    staging.publish(destination)


def _gather(listing: Listing, staging: Staging) -> tuple[FileRow, ...]:
    rows = [staging.complete(file.path, file.size_bytes) for file in listing.files]
    if any(row is None for row in rows):  # never publish what is not checked
        raise SourceUnavailableError("files vanished from the staging directory while the download ran")
    return tuple(row for row in rows if row is not None)


def _staged_bytes(listing: Listing, staging: Staging) -> int:
    rows = [staging.complete(file.path, file.size_bytes) for file in listing.files]
    missing = [file.path for file, row in zip(listing.files, rows, strict=True) if row is None]
    return sum(row.size_bytes for row in rows if row is not None) + staging.part_bytes(missing)


def _disk_words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full. Free some space and ask for it again: what came is kept"
    return f"this machine's disk refuses: {error}"
