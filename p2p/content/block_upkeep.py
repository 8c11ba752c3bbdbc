"""Upkeep of a block store: what no pin reaches makes room or is swept, and every byte is hashed again on request.

What is reachable is noted in a temporary table on disk, so that a store of any size is walked in constant memory.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import structlog

from p2p.content.block_index import BlockIndex, FileRow, Stamp
from p2p.content.block_index_file import connect_private
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import DagPbError, decode_node
from p2p.content.places import BlockPlace, read_place

log = structlog.get_logger(__name__)

BATCH = 256
"""Blocks per commit and per page: bounds memory and how long others wait for the index."""
STAGED_SECONDS_MAX = 3600
"""A staged file older than this belongs to a writer that was killed; writing one block takes milliseconds."""
WALK_NODES_MAX = 4_000_000
"""Nodes of one walk. More cannot be held by a store of ours; the walk must end whatever is pinned."""


CHANGED = "its file was changed, moved or deleted"


class Blocks(Protocol):
    """What upkeep needs of a store."""

    @property
    def directory(self) -> Path:
        """Where the store is."""

    def read(self, cid: Cid) -> bytes:
        """Return a block's bytes; raises KeyError if it is not held."""

    def remove_copy(self, cid: Cid) -> None:
        """Remove a block's own file; it may be held in files in place as well."""

    def path_of(self, cid: Cid) -> Path:
        """Where a block has its own file."""

    def unlink_unindexed(self, cids: Iterable[Cid]) -> None:
        """Delete files of blocks that have no row."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a collection removed."""

    blocks: int
    block_bytes: int
    files: int
    """Kept in place and now forgotten; they are still on disk."""
    leftovers: int
    """Files that killed writers left."""
    missing: int
    """Nodes of pinned trees that are not held. What is below them is unknown, so blocks of our own were all kept."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A block whose bytes are not those that its CID names, or cannot be read."""

    cid: Cid
    place: BlockPlace
    reason: str


@dataclass(frozen=True, slots=True)
class ScrubStep:
    """Progress of a scrub, after one more block (or file that is no longer held)."""

    blocks: int
    """Checked so far."""
    checked_bytes: int
    total_bytes: int
    """To check in all, as known at the start."""
    damage: Damage | None
    """Of the block just checked."""


def evict(index: BlockIndex, store: Blocks, held_for_now: Iterable[Cid], *, down_to: int, own_before_ms: int) -> int:
    """Remove blocks that neither a pin nor `held_for_now` reaches, the longest unused first; return the bytes that are
    then held.

    Blocks of our own go last, and only those older than `own_before_ms`.
    """
    with closing(connect_private(index.path)) as private:
        if _mark(private, index, store):
            own_before_ms = 0  # what is below a missing node is unknown
        _reach(private, store, held_for_now)  # of these it is being fetched, and not our own
        while (excess := index.block_bytes() - down_to) > 0:
            rows = private.execute(
                "SELECT cid, size FROM blocks b WHERE (own = 0 OR used_ms < ?)"
                " AND NOT EXISTS (SELECT 1 FROM temp.reachable r WHERE r.cid = b.cid) ORDER BY own, used_ms LIMIT ?",
                (own_before_ms, BATCH),
            ).fetchall()
            chosen: list[bytes] = []
            for cid, size in rows:
                if excess <= 0:
                    break
                chosen.append(cid)
                excess -= size
            if not chosen:
                break
            _delete(index, store, chosen)
            log.info("unused content was evicted", blocks=len(chosen))
    return index.block_bytes()


def discard(index: BlockIndex, store: Blocks, roots: Iterable[Cid], *, own: bool) -> int:
    """Remove what is held below `roots` and what no pin reaches; return the bytes removed.

    Without `own`, blocks that were made here stay: somebody else named these roots.
    """
    removed = 0
    pending, met = list(roots), set[Cid]()
    if not pending:
        return removed  # without a walk through all that is pinned
    with closing(connect_private(index.path)) as private:
        _mark(private, index, store)
        while pending and len(met) < WALK_NODES_MAX:
            cid = pending.pop()
            if cid in met or _is_reachable(private, cid):
                continue  # what is below a pinned node is pinned too
            met.add(cid)
            if cid.codec is Codec.DAG_PB:
                with suppress(KeyError, DagPbError):  # then nothing is known to be below it
                    pending += [link.cid for link in decode_node(store.read(cid)).links]
        remaining = iter(met)
        while batch := list(islice(remaining, BATCH)):
            rows = [(cid, row) for cid in batch if (row := index.block(cid)) is not None and (own or not row.own)]
            _delete(index, store, [cid.to_bytes() for cid, _ in rows])
            removed += sum(row.size for _, row in rows)
    return removed


def sweep(index: BlockIndex, store: Blocks, *, before_ms: int) -> Garbage:
    """Remove blocks and forget files that no pin reaches and that are older than `before_ms`; delete leftovers."""
    blocks = block_bytes = files = 0
    with closing(connect_private(index.path)) as private:
        missing = _mark(private, index, store)
        while rows := private.execute(
            "SELECT cid, size FROM blocks b WHERE used_ms < ? AND own <= ?"
            " AND NOT EXISTS (SELECT 1 FROM temp.reachable r WHERE r.cid = b.cid) LIMIT ?",
            (before_ms, 0 if missing else 1, BATCH),
        ).fetchall():
            _delete(index, store, [cid for cid, _ in rows])
            blocks += len(rows)
            block_bytes += sum(size for _, size in rows)
        for file in index.files():
            unused = not missing and file.added_ms < before_ms and not _is_reached(private, file)
            if unused or _is_changed(file):
                index.forget_file(file.file)
                files += 1
    return Garbage(blocks, block_bytes, files, _delete_leftovers(index, store), missing)


