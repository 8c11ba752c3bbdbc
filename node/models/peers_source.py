"""Models from peers of the network, by CID: the content adapter fetches and checks every block."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import trio

from node.models.registry import Metadata
from node.models.requests import IpfsRequest
from node.models.source import Listing, SourceError, SourceUnavailableError
from node.models.staging import Staging
from node.models.transfer import Transfer
from node.ports import ContentUnavailableError, Provider
from node.protocol.identifiers import Cid

Providers = Callable[[], Sequence[Provider]]


class DirectoryContent(Protocol):
    """What is needed of `node.models.content.ContentAdapter`."""

    async def ensure_directory(
        self,
        cid: Cid,
        providers: Sequence[Provider],
        destination: Path,
        *,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """Make `destination` the directory `cid`."""


class PeersSource:
    """One directory. The CID vouches for its bytes, so no other checksums are recorded."""

    def __init__(self, request: IpfsRequest, content: DirectoryContent, providers: Providers) -> None:
        self._request = request
        self._content = content
        self._providers = providers

    whole = True

    async def resolve(self, version: str) -> Listing:
        """The CID is the version; its files are known when they are here."""
        return Listing(self._request.cid, (), metadata={"cid": self._request.cid})

    async def fetch(self, listing: Listing, staging: Staging, transfer: Transfer) -> None:
        """Bring the directory. What came of it is kept in the block store, so nothing is fetched twice."""

        def progress(held: int, total: int | None) -> None:
            transfer.at(held, total or 0)

        await trio.to_thread.run_sync(lambda: staging.directory.mkdir(parents=True, exist_ok=True, mode=0o700))
        try:
            await self._content.ensure_directory(
                Cid(self._request.cid), self._providers(), staging.files, progress=progress
            )
        except ContentUnavailableError as error:
            raise SourceUnavailableError(str(error)) from error
        except ValueError as error:
            raise SourceError(f"{self._request.cid}: {error}") from error

    async def finish(self, listing: Listing) -> Metadata:
        """Nothing more is to be said of a CID."""
        return {}
