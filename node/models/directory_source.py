"""Models from a directory of this machine: copied, so that what happens to the original does not matter afterwards."""

import hashlib
import os
import stat
from functools import partial

import trio

from node.models.checksums import ChecksumMismatchError
from node.models.file_fetching import FindSame, fetch_files
from node.models.registry import Metadata
from node.models.requests import DirectoryRequest
from node.models.source import FILES_MAX, Listing, SourceError, SourceFile, SourceUnavailableError
from node.models.staging import PartFile, Staging
from node.models.threads import run_abandonable
from node.models.transfer import Transfer

COPY_BYTES = 1024 * 1024


class DirectorySource:
    """One directory. Symbolic links are refused: followed, they could copy any file of this machine."""

    def __init__(self, request: DirectoryRequest, *, find_same: FindSame) -> None:
        self._request = request
        self._find_same = find_same

    async def resolve(self, version: str) -> Listing:
        """List the files. The version is a digest of names, sizes and times: a changed directory is another one."""
        return await trio.to_thread.run_sync(self._list)

    async def fetch(self, listing: Listing, staging: Staging, transfer: Transfer) -> None:
        """Copy the files."""

        async def fetch_one(file: SourceFile, part: PartFile) -> None:
            await run_abandonable(partial(self._copy, file, part, transfer))

        await fetch_files(listing, staging, transfer, fetch_one, self._find_same)
        if (await trio.to_thread.run_sync(self._list)).version != listing.version:
            raise SourceError(f"{self._request.directory} changed while it was copied: ask for it again")

    async def finish(self, listing: Listing) -> Metadata:
        """Nothing more is to be said of a directory."""
        return {"directory": str(self._request.directory)}

    def _list(self) -> Listing:
        directory = self._request.directory
        if not directory.is_dir():
            raise SourceError(f"{directory} is not a directory")
        files: list[SourceFile] = []
        digest = hashlib.sha256()
        for count, path in enumerate(sorted(directory.rglob("*"))):
            if count >= FILES_MAX:
                raise SourceError(f"{directory} has more than {FILES_MAX} entries; that is no model")
            name = path.relative_to(directory).as_posix()
            if any(part.startswith(".") for part in name.split("/")) or not self._request.selection.takes(name):
                continue  # hidden ones are of tools (.git, .cache), not of the model
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise SourceError(f"{path} is a symbolic link; put the file itself in its place (cp -L)")
            if stat.S_ISREG(status.st_mode):
                files.append(SourceFile(name, status.st_size, None))
                digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            elif not stat.S_ISDIR(status.st_mode):
                raise SourceError(f"{path} is neither a file nor a directory")
        return Listing(digest.hexdigest(), tuple(files))

    def _copy(self, file: SourceFile, part: PartFile, transfer: Transfer) -> None:
        descriptor = os.open(self._request.directory / file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as source:
            source.seek(part.position)
            try:
                while data := source.read(COPY_BYTES):
                    part.write(data)
                    transfer.note_blocking(len(data))
            except ChecksumMismatchError as error:  # it grew
                raise SourceUnavailableError(str(error)) from error
