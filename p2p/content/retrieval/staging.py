"""Files that are being fetched: staged beside their destination, filled leaf by leaf, then renamed in one step.

The directory has one name per CID and destination, so that a fetch that was killed goes on where it stopped: what is on
disk is hashed against the tree, and what matches is held. Nothing is noted along the way, for a note could lie after a
crash; the bytes cannot. Holes were never written and are skipped.

Layout of `.partial-<cid>-<digest of the name>` beside the destination: `lock`, held while somebody fetches; `content`,
which becomes the destination. After the rename the directory remains until the store knows the files in their place.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from p2p.content.blockstore import StoreFullError
from p2p.content.cid import Cid, Codec
from p2p.content.places import sync_directory
from p2p.content.retrieval.plan import PlannedFile, Segment, TreePlan
from p2p.content.unixfs import UnixFsError
from p2p.content.unixfs_export import PARTIAL_PREFIX

DISK_RESERVE_BYTES = 64 * 1024 * 1024
"""Left free: a disk filled to the last byte stops databases too, and with them the daemon's books."""
NAME_DIGITS = 8
OPEN_FILES_MAX = 16
"""Staged files open at once: leaves in flight are of one or two, unless files are small."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW

Place = tuple[PlannedFile, Segment]


class FetchInProgressError(Exception):
    """Another process fetches the same content to the same place."""


class Staging:
    """The staged form of one destination. Blocking; `write` may be called in several threads at once."""

    def __init__(self, destination: Path, root: Cid) -> None:
        self._destination = destination
        # One content may be fetched to two names at once; a name may be too long to be a part of another.
        name = hashlib.sha256(os.fsencode(destination.name)).hexdigest()[:NAME_DIGITS]
        self._directory = destination.parent / f"{PARTIAL_PREFIX}{root}-{name}"
        self._content = self._directory / "content"
        self._places: dict[Cid, list[Place]] = {}
        self._descriptors: OrderedDict[PurePosixPath, int] = OrderedDict()
        """Files open for writing, behind `_writing`; leaves come about in the order of the files."""
        # The kernel lets one writer at a time into a file and has the others spin for it.
        self._writing = threading.Lock()
        self._plan = TreePlan(root, True, (), (), 0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others away. Raises FetchInProgressError."""
        self._directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FetchInProgressError(f"another process is fetching {self._destination}") from None
            yield
        finally:
            self._close_files()
            os.close(descriptor)

    @property
    def exists(self) -> bool:
        """Whether an earlier fetch to this destination was not brought to its end."""
        return self._directory.is_dir()

    def discard(self) -> None:
        """Delete everything staged."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def prepare(self, plan: TreePlan) -> None:
        """Make the directories and empty files of `plan`, keeping those of an earlier attempt.

        Raises StoreFullError before anything is written if the disk cannot hold it.
        """
        self._plan = plan
        for file in plan.files:
            for segment in file.segments:
                self._places.setdefault(segment.cid, []).append((file, segment))
        self._remove_strangers(plan)
        self._check_disk(plan)
        if plan.is_directory:
            self._content.mkdir(exist_ok=True)
        for directory in plan.directories:
            (self._content / directory).mkdir(exist_ok=True)
        for file in plan.files:
            descriptor = os.open(self._path(file), os.O_RDWR | os.O_CREAT | _OPEN_FLAGS, 0o644)
            try:
                if file.size is not None and os.fstat(descriptor).st_size != file.size:
                    os.ftruncate(descriptor, file.size)  # sparse
            finally:
                os.close(descriptor)

    def leaves(self) -> Iterator[Cid]:
        """Yield each leaf once, in the order of the files."""
        return iter(self._places)

    def bytes_of(self, cid: Cid, size: int) -> int:
        """Return the file bytes that a leaf of `size` bytes brings, in all its places."""
        return size * len(self._places[cid])

    def held(self) -> Iterator[tuple[Cid, int]]:
        """Hash what is on disk; yield leaves that are wholly there, in all their places, and their size."""
        found: dict[Cid, int] = {}
        for file in self._plan.files:
            descriptor = os.open(self._path(file), os.O_RDONLY | _OPEN_FLAGS)
            try:
                for segment in file.segments:
                    size = _matching_bytes(descriptor, segment)
                    if size is None:
                        continue
                    found[segment.cid] = found.get(segment.cid, 0) + 1
                    if found[segment.cid] == len(self._places[segment.cid]):
                        yield segment.cid, size
            finally:
                os.close(descriptor)

    def write(self, cid: Cid, data: bytes | bytearray) -> None:
        """Write a verified leaf to all its places. Raises UnixFsError for a size not as promised, StoreFullError."""
        places = self._places[cid]
        for _, segment in places:
            if segment.size is not None and segment.size != len(data):
                raise UnixFsError(f"leaf {cid} brings {len(data)} bytes where {segment.size} were promised")
        with self._writing:
            try:
                for file, segment in places:
                    descriptor = self._descriptor(file)
                    if segment.size is None:
                        os.ftruncate(descriptor, len(data))
                    _write_at(descriptor, data, segment.offset)
            except OSError as error:
                self._raise_if_full(error)
                raise

    def publish(self) -> None:
        """Make the staged files durable and rename them to the destination. All leaves must have been written."""
        self._close_files()
        try:
            for file in self._plan.files:
                descriptor = os.open(self._path(file), os.O_RDONLY | _OPEN_FLAGS)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            if self._plan.is_directory:
                for directory in (*reversed(self._plan.directories), PurePosixPath()):
                    sync_directory(self._content / directory)
            self._content.rename(self._destination)
            sync_directory(self._destination.parent)
        except OSError as error:
            self._raise_if_full(error)
            raise

    @property
    def is_published(self) -> bool:
        """Whether the destination is there and nothing is staged any more."""
        return os.path.lexists(self._destination) and not os.path.lexists(self._content)

    def _path(self, file: PlannedFile) -> Path:
        return self._content / file.path

    def _descriptor(self, file: PlannedFile) -> int:
        """Return the open file. Opening and closing it for each leaf took a tenth of a leaf's time in Python."""
        descriptor = self._descriptors.get(file.path)
        if descriptor is None:
            descriptor = self._descriptors[file.path] = os.open(self._path(file), os.O_WRONLY | _OPEN_FLAGS)
            if len(self._descriptors) > OPEN_FILES_MAX:
                os.close(self._descriptors.popitem(last=False)[1])
        else:
            self._descriptors.move_to_end(file.path)
        return descriptor

    def _close_files(self) -> None:
        with self._writing:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def _raise_if_full(self, error: OSError) -> None:
        if error.errno in _FULL and not isinstance(error, StoreFullError):
            raise StoreFullError(
                errno.ENOSPC,
                f"the disk became full while {self._destination} was fetched: "
                "free some space; it goes on where it stopped",
            ) from error

    def _check_disk(self, plan: TreePlan) -> None:
        staged = sum(_allocated_bytes(self._path(file)) for file in plan.files)
        status = os.statvfs(self._directory)
        free = status.f_bavail * status.f_frsize - DISK_RESERVE_BYTES
        needed = plan.file_bytes - staged
        if needed > free:
            raise StoreFullError(
                errno.ENOSPC,
                f"{self._destination} needs {needed} bytes more and its disk has {max(free, 0)} to spare: "
                "free some space, or set another directory; what was fetched so far is kept",
            )

    def _remove_strangers(self, plan: TreePlan) -> None:
        """Delete what is staged and not of this tree (an older program's, or a hand's)."""
        if not os.path.lexists(self._content):
            return
        if self._content.is_symlink() or self._content.is_dir() != plan.is_directory:
            _remove(self._content)
            return
        if not plan.is_directory:
            return
        files = {self._path(file) for file in plan.files}
        directories = {self._content / directory for directory in plan.directories}
        for folder, inner, names in os.walk(self._content, topdown=True):
            for name in (*inner, *names):
                path = Path(folder) / name
                is_directory = path.is_dir() and not path.is_symlink()
                if path not in (directories if is_directory else files) or path.is_symlink():
                    _remove(path)
            inner[:] = [name for name in inner if Path(folder) / name in directories]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _allocated_bytes(path: Path) -> int:
    with suppress(FileNotFoundError, NotADirectoryError):
        status = path.lstat()
        return min(status.st_blocks * 512, status.st_size)
    return 0


def _matching_bytes(descriptor: int, segment: Segment) -> int | None:
    """Return the size of a leaf if its bytes are at its place."""
    total = os.fstat(descriptor).st_size
    size = total if segment.size is None else segment.size
    if size > 0:
        try:
            if os.lseek(descriptor, segment.offset, os.SEEK_DATA) >= segment.offset + size:
                return None  # a hole
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but hole up to the end
                return None
            raise
    data = os.pread(descriptor, size, segment.offset)
    return size if len(data) == size and segment.cid.codec is Codec.RAW and segment.cid.matches(data) else None


def _write_at(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], offset + written)
