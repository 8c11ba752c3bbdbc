"""Blocks on disk by CID: each in a file of its own, or inside a file that is kept where it is.

Nodes, documents and fetched blocks are files named by their CID in sharded directories; the leaves of a file that was
published or fetched in place are ranges of that file, so that holding a model of 100 GB takes 100 GB. `block_index`
says where everything is. Several processes may share a directory (an owner's upload beside its daemon).

*Held* means that the bytes are there as far as sizes and time stamps tell; whoever reads verifies, and reports what
is damaged with `remove`.
"""

import errno
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog

from p2p.content.block_index import BlockIndex, BlockRow, Stamp
from p2p.content.block_index_file import as_os_errors
from p2p.content.block_upkeep import Garbage, ScrubStep, discard, evict, scrub, sweep
from p2p.content.cid import Cid, CidError, Codec
from p2p.content.places import BlockPlace, read_place, sync_directory
from p2p.content.unixfs import BLOCK_BYTES_MAX

__all__ = [
    "BLOCK_BYTES_MAX",
    "BlockMissingError",
    "BlockPlace",
    "BlockStore",
    "FileChangedError",
    "Pin",
    "StoreFullError",
    "Usage",
]

log = structlog.get_logger(__name__)

INDEX_NAME = "index.sqlite"
SHARD_CHARACTERS = 2
"""Of the CID's end, where it is random: 1,024 directories keep each small."""
STAGED_PREFIX = ".new-"
LEAVES_PER_COMMIT = 1024
"""References written at once: a commit waits for the disk, and the writer's lock must not be held for long."""
CIDS_PER_QUERY = 500
"""Looked up at once; SQLite takes some thousands."""
USE_SECONDS = 60
"""A block's last use is noted at most once in so long."""
USES_MAX = 256
"""Uses noted in memory before they are written at once, so that serving does not wait for the disk. A killed process
loses them, and evicts a little less wisely."""
LOW_WATER = 0.9
"""Eviction goes down to this part of the limit, so that it runs once for many blocks."""
GARBAGE_GRACE_SECONDS = 7 * 24 * 3600
"""What came or was used within it is not garbage yet: others still fetch proofs and results of the last epochs, and an
import under way pins its root at the end."""


class BlockMissingError(KeyError):
    """The block is not held."""


class StoreFullError(OSError):
    """The limit of this store, or the disk, is reached; nothing was written. Of the disk it has the number ENOSPC."""


class FileChangedError(OSError):
    """A file was written to while it was taken in; nothing of it is held."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A root whose blocks are kept. A root may have several pins under different names; each must be removed."""

    root: Cid
    name: str
    since: int
    """UNIX seconds."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds."""

    blocks: int
    """In files of their own."""
    block_bytes: int
    bytes_max: int
    """Limit of `block_bytes`; 0 for none."""
    files: int
    """Kept in place."""
    leaves: int
    """Blocks inside them."""
    leaf_bytes: int
    pins: int
    duplicates: int
    """Blocks that were to be stored and were held already, since the store was made."""
    duplicate_bytes: int
    """Bytes that were thus not stored twice."""


