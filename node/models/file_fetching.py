"""Brings the files of a listing into staging, several at once, each continued and checked; what is here is not fetched.

Used by the sources that give single files (Hub, web servers, directories); peers give whole directories.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from node.models.checksums import ChecksumMismatchError
from node.models.source import Listing, SourceFile, SourceUnavailableError
from node.models.staging import PartFile, Staging
from node.models.transfer import Transfer

FILES_AT_ONCE = 4
"""Of one download. More do not make a fast source faster, and make a slow one refuse."""

FetchOne = Callable[[SourceFile, PartFile], Awaitable[None]]
"""Append the missing bytes of a file to its part. May raise what `ModelSource.fetch` may."""
FindSame = Callable[[str], Path | None]
"""Where a file with this sha256 lies on this machine already."""


async def fetch_files(
    listing: Listing, staging: Staging, transfer: Transfer, fetch_one: FetchOne, find_same: FindSame
) -> None:
    """Fetch all files that are not complete. The first failure ends the others; what came is kept."""
    missing = await trio.to_thread.run_sync(partial(_survey, listing, staging, transfer))
    slots = trio.Semaphore(FILES_AT_ONCE)

    async def one(file: SourceFile) -> None:
        async with slots:
            await _fetch_file(file, staging, transfer, fetch_one, find_same)

    try:
        async with trio.open_nursery() as nursery:
            for file in missing:
                nursery.start_soon(one, file)
    except BaseExceptionGroup as group:
        raise most_telling(group) from group


def _survey(listing: Listing, staging: Staging, transfer: Transfer) -> list[SourceFile]:
    missing, held = [], 0
    for file in listing.files:
        row = staging.complete(file.path, file.size_bytes)
        if row is None:
            missing.append(file)
        else:
            held += row.size_bytes
    held += staging.part_bytes([file.path for file in missing])
    transfer.begin(
        bytes_done=held,
        bytes_total=listing.size_bytes,
        files_done=len(listing.files) - len(missing),
        files_total=len(listing.files),
    )
    return missing


async def _fetch_file(
    file: SourceFile, staging: Staging, transfer: Transfer, fetch_one: FetchOne, find_same: FindSame
) -> None:
    part = await trio.to_thread.run_sync(staging.part, file.path, file.size_bytes, file.checksum)
    try:
        same = _same(file, part, find_same)
        if same is None or not await trio.to_thread.run_sync(_copy_same, same, part, staging, transfer):
            if file.size_bytes is None or part.position < file.size_bytes:
                await fetch_one(file, part)
            before = part.position
            try:
                await trio.to_thread.run_sync(part.finish, staging.note_complete)
            except ChecksumMismatchError as error:
                transfer.forget(before)
                raise SourceUnavailableError(f"{error}; it was discarded") from error
        transfer.file_done()
    finally:
        part.close()


def _same(file: SourceFile, part: PartFile, find_same: FindSame) -> Path | None:
    """Return where the file lies already, if that is known."""
    if part.position or file.checksum is None or file.checksum.algorithm != "sha256":
        return None
    return find_same(file.checksum.digest)


def _copy_same(same: Path, part: PartFile, staging: Staging, transfer: Transfer) -> bool:
    """Copy the file from another model; whether that was done. What proves to be damaged there is not taken."""
    try:
        with same.open("rb") as source:
            while data := source.read(1024 * 1024):
                part.write(data)
        size = part.position
        part.finish(staging.note_complete)
    except (OSError, ChecksumMismatchError):
        part.restart()
        return False
    transfer.note_local(size)
    return True


def most_telling(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one of errors that came at once: cancellation first, then one that another try cannot mend."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    for error in leaves:
        if not isinstance(error, Exception):
            return error
    return next((error for error in leaves if not isinstance(error, SourceUnavailableError)), leaves[0])
