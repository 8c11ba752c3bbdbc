"""Builds the model manager of a daemon from its settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from node.models.audit import AuditLog
from node.models.downloads import DownloadLimits
from node.models.guarded_http import GuardedClient
from node.models.manager import ManagerOptions, ModelManager
from node.models.peers_source import DirectoryContent, Providers
from node.models.registry import ModelRegistry
from node.models.sources import SourceContext
from node.models.storage import ModelStorage
from node.models.tokens import read_hub_token
from node.ports import WallClock
from node.settings.sections.models import ModelSettings
from node.store.database import Database
from node.store.model_tables import ModelTables

SECONDS_PER_DAY = 86_400


@asynccontextmanager
async def open_manager(
    settings: ModelSettings,
    database: Database,
    content: DirectoryContent,
    providers: Providers,
    wall_clock: WallClock,
) -> AsyncIterator[ModelManager]:
    """Open the manager; its `run` is the caller's to start."""
    tables = ModelTables(database)
    client = GuardedClient(private_allowed=settings.private_addresses_allowed)
    registry = ModelRegistry(tables, wall_clock)
    manager = ModelManager(
        registry,
        ModelStorage(settings.storage_dir, settings.cold_dir),
        AuditLog(tables, wall_clock),
        SourceContext(
            content=content,
            providers=providers,
            client=client,
            hub_url=settings.hub_url,
            hub_token=partial(read_hub_token, settings.hub_token_file),
            hub_cache_dir=settings.hub_cache_dir,
            verify=settings.verify_checksums,
        ),
        ManagerOptions(
            downloads_at_once=settings.max_concurrent_downloads,
            limits=DownloadLimits(timeout_seconds=settings.download_timeout_seconds, bytes_max=settings.bytes_max),
            bandwidth_bytes_per_second_max=settings.bandwidth_bytes_per_second_max,
            cold_after_seconds=settings.cold_after_days * SECONDS_PER_DAY,
            export_file=settings.registry_file,
        ),
        wall_clock,
    )
    registry.on_change(manager.changed)
    try:
        yield manager
    finally:
        await client.aclose()