class BlockStore:
    """Blocking calls, for worker threads; any thread, any number of processes.

    Under a limit, blocks that no pin reaches make room, the longest unused first: fetched ones, then blocks of our own
    that are older than the grace time of garbage. Pinned trees never do. A tree that is fetched to be kept is therefore
    pinned *before* its first block; one that is fetched to be read once is under `holding` meanwhile. Methods raise
    OSError if disk or index fail.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bytes_max: int = 0,
        free_bytes_min: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use `directory`, creating it. `bytes_max` bounds blocks in files of their own; 0 leaves it to the disk, of
        which `free_bytes_min` stay free for others.
        """
        self._directory = directory
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True)
        self._index = BlockIndex(directory / INDEX_NAME, self._found)
        self._notes_lock = threading.Lock()
        self._eviction_lock = threading.Lock()
        self._uses: dict[Cid, int] = {}
        self._held_for_now: Counter[Cid] = Counter()
        self._duplicates = self._duplicate_bytes = 0

    def close(self) -> None:
        """Close the index. Nothing that matters is lost without it."""
        self._write_notes()
        self._index.close()

    def has(self, cid: Cid) -> bool:
        """Whether the block is held."""
        return next(self._places(cid, is_use=False), None) is not None

    def size(self, cid: Cid) -> int | None:
        """Return the bytes of a held block, None if it is not held."""
        place = next(self._places(cid, is_use=False), None)
        return None if place is None else place.size

    def read(self, cid: Cid) -> bytes:
        """Return a block's bytes, unverified: the disk may have changed them. Raises BlockMissingError."""
        for place in self._places(cid):
            data = read_place(place)
            if data is not None:
                return data
        raise BlockMissingError(f"block {cid} is not held")

    def perhaps_held(self, cids: Iterable[Cid]) -> Iterator[Cid]:
        """Yield those of many blocks that the index knows, in their order; `read` says whether they are held.

        For a model of which nothing is held, a tenth of the time of looking for each.
        """
        remaining = iter(cids)
        while batch := list(islice(remaining, CIDS_PER_QUERY)):
            known = self._index.known(batch)
            yield from (cid for cid in batch if cid in known)

    def locate(self, cid: Cid) -> BlockPlace:
        """Return where a block's bytes are, to be sent from there, unverified. Raises BlockMissingError.

        The place holds until the file is changed or the block removed; keep it for seconds, not hours.
        """
        place = next(self._places(cid), None)
        if place is None:
            raise BlockMissingError(f"block {cid} is not held")
        return place

    def locate_run(self, cid: Cid, limit: int) -> list[tuple[Cid, BlockPlace]]:
        """Return where a block is, and up to `limit` blocks that follow it in the same file: who asks for one asks
        for them next. Raises BlockMissingError."""
        place = self.locate(cid)
        found = [(cid, place)]
        leaf = next((leaf for leaf in self._index.leaves(cid) if leaf.path == place.path), None)
        if leaf is not None:
            for following, offset, size in self._index.leaves_of(leaf.file, (leaf.offset, cid.to_bytes()), limit):
                found.append((following, BlockPlace(place.path, offset, size)))
        return found

    def put(self, codec: Codec, data: bytes) -> Cid:
        """Store a block of our own making and return its CID. Raises StoreFullError."""
        cid = Cid.of(codec, data)
        row = self._index.block(cid)
        if row is not None and self._is_whole(cid, row):
            self._note_duplicate(len(data))
            if not row.own:
                with self._index.writing() as rows:
                    rows.execute("UPDATE blocks SET own = 1 WHERE cid = ?", (cid.to_bytes(),))
        else:
            self._store(cid, data, own=True)
        return cid

    def put_verified(self, cid: Cid, data: bytes) -> None:
        """Store bytes that were checked against `cid`, unless they are held. Raises StoreFullError."""
        if self.has(cid):
            self._note_duplicate(len(data))
        else:
            self._store(cid, data, own=False)

    def remove(self, cid: Cid) -> None:
        """Forget a block that was found damaged, wherever it is; files kept in place are not touched."""
        with self._index.writing() as rows:
            rows.execute("DELETE FROM blocks WHERE cid = ?", (cid.to_bytes(),))
            rows.execute("DELETE FROM leaves WHERE cid = ?", (cid.to_bytes(),))
            rows.execute("DELETE FROM repeats WHERE cid = ?", (cid.to_bytes(),))
        self.unlink_unindexed([cid])

    def remove_copy(self, cid: Cid) -> None:
        """Remove a block's own file; it may be held in files in place as well."""
        with self._index.writing() as rows:
            rows.execute("DELETE FROM blocks WHERE cid = ?", (cid.to_bytes(),))
        self.unlink_unindexed([cid])

    def reference_file(self, path: Path, blocks: Iterable[tuple[Cid, int, int]]) -> None:
        """Hold blocks as (CID, offset, size) of the file at `path` (absolute), which stays where it is.

        The caller has checked the bytes. Durable when it returns; `blocks` may be a generator that reads the file as
        it goes. A file that is changed, moved or deleted later is no longer held. Raises ValueError for ranges outside
        of the file, FileChangedError, OSError, and whatever `blocks` raises; then nothing is held that was not before.
        """
        if not path.is_absolute():
            raise ValueError(f"{path} is not absolute")
        path = path.resolve(strict=True)
        with path.open("rb") as file:
            # Before any row says that its blocks are held. Its name need not be on disk: if lost, that is seen.
            os.fsync(file.fileno())
            stamp = Stamp.of(os.fstat(file.fileno()))
            number: int | None = None
            is_new = False
            try:
                remaining = iter(blocks)
                while (batch := list(islice(remaining, LEAVES_PER_COMMIT))) or number is None:
                    for cid, offset, size in batch:
                        if offset < 0 or size < 0 or size > BLOCK_BYTES_MAX or offset + size > stamp.size:
                            raise ValueError(f"block {cid} is not within {path}: {size} bytes at {offset}")
                    if Stamp.of(os.fstat(file.fileno())) != stamp or _stamp(path) != stamp:
                        raise FileChangedError(f"{path} was changed while it was read: start again when it is at rest")
                    if number is None:
                        number, is_new = self._index.add_file(path, stamp, self._now_ms(), batch)
                    else:
                        self._index.add_leaves(number, batch)
            except BaseException:
                if is_new and number is not None:
                    self._index.forget_file(number)
                raise

    def follow_file(self, path: Path) -> bool:
        """Hold at `path` what was held in the same file under an earlier name; return whether there was such a file.

        The same is a file of equal number, size and time: it was renamed, and its bytes need not be read again.
        """
        stamp = _stamp(path)
        return stamp is not None and self._index.rename_file(stamp, path.resolve())

    def forget_files(self, directory: Path) -> None:
        """Forget what is held in files below `directory` (or in the file of that path): it was deleted or moved."""
        self._index.forget_below(directory.resolve())

    def pin(self, root: Cid, name: str) -> None:
        """Keep `root` and all that is below it, now or later."""
        with self._index.writing() as rows:
            rows.execute("INSERT OR IGNORE INTO pins VALUES (?, ?, ?)", (root.to_bytes(), name, self._now_ms()))

    def unpin(self, root: Cid, name: str) -> None:
        """Remove a pin. Nothing happens if there is none."""
        with self._index.writing() as rows:
            rows.execute("DELETE FROM pins WHERE root = ? AND name = ?", (root.to_bytes(), name))

    @contextmanager
    def holding(self, root: Cid) -> Iterator[None]:
        """Let nothing below `root` make room meanwhile, for this process: else a fetch evicts what it fetched itself,
        and is told of no lack of room. Not on the disk, so that nothing is left pinned by who is killed.
        """
        with self._notes_lock:
            self._held_for_now[root] += 1
        try:
            yield
        finally:
            with self._notes_lock:
                self._held_for_now[root] -= 1
                if not self._held_for_now[root]:
                    del self._held_for_now[root]

    def discard(self, roots: Iterable[Cid], *, own: bool) -> int:
        """Remove now what is held below `roots`, however lately it was used; return the bytes. What a pin reaches
        stays, and without `own` what was made here; files kept in place are not touched.
        """
        with as_os_errors(self._index.path):
            return discard(self._index, self, roots, own=own)

    def pins(self) -> tuple[Pin, ...]:
        """Return all pins, the oldest first."""
        return tuple(Pin(root, name, since_ms // 1000) for root, name, since_ms in self._index.pins())

    def collect_garbage(self, *, grace_seconds: float = GARBAGE_GRACE_SECONDS) -> Garbage:
        """Remove what no pin reaches and nobody used within the grace time, and what killed writers left.

        Files kept in place are forgotten, not deleted.
        """
        self._write_notes()
        with as_os_errors(self._index.path):
            return sweep(self._index, self, before_ms=self._now_ms() - int(grace_seconds * 1000))

    def verify(self, *, remove: bool = False) -> Iterator[ScrubStep]:
        """Read and hash every block; yield a step for each. `remove` forgets what is damaged, to be fetched again."""
        return scrub(self._index, self, remove=remove)

    def usage(self) -> Usage:
        """Return what is held."""
        self._write_notes()
        totals = self._index.totals()
        return Usage(
            blocks=totals.blocks,
            block_bytes=totals.block_bytes,
            bytes_max=self._bytes_max,
            files=totals.files,
            leaves=totals.leaves,
            leaf_bytes=totals.leaf_bytes,
            pins=len(self._index.pins()),
            duplicates=totals.duplicates,
            duplicate_bytes=totals.duplicate_bytes,
        )

    @property
    def directory(self) -> Path:
        """Where the store is."""
        return self._directory

    def path_of(self, cid: Cid) -> Path:
        """Return the path of the file of its own that the block has, or would have."""
        text = str(cid)
        return self._directory / text[-SHARD_CHARACTERS:] / text

    def unlink_unindexed(self, cids: Iterable[Cid]) -> None:
        """Delete files of blocks that have no row (any more)."""
        # Under the writer's lock: a block that is being stored again gets its file and its row under it too.
        with self._index.writing() as rows:
            for cid in cids:
                if rows.execute("SELECT 1 FROM blocks WHERE cid = ?", (cid.to_bytes(),)).fetchone() is None:
                    self.path_of(cid).unlink(missing_ok=True)

    def _places(self, cid: Cid, *, is_use: bool = True) -> Iterator[BlockPlace]:
        """Yield where the block is held, as far as sizes and time stamps tell."""
        row = self._index.block(cid)
        if row is not None and self._is_whole(cid, row):
            if is_use:
                self._note_use(cid, row)
            yield BlockPlace(self.path_of(cid), 0, row.size)
        if cid.codec is not Codec.RAW:
            return
        for leaf in self._index.leaves(cid):
            if _stamp(leaf.path) == leaf.stamp:
                yield BlockPlace(leaf.path, leaf.offset, leaf.size)

    def _is_whole(self, cid: Cid, row: BlockRow) -> bool:
        stamp = _stamp(self.path_of(cid))
        return stamp is not None and stamp.size == row.size

    def _note_use(self, cid: Cid, row: BlockRow) -> None:
        now_ms = self._now_ms()
        if now_ms - row.used_ms > USE_SECONDS * 1000:
            with self._notes_lock:
                self._uses[cid] = now_ms
                is_full = len(self._uses) >= USES_MAX
            if is_full:
                self._write_notes()

    def _note_duplicate(self, size: int) -> None:
        with self._notes_lock:
            self._duplicates += 1
            self._duplicate_bytes += size

    def _write_notes(self) -> None:
        with self._notes_lock:
            uses, self._uses = self._uses, {}
            duplicates, duplicate_bytes = self._duplicates, self._duplicate_bytes
            self._duplicates = self._duplicate_bytes = 0
        if not uses and not duplicates:
            return
        with self._index.writing() as rows:
            rows.executemany(
                "UPDATE blocks SET used_ms = ? WHERE cid = ?",
                [(used_ms, cid.to_bytes()) for cid, used_ms in uses.items()],
            )
            rows.execute(
                "UPDATE totals SET duplicates = duplicates + ?, duplicate_bytes = duplicate_bytes + ?",
                (duplicates, duplicate_bytes),
            )

    def _store(self, cid: Cid, data: bytes, *, own: bool) -> None:
        if len(data) > BLOCK_BYTES_MAX:
            raise ValueError(f"block {cid} has {len(data)} bytes; at most {BLOCK_BYTES_MAX} are stored")
        self._make_room(len(data))
        path = self.path_of(cid)
        try:
            path.parent.mkdir(exist_ok=True)
            staged = _stage(path.parent, data)
            try:
                with self._index.writing() as rows:
                    staged.rename(path)
                    sync_directory(path.parent)
                    # REPLACE would not tell the trigger that keeps the totals.
                    rows.execute("DELETE FROM blocks WHERE cid = ?", (cid.to_bytes(),))
                    rows.execute(
                        "INSERT INTO blocks VALUES (?, ?, ?, ?)", (cid.to_bytes(), len(data), own, self._now_ms())
                    )
            finally:
                staged.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreFullError(
                errno.ENOSPC,
                f"the disk of {self._directory} is full: free some space (quern content gc); nothing was written",
            ) from error

    def _make_room(self, needed: int) -> None:
        if self._has_room(needed):
            return
        with self._eviction_lock:  # one thread makes room for all
            if not self._has_room(needed):
                self._evict(needed)

    def _has_room(self, needed: int) -> bool:
        is_within = not self._bytes_max or self._index.block_bytes() + needed <= self._bytes_max
        return is_within and self._free_bytes_lacking(needed) <= 0

    def _free_bytes_lacking(self, needed: int) -> int:
        if not self._free_bytes_min:
            return 0
        return self._free_bytes_min + needed - shutil.disk_usage(self._directory).free

    def _evict(self, needed: int) -> None:
        self._write_notes()
        down_to = held = self._index.block_bytes()
        lacking = self._free_bytes_lacking(needed)
        if lacking > 0:
            down_to = min(held - lacking, int(held * LOW_WATER))
        if self._bytes_max and held + needed > self._bytes_max:
            down_to = min(down_to, int(self._bytes_max * LOW_WATER), self._bytes_max - needed)
        own_before_ms = self._now_ms() - GARBAGE_GRACE_SECONDS * 1000
        with self._notes_lock:
            held_for_now = tuple(self._held_for_now)
        with as_os_errors(self._index.path):
            held = evict(self._index, self, held_for_now, down_to=max(0, down_to), own_before_ms=own_before_ms)
        if self._free_bytes_lacking(needed) > 0:
            raise StoreFullError(
                errno.ENOSPC,
                f"the disk of {self._directory} is full: less than {self._free_bytes_min} bytes would stay free, and "
                "nothing of the content store may go; free some space, or give the daemon a larger disk",
            )
        if self._bytes_max and held + needed > self._bytes_max:
            raise StoreFullError(
                f"the content store is full ({held} of {self._bytes_max} bytes are pinned, or our own and recent): "
                "raise [content] cache_bytes_max, or unpin what is not needed",
            )

    def _found(self) -> Iterator[tuple[Cid, int]]:
        """Yield the blocks of a directory that has no index yet."""
        for path in self._directory.glob("??/*"):
            try:
                cid = Cid.parse(path.name)
            except CidError:
                continue
            if path == self.path_of(cid):
                yield cid, path.stat().st_size

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path.stat())
    except OSError:  # gone, or no longer ours to read: either way it is not held
        return None


def _stage(directory: Path, data: bytes) -> Path:
    """Write a new file beside its destination and have it on disk."""
    descriptor, name = tempfile.mkstemp(prefix=STAGED_PREFIX, dir=directory)
    staged = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    return staged
