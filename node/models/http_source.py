"""Models from files on web servers, such as those of a release: continued by ranges, as long as the file is the same.

Detail: a part goes on only under the ETag it was begun with (`If-Range`); a server that changed the file, or knows no
ranges, makes it begin anew. A sha256 that was given is checked; without one, what came over https is recorded.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import partial

import httpx
import trio

from node.models.checksums import Checksum, ChecksumMismatchError
from node.models.file_fetching import FindSame, fetch_files
from node.models.guarded_http import ForbiddenAddressError, GuardedClient, UnreachableError, host_of
from node.models.registry import Metadata
from node.models.requests import HttpFile, HttpRequest
from node.models.source import Listing, SourceError, SourceFile, SourceUnavailableError
from node.models.staging import PartFile, Staging
from node.models.transfer import Transfer

CHUNK_BYTES = 1024 * 1024
RETRIED_STATUS = (408, 425, 429)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class HttpSource:
    """The files of one request."""

    def __init__(
        self, request: HttpRequest, *, client: GuardedClient, find_same: FindSame, verify: bool = True
    ) -> None:
        self._request = request
        self._client = client
        self._find_same = find_same
        self._verify = verify

    async def resolve(self, version: str) -> Listing:
        """Ask for the size of each file. The version is that of all validators and digests together."""
        files: list[SourceFile] = []
        digest = hashlib.sha256()
        for wanted in self._request.files:
            if self._request.selection.takes(wanted.name):
                file, validator = await self._look(wanted)
                files.append(file)
                digest.update(f"{file.path}\0{file.locator}\0{file.size_bytes}\0{validator}\0".encode())
        return Listing(digest.hexdigest(), tuple(files))

    async def fetch(self, listing: Listing, staging: Staging, transfer: Transfer) -> None:
        """Bring the files."""

        async def fetch_one(file: SourceFile, part: PartFile) -> None:
            try:
                await self._fetch(file, part, staging, transfer)
            except ForbiddenAddressError as error:
                raise SourceError(f"{file.path}: {error}") from error
            except (UnreachableError, httpx.TransportError) as error:
                raise SourceUnavailableError(f"{file.path}: {error!r}") from error

        await fetch_files(listing, staging, transfer, fetch_one, self._find_same)

    async def finish(self, listing: Listing) -> Metadata:
        """Note where the files came from, without what may be secret in their addresses."""
        return {"hosts": ", ".join(sorted({host_of(file.locator) for file in listing.files}))}

    async def _look(self, file: HttpFile) -> tuple[SourceFile, str]:
        """Return a file as its server announces it, and what tells this state of it from others."""
        checksum = Checksum("sha256", file.digest) if file.digest is not None and self._verify else None
        try:
            async with self._client.open("HEAD", file.url) as response:
                if response.status_code in (405, 501):
                    return SourceFile(file.name, None, checksum, file.url), file.digest or ""  # a server without HEAD
                _check_status(response, file.name)
                size = response.headers.get("content-length", "")
                state = file.digest or response.headers.get("etag", "") or response.headers.get("last-modified", "")
                return SourceFile(file.name, int(size) if size.isdigit() else None, checksum, file.url), state
        except ForbiddenAddressError as error:
            raise SourceError(f"{file.name}: {error}") from error
        except (UnreachableError, httpx.TransportError) as error:
            raise SourceUnavailableError(f"{file.name}: {error!r}") from error

    async def _fetch(self, file: SourceFile, part: PartFile, staging: Staging, transfer: Transfer) -> None:
        validator = await trio.to_thread.run_sync(staging.validator, file.path)
        if part.position and validator is None and file.checksum is None:
            transfer.forget(part.restart())  # nothing tells whether the rest belongs to what is here
        headers = {}
        if part.position:
            headers["Range"] = f"bytes={part.position}-"
            if validator is not None:
                headers["If-Range"] = validator
        async with self._client.open("GET", file.locator, headers) as response:
            if response.status_code == 416:
                transfer.forget(part.restart())
                raise SourceUnavailableError(f"{file.path}: the server has less of it than came before")
            _check_status(response, file.path)
            if response.status_code != 206:
                transfer.forget(part.restart())
            elif not _continues(response.headers, part.position, file.size_bytes):
                raise SourceError(f"{file.path}: {host_of(file.locator)} answers with another range than was asked")
            etag = response.headers.get("etag", "")
            if part.position == 0 and etag and not etag.startswith("W/"):
                await trio.to_thread.run_sync(staging.set_validator, file.path, etag)
            try:
                async for data in response.aiter_raw(CHUNK_BYTES):
                    await trio.to_thread.run_sync(partial(part.write, data))
                    await transfer.note_pausing(len(data))
            except ChecksumMismatchError as error:
                transfer.forget(part.restart())
                raise SourceUnavailableError(str(error)) from error


def _continues(headers: Mapping[str, str], position: int, size_bytes: int | None) -> bool:
    """Whether a partial answer begins where the part ends, and is of a file of the announced size."""
    found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if found is None or int(found[1]) != position:
        return False
    return size_bytes is None or found[3] == "*" or int(found[3]) == size_bytes


def _check_status(response: httpx.Response, name: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status >= 500 or status in RETRIED_STATUS:
        raise SourceUnavailableError(f"{name}: the server answered {status}")
    raise SourceError(f"{name}: the server answered {status}; is the address right?")
