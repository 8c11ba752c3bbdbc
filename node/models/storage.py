"""Where models lie: `huggingface/`, `custom/`, `ipfs/` and `cache/` in the storage directory, and again in a cold one.

Detail: a model's path is its id below the directory. Downloads are made in `cache/downloads`, what is removed goes
through `cache/trash`: both by renames, so that a path of a model is either all of it or not there. All methods block.
"""

import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from node.models.checksums import FileHasher
from node.models.identity import LocalModelId, parse_model_id
from node.models.staging import PRIVATE_DIRECTORY_MODE, Staging, scan
from node.store.model_tables import FileRow
from p2p.content.unixfs_export import PARTIAL_PREFIX, sync_directory

NAMESPACES = ("huggingface", "custom", "ipfs", "cache")
FREE_BYTES_MIN = 256 * 1024 * 1024
"""What a download leaves free: a full disk would stop the books too."""
STAGED_SECONDS_MAX = 7 * 86400
"""How long what came of a failed download is kept for another try."""
_CID = re.compile(r"baf[a-z2-7]{56}")
COPY_BYTES = 4 * 1024 * 1024


class ModelStorage:
    """The directories."""

    def __init__(self, directory: Path, cold_directory: Path | None = None) -> None:
        self.directory = directory
        self.cold_directory = cold_directory

    def prepare(self) -> None:
        """Make the directories. Raises OSError."""
        for root in self._roots():
            for name in (*NAMESPACES, "cache/downloads", "cache/trash"):
                (root / name).mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)

    def path_of(self, model_id: LocalModelId) -> Path:
        """Where a model lies once it is available."""
        return self.directory / parse_model_id(model_id)

    def cold_path_of(self, model_id: LocalModelId) -> Path | None:
        """Where it lies once it is cold; None without a cold directory."""
        return None if self.cold_directory is None else self.cold_directory / parse_model_id(model_id)

    def staging(self, model_id: LocalModelId) -> Staging:
        """Where a model's download is made."""
        digest = hashlib.sha256(model_id.encode()).hexdigest()[:16]
        return Staging(self._downloads / f"{model_id.replace('/', '--')[:100]}-{digest}")

    def free_bytes(self) -> int:
        """Bytes that a download may take: what is free, less FREE_BYTES_MIN."""
        return max(0, shutil.disk_usage(self.directory).free - FREE_BYTES_MIN)

    def remove(self, path: Path) -> None:
        """Remove a model's directory: gone at once for everybody, then from the disk."""
        gone = self._trash_for(path) / f"{path.name[:100]}-{time.time_ns()}"
        try:
            path.rename(gone)
        except FileNotFoundError:
            if path.exists():
                raise
            return
        sync_directory(path.parent)
        shutil.rmtree(gone, ignore_errors=True)

    def stagings(self) -> list[Path]:
        """Return the directories of all downloads, and what the content store fetched of those that are cut off."""
        fetched = [path for path in (self.directory / "ipfs").iterdir() if path.name.startswith(PARTIAL_PREFIX)]
        return sorted([*self._downloads.iterdir(), *fetched])

    def throw_away(self, paths: Sequence[Path]) -> None:
        """Move directories of downloads to the trash: quick, so that nobody begins to use one meanwhile."""
        for path in paths:
            with suppress(FileNotFoundError):  # it is gone already
                path.rename(self._trash_for(path) / f"{path.name}-{time.time_ns()}")

    def empty_trash(self) -> None:
        """Remove what is in the trash."""
        for root in self._roots():
            for path in (root / "cache" / "trash").iterdir():
                shutil.rmtree(path, ignore_errors=True)

    def transfer(self, source: Path, destination: Path) -> None:
        """Copy a model's directory to the other tier: whole at its new place, or not there. Raises OSError."""
        staged = self._trash_for(destination) / f"moving-{time.time_ns()}"
        staged.mkdir(mode=PRIVATE_DIRECTORY_MODE)
        try:
            for name, path in scan(source):
                target = staged / name
                target.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
                _copy_file(path, target)
            destination.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY_MODE)
            staged.rename(destination)
            sync_directory(destination.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def unregistered(self) -> list[Path]:
        """Return the directories named by a CID beside our own: how models lay before there was a registry."""
        return [path for path in sorted(self.directory.iterdir()) if _CID.fullmatch(path.name) and path.is_dir()]

    @property
    def _downloads(self) -> Path:
        return self.directory / "cache" / "downloads"

    def _roots(self) -> list[Path]:
        return [self.directory] if self.cold_directory is None else [self.directory, self.cold_directory]

    def _trash_for(self, path: Path) -> Path:
        """Renames do not cross file systems: each tier has a trash of its own."""
        cold = self.cold_directory
        root = cold if cold is not None and path.is_relative_to(cold) else self.directory
        return root / "cache" / "trash"


def find_faults(directory: Path, files: Sequence[FileRow], advance: Callable[[int], None]) -> list[str]:
    """Return what differs between a model's directory and its files as they were recorded, byte by byte."""
    faults = []
    recorded = {file.path: file for file in files}
    for name, path in scan(directory):
        file = recorded.pop(name, None)
        if file is None:
            faults.append(f"{name} does not belong to the model")
        elif not stat.S_ISREG(path.lstat().st_mode):
            faults.append(f"{name} is no longer a file")
        elif path.stat().st_size != file.size_bytes:
            faults.append(f"{name} has {path.stat().st_size} bytes, not {file.size_bytes}")
        elif file.sha256 and hash_file(path, advance) != file.sha256:
            faults.append(f"{name} holds other bytes than were downloaded")
    return faults + [f"{name} is missing" for name in recorded]


def hash_file(path: Path, advance: Callable[[int], None]) -> str:
    """Return the sha256 of a file, read in pieces."""
    hasher = FileHasher(None, None)
    with path.open("rb") as file:
        while data := file.read(COPY_BYTES):
            hasher.update(data)
            advance(len(data))
    return hasher.sha256


def list_files(directory: Path) -> tuple[FileRow, ...]:
    """Return the files of a directory that another checksum vouches for."""
    return tuple(FileRow(name, path.lstat().st_size, "") for name, path in sorted(scan(directory)))


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("xb") as writing:
        while data := reading.read(COPY_BYTES):
            writing.write(data)
        writing.flush()
        os.fsync(writing.fileno())
