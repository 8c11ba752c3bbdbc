"""Models from peers of the network, by CID: the content adapter fetches and checks every block.

It fetches to the model's place, not to our staging: it has a staging of its own, and serves the files from where it
put them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from node.models.registry import Metadata
from node.models.requests import IpfsRequest
from node.models.source import Listing, SourceError, SourceUnavailableError
from node.models.threads import run_abandonable
from node.models.transfer import Transfer
from node.ports import ContentUnavailableError, Provider
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.unixfs_import import import_path

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
        """Make `destination` the directory `cid`, in one step; its files are served from there."""

    async def forget_directory(self, cid: Cid, destination: Path) -> None:
        """Serve what `ensure_directory` made no more."""


class PeersSource:
    """One directory. The CID vouches for its bytes, so no other checksums are recorded."""

    def __init__(self, request: IpfsRequest, content: DirectoryContent, providers: Providers) -> None:
        self._request = request
        self._content = content
        self._providers = providers

    async def resolve(self, version: str) -> Listing:
        """The CID is the version; its files are known when they are here."""
        return Listing(self._request.cid, (), metadata={"cid": self._request.cid})

    async def fetch_to(self, destination: Path, transfer: Transfer) -> None:
        """Make `destination` the directory: at once if it is there, and whole or not at all.

        What came is kept beside it when this is cut off, and is not fetched again.
        """

        def progress(held: int, total: int | None) -> None:
            transfer.at(held, total or 0)

        try:
            await self._content.ensure_directory(
                Cid(self._request.cid), self._providers(), destination, progress=progress
            )
        except ContentUnavailableError as error:
            raise SourceUnavailableError(str(error)) from error
        except ValueError as error:
            raise SourceError(f"{self._request.cid}: {error}") from error

    async def find_faults(self, directory: Path) -> list[str]:
        """Return what is wrong with a directory that should be this one, by its CID."""
        return await run_abandonable(partial(cid_faults, directory, self._request.cid))

    async def finish(self, listing: Listing) -> Metadata:
        """Nothing more is to be said of a CID."""
        return {}


def cid_faults(directory: Path, cid: str) -> list[str]:
    """Return what is wrong with a directory that should be `cid`. Blocking: all bytes are read."""
    found = str(import_path(directory, BlockCid.of).cid)
    if found == cid:
        return []
    return [
        f"its CID is {found}, not {cid}: it is damaged, or was published with other chunk sizes than ours. To be sure, "
        "remove it and download it again"
    ]
