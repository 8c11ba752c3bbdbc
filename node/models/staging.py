"""A download in the making: files that are complete and checked beside parts that are not, until all move at once.

Detail: `files/` holds what is complete; a file enters it by a rename, after its checksum. `parts/` holds the rest,
each continued where it stopped. `version` says what they belong to: of another version nothing is used. `manifest`
is written when all is there, before `files/` is renamed to the model's place, so that a start after a crash in
between knows that what lies there is whole. Nothing is ever read by an engine from here.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic_core import from_json

from node.models.checksums import Checksum, ChecksumMismatchError, FileHasher
from node.store.model_tables import FileRow
from p2p.content.unixfs_export import sync_directory

PRIVATE_DIRECTORY_MODE = 0o700
"""Gated models are for the daemon's user only."""
HASH_CHUNK_BYTES = 1024 * 1024
UNKNOWN_SIZE_BYTES_MAX = 1024**4
VALIDATOR_BYTES_MAX = 1024


class PartClosedError(Exception):
    """The download was cancelled while a thread still wrote: the thread has to end."""


class PartFile:
    """A file that is being downloaded, written at its end. Hashes as it goes; what was there before is hashed again."""

    def __init__(
        self, part: Path, destination: Path, name: str, size_bytes: int | None, checksum: Checksum | None
    ) -> None:
        self._part = part
        self._destination = destination
        self._name = name
        self._size_bytes = size_bytes
        self._checksum = checksum
        self._lock = threading.Lock()
        self._closed = False
        part.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        self._descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._hasher = FileHasher(checksum, size_bytes)
        self.position = 0
        """Bytes that are there."""
        self._take_up()

    def write(self, data: bytes) -> int:
        """Append. Raises PartClosedError, OSError (the disk), ChecksumMismatchError (more than was announced)."""
        with self._lock:
            if self._closed:
                raise PartClosedError(self._name)
            limit = UNKNOWN_SIZE_BYTES_MAX if self._size_bytes is None else self._size_bytes
            if self.position + len(data) > limit:
                raise ChecksumMismatchError(f"{self._name}: more than the announced {limit} bytes came")
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._hasher.update(data)
            self.position += len(data)
            return len(data)

    def restart(self) -> int:
        """Discard what is there; return how many bytes that were."""
        with self._lock:
            discarded, self.position = self.position, 0
            if not self._closed:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
            self._hasher = FileHasher(self._checksum, self._size_bytes)
            return discarded

    def finish(self, note: Callable[[FileRow], None]) -> FileRow:
        """Check and put among the complete files. Raises ChecksumMismatchError; the part is discarded then.

        `note` writes down what the file is before it is in place, so that a file in place is always a known one.
        """
        try:
            if self._size_bytes is not None and self.position != self._size_bytes:
                raise ChecksumMismatchError(f"{self._name}: {self.position} of {self._size_bytes} bytes came")
            self._hasher.check(self._name)
        except ChecksumMismatchError:
            self.restart()
            raise
        with self._lock:
            if self._closed:
                raise PartClosedError(self._name)
            os.fsync(self._descriptor)
        self._destination.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        row = FileRow(self._name, self.position, self._hasher.sha256)
        note(row)
        self._part.rename(self._destination)
        return row

    def close(self) -> None:
        """End writing: a thread that still does fails at its next piece. What is there stays for the next try."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)

    def _take_up(self) -> None:
        size = os.fstat(self._descriptor).st_size
        if self._size_bytes is not None and size > self._size_bytes:
            os.ftruncate(self._descriptor, 0)
            return
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while data := os.read(self._descriptor, HASH_CHUNK_BYTES):
            self._hasher.update(data)
            self.position += len(data)


class Staging:
    """The directory of one download. All methods block: call them in a thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "files"
        self._parts = directory / "parts"
        self._sums = directory / "sums"
        self._version = directory / "version"
        self._manifest = directory / "manifest"

    def begin(self, version: str) -> None:
        """Make ready for `version`: what another one left is removed."""
        if self._read(self._version) != version:
            self.discard()
            self.directory.mkdir(parents=True, mode=PRIVATE_DIRECTORY_MODE)
            _write(self._version, version)
        self._manifest.unlink(missing_ok=True)
        self.files.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        self._version.touch()  # young again: see `node.models.recovery`

    @property
    def age_mark(self) -> float:
        """When a download last began here (UNIX seconds); 0 if nothing tells."""
        try:
            return self._version.stat().st_mtime
        except OSError:
            return 0.0

    def complete(self, path: str, size_bytes: int | None) -> FileRow | None:
        """Return a file if it is complete and was checked."""
        found = self.files / path
        digest = self._read(self._sum_of(path))
        if digest is None or not found.is_file() or found.is_symlink():
            return None
        size = found.stat().st_size
        return FileRow(path, size, digest) if size_bytes in (None, size) else None

    def part(self, path: str, size_bytes: int | None, checksum: Checksum | None) -> PartFile:
        """Open what is there of a file, to go on with it."""
        return PartFile(self._parts / _key(path), self.files / path, path, size_bytes, checksum)

    def note_complete(self, row: FileRow) -> None:
        """Remember the checksum of a file that `PartFile.finish` is about to put in place."""
        self._sums.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        _write(self._sum_of(row.path), row.sha256)

    def part_bytes(self, paths: Sequence[str]) -> int:
        """Bytes that are there of files that are not complete."""
        found = (self._parts / _key(path) for path in paths)
        return sum(part.stat().st_size for part in found if part.is_file())

    def validator(self, path: str) -> str | None:
        """Return the validator (ETag) under which a part was begun."""
        return self._read(self._parts / f"{_key(path)}.validator")

    def set_validator(self, path: str, validator: str) -> None:
        """Remember the validator of a part."""
        self._parts.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        _write(self._parts / f"{_key(path)}.validator", validator[:VALIDATOR_BYTES_MAX])

    def write_manifest(self, rows: Sequence[FileRow]) -> None:
        """Say that all is here and checked: `publish` may follow, and be found done after a crash."""
        _write(self._manifest, json.dumps([[row.path, row.size_bytes, row.sha256] for row in rows]))
        sync_directory(self.directory)

    def manifest(self) -> tuple[FileRow, ...] | None:
        """Return what `write_manifest` wrote, if it did."""
        text = self._read(self._manifest)
        if text is None:
            return None
        try:
            return tuple(FileRow(str(path), int(size), str(digest)) for path, size, digest in from_json(text))
        except (ValueError, TypeError):
            return None

    def publish(self, destination: Path) -> None:
        """Move the complete files to the model's place, which must be free, in one step that survives a crash."""
        for directory in _directories(self.files):
            sync_directory(directory)
        destination.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
        self.files.rename(destination)
        sync_directory(destination.parent)

    def discard(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _sum_of(self, path: str) -> Path:
        return self._sums / _key(path)

    def _read(self, path: Path) -> str | None:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None


def scan(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (path within, path) of all files below `directory`; symbolic links are yielded, not followed."""
    for root, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(root) / name
            yield path.relative_to(directory).as_posix(), path


def _directories(directory: Path) -> Iterator[Path]:
    for root, _, _ in os.walk(directory, topdown=False):
        yield Path(root)


def _key(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:32]


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
