"""Where the bytes of a block are: a range of a file."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

UNREADABLE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.EACCES, errno.ESTALE})
"""Errors that mean these bytes are gone or rotten; others (too many open files) say nothing of the block."""


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """A range of a file that holds a block, for `sendfile`."""

    path: Path
    offset: int
    size: int


def read_place(place: BlockPlace) -> bytes | None:
    """Return the bytes at a place, None if they cannot be had (any more)."""
    try:
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.offset)
            data = file.read(place.size)
            if len(data) < place.size:  # a signal, or the end of a file that was cut
                data += file.read(place.size - len(data))
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        if error.errno != errno.ENOENT:
            log.error("a stored block cannot be read; it counts as missing", path=str(place.path), error=str(error))
        return None
    return data if len(data) == place.size else None


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
