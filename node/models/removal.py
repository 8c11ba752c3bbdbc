"""Removes a model's files: from the disk, and from what this node gives to peers."""

import sqlite3
from pathlib import Path

import structlog
import trio

from node.models.peers_source import DirectoryContent
from node.models.registry import ModelEntry
from node.models.requests import IpfsRequest, request_from_json
from node.models.storage import ModelStorage
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.retrieval.staging import Staging as FetchStaging

log = structlog.get_logger(__name__)


class Remover:
    """Removes. What it is told to remove may be gone already, in part or as a whole."""

    def __init__(self, storage: ModelStorage, content: DirectoryContent) -> None:
        self._storage = storage
        self._content = content

    async def remove(self, entry: ModelEntry, path: Path) -> None:
        """Remove the files of `entry` at `path`. Goes to its end although its caller is cancelled."""
        with trio.CancelScope(shield=True):
            await self.forget(entry, path)
            await trio.to_thread.run_sync(self._storage.remove, path)

    async def forget(self, entry: ModelEntry, path: Path) -> None:
        """Serve the files at `path` no more, and drop what was fetched for them; before they go or move."""
        cid = cid_of(entry)
        if cid is None:
            return
        try:
            await self._content.forget_directory(Cid(cid), path)
            await trio.to_thread.run_sync(FetchStaging(path, BlockCid.parse(cid)).discard)
        except (OSError, ValueError, sqlite3.Error) as error:
            # Blocks of files that are not there are found missing when they are asked for: nothing wrong is served.
            log.warning("the content store still names a removed model", model=entry.model_id, error=str(error))


def cid_of(entry: ModelEntry) -> str | None:
    """Return the CID of a model that came from peers."""
    try:
        request = request_from_json(entry.request)
    except ValueError:
        return None
    return request.cid if isinstance(request, IpfsRequest) else None
