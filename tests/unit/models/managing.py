"""A model manager on a real disk and database, for tests; its retries do not wait long."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from node.models.audit import AuditLog
from node.models.downloads import DownloadLimits
from node.models.guarded_http import GuardedClient
from node.models.identity import LocalModelId
from node.models.manager import ManagerOptions, ModelManager
from node.models.peers_source import DirectoryContent
from node.models.progress import Progress
from node.models.registry import ModelRegistry
from node.models.requests import DownloadRequest
from node.models.retries import RetryPolicy
from node.models.sources import SourceContext
from node.models.storage import ModelStorage
from node.ports import ContentUnavailableError, Provider
from node.protocol.identifiers import Cid
from node.store.database import Database
from node.store.model_tables import ModelTables

NOW = 1_800_000_000
SECONDS_MAX = 30


@dataclass
class CannedContent:
    """Gives directories by CID that it was told of."""

    directories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    unavailable: int = 0
    """How many of the next calls fail."""
    calls: int = 0
    gate: trio.Event | None = None
    forgotten: list[tuple[str, Path]] = field(default_factory=list)

    async def forget_directory(self, cid: Cid, destination: Path) -> None:
        self.forgotten.append((cid, destination))

    async def ensure_directory(
        self,
        cid: Cid,
        providers: Sequence[Provider],
        destination: Path,
        *,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.unavailable:
            self.unavailable -= 1
            raise ContentUnavailableError("nobody has it")
        if destination.exists():
            return
        files = self.directories[cid]
        destination.mkdir()
        for name, data in files.items():
            (destination / name).write_bytes(data)
        if progress is not None:
            total = sum(map(len, files.values()))
            progress(total, total)


@dataclass
class Place:
    """Where a manager lives; a second one in the same place is the next life of the daemon."""

    folder: Path
    hub_url: str = "http://127.0.0.1:1"
    token: str | None = None
    content: DirectoryContent = field(default_factory=CannedContent)
    providers: tuple[Provider, ...] = ()
    options: ManagerOptions = field(
        default_factory=lambda: ManagerOptions(
            downloads_at_once=2,
            limits=DownloadLimits(
                timeout_seconds=20, bytes_max=0, retries=RetryPolicy(tries_max=4, pause_seconds_min=0.01)
            ),
        )
    )
    cold: Path | None = None
    verify: bool = True
    private_allowed: bool = True
    cache_dir: Path | None = None
    now: int = NOW

    def limit(self, **changes: object) -> None:
        self.options = replace(self.options, limits=replace(self.options.limits, **changes))  # type: ignore[arg-type]

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[ModelManager]:
        database = Database(self.folder / "quern.sqlite")
        tables = ModelTables(database)
        client = GuardedClient(private_allowed=self.private_allowed)
        registry = ModelRegistry(tables, lambda: self.now)
        manager = ModelManager(
            registry,
            ModelStorage(self.models, self.cold),
            AuditLog(tables, lambda: self.now),
            SourceContext(
                content=self.content,
                providers=lambda: self.providers,
                client=client,
                hub_url=self.hub_url,
                hub_token=lambda: self.token,
                hub_cache_dir=self.cache_dir,
                verify=self.verify,
            ),
            self.options,
            lambda: self.now,
        )
        registry.on_change(manager.changed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.run)
                with trio.fail_after(SECONDS_MAX):
                    await manager.until_ready()
                yield manager
                nursery.cancel_scope.cancel()
        finally:
            await client.aclose()
            database.close()


async def fetched(manager: ModelManager, request: DownloadRequest) -> Progress:
    """Ask for a model and wait until nothing more happens."""
    entry = manager.download(request, "test")
    return await ended(manager, entry.model_id)


async def ended(manager: ModelManager, model_id: LocalModelId) -> Progress:
    with trio.fail_after(SECONDS_MAX):
        async for progress in manager.watch(model_id, 0.02):
            last = progress
    return last


def tree(directory: Path) -> dict[str, bytes]:
    """Return all files below a directory."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