def scrub(index: BlockIndex, store: Blocks, *, remove: bool) -> Iterator[ScrubStep]:
    """Hash every block that is held, in the order in which it lies on disk; yield a step for each."""
    totals = index.totals()
    total_bytes = totals.block_bytes + totals.leaf_bytes + totals.repeated_bytes
    checked_bytes = 0
    for blocks, (damage, size) in enumerate(_findings(index, store, remove=remove), 1):
        checked_bytes += size
        yield ScrubStep(blocks, checked_bytes, total_bytes, damage)


def _findings(index: BlockIndex, store: Blocks, *, remove: bool) -> Iterator[tuple[Damage | None, int]]:
    """Yield what was found of each place that a block is in, and its size. Only the damaged place is forgotten."""
    last = b""
    while page := index.blocks_after(last, BATCH):
        for cid, size in page:
            place = BlockPlace(store.path_of(cid), 0, size)
            reason = _fault(cid, place)
            if reason is None:
                yield None, size
            elif index.block(cid) is not None:  # else it was removed meanwhile, not damaged
                if remove:
                    store.remove_copy(cid)
                yield Damage(cid, place, reason), size
        last = page[-1][0].to_bytes()
    for file in index.files():
        changed = _is_changed(file)
        after = (-1, b"")
        while leaves := index.leaves_of(file.file, after, BATCH):
            for cid, start, size in leaves:
                place = BlockPlace(file.path, start, size)
                reason = None if changed else _fault(cid, place)
                changed = changed or (reason is not None and _is_changed(file))
                if reason is None and not changed:
                    yield None, size
                elif index.has_file(file.file):  # else it was forgotten meanwhile
                    if remove and not changed:
                        index.forget_leaf(file.file, cid)
                    yield Damage(cid, place, CHANGED if changed else reason or ""), size
            after = (leaves[-1][1], leaves[-1][0].to_bytes())
        if changed and remove:
            index.forget_file(file.file)


def _fault(cid: Cid, place: BlockPlace) -> str | None:
    data = read_place(place)
    if data is None:
        return "it cannot be read"
    return None if cid.matches(data) else "its bytes have another hash"


def _mark(private: sqlite3.Connection, index: BlockIndex, store: Blocks) -> int:
    """Note all that the pins reach, as far as it is held; return the number of nodes that are not.

    Raises OSError if that is more than is walked: as on a full disk, nothing can be removed then.
    """
    return _reach(private, store, [root for root, _, _ in index.pins()])


def _reach(private: sqlite3.Connection, store: Blocks, roots: Iterable[Cid]) -> int:
    """Note all that `roots` reach; as _mark() otherwise."""
    pending = list(roots)
    nodes = missing = 0
    private.execute("BEGIN")
    while pending:
        cid = pending.pop()
        added = private.execute("INSERT OR IGNORE INTO temp.reachable VALUES (?)", (cid.to_bytes(),)).rowcount
        if not added or cid.codec is not Codec.DAG_PB:
            continue
        nodes += 1
        if nodes > WALK_NODES_MAX:
            raise OSError(f"more than {WALK_NODES_MAX} nodes are pinned: unpin what is not needed")
        try:
            links = decode_node(store.read(cid)).links
        except (KeyError, DagPbError):
            missing += 1
            continue
        for link in links:
            if link.cid.codec is Codec.DAG_PB:
                pending.append(link.cid)
            else:
                private.execute("INSERT OR IGNORE INTO temp.reachable VALUES (?)", (link.cid.to_bytes(),))
    private.execute("COMMIT")
    return missing


def _delete(index: BlockIndex, store: Blocks, cids: list[bytes]) -> None:
    # Rows first, and committed: killed in between, files are left without rows, not rows without files.
    with index.writing() as rows:
        rows.executemany("DELETE FROM blocks WHERE cid = ?", [(cid,) for cid in cids])
    store.unlink_unindexed(Cid.from_bytes(cid) for cid in cids)


def _is_changed(file: FileRow) -> bool:
    try:
        return Stamp.of(file.path.stat()) != file.stamp
    except OSError:
        return True


def _is_reachable(private: sqlite3.Connection, cid: Cid) -> bool:
    row = private.execute("SELECT 1 FROM temp.reachable WHERE cid = ?", (cid.to_bytes(),)).fetchone()
    return row is not None


def _is_reached(private: sqlite3.Connection, file: FileRow) -> bool:
    query = "SELECT 1 FROM leaves l JOIN temp.reachable r ON r.cid = l.cid WHERE l.file = ? LIMIT 1"
    return private.execute(query, (file.file,)).fetchone() is not None


def _delete_leftovers(index: BlockIndex, store: Blocks) -> int:
    """Delete staged files that nobody writes any more, and blocks without a row."""
    leftovers = 0
    for path in store.directory.glob("??/.new-*"):
        try:
            if time.time() - path.stat().st_mtime > STAGED_SECONDS_MAX:
                path.unlink()
                leftovers += 1
        except FileNotFoundError:
            pass  # its writer was quicker
    for path in store.directory.glob("??/b*"):
        try:
            cid = Cid.parse(path.name)
        except ValueError:
            continue
        if index.block(cid) is None:
            store.unlink_unindexed([cid])
            leftovers += 1
    return leftovers
