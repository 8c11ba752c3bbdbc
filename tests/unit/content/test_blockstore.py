"""The block store keeps what it says it holds, through kills, full disks, damage, and other processes beside it."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from p2p.content import block_index_file, block_upkeep, blockstore
from p2p.content.blockstore import CIDS_PER_QUERY, BlockMissingError, BlockStore, FileChangedError, StoreFullError
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.unixfs import BLOCK_BYTES_MAX, DIRECTORY_DATA
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import Layout, import_path


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[BlockStore]:
    store = BlockStore(tmp_path / "store", clock=clock)
    yield store
    store.close()


def leaf(number: int, size: int = 1000) -> tuple[Cid, bytes]:
    data = number.to_bytes(8, "big") * (size // 8)
    return Cid.of(Codec.RAW, data), data


def directory_of(*cids: Cid) -> bytes:
    links = tuple(Link(cid, str(number).encode(), 0) for number, cid in enumerate(cids))
    return encode_node(Node(links, DIRECTORY_DATA))


def kept_file(directory: Path, count: int = 4, size: int = 1000) -> tuple[Path, list[tuple[Cid, int, int]]]:
    path = directory / "weights"
    leaves = [leaf(number, size) for number in range(count)]
    path.write_bytes(b"".join(data for _, data in leaves))
    return path, [(cid, number * size, size) for number, (cid, _) in enumerate(leaves)]


def test_a_block_is_held_after_it_was_put_and_after_a_restart(tmp_path: Path, store: BlockStore) -> None:
    cid = store.put(Codec.RAW, b"precious")
    other = Cid.of(Codec.RAW, b"fetched")
    store.put_verified(other, b"fetched")
    with closing(BlockStore(tmp_path / "store")) as again:
        for held, data in ((cid, b"precious"), (other, b"fetched")):
            assert again.has(held)
            assert again.size(held) == len(data)
            assert again.read(held) == data
            place = again.locate(held)
            assert place.path.read_bytes()[place.offset : place.offset + place.size] == data


def test_what_is_not_held_is_said_to_be_missing(store: BlockStore) -> None:
    cid = Cid.of(Codec.RAW, b"absent")
    assert not store.has(cid)
    assert store.size(cid) is None
    with pytest.raises(BlockMissingError):
        store.read(cid)
    with pytest.raises(BlockMissingError):
        store.locate(cid)


def test_of_many_blocks_those_that_are_held_anywhere_are_found_in_their_order(
    tmp_path: Path, store: BlockStore
) -> None:
    blocks = [number.to_bytes(2, "big") for number in range(2 * CIDS_PER_QUERY + 1)]
    cids = [Cid.of(Codec.RAW, block) for block in blocks]
    file = tmp_path / "file"
    file.write_bytes(blocks[-1])
    store.reference_file(file, [(cids[-1], 0, 2)])
    for number in (0, CIDS_PER_QUERY):
        store.put(Codec.RAW, blocks[number])
    assert list(store.perhaps_held(cids)) == [cids[0], cids[CIDS_PER_QUERY], cids[-1]]
    assert not list(store.perhaps_held([]))


def test_a_removed_block_is_gone_and_can_be_stored_again(store: BlockStore) -> None:
    cid = store.put(Codec.RAW, b"x")
    path = store.locate(cid).path
    store.remove(cid)
    assert not store.has(cid)
    assert not path.exists()
    store.put_verified(cid, b"x")
    assert store.read(cid) == b"x"


def test_blocks_of_a_store_without_an_index_are_taken_over(tmp_path: Path) -> None:
    cid, data = leaf(1)
    text = str(cid)
    (tmp_path / text[-2:]).mkdir()
    (tmp_path / text[-2:] / text).write_bytes(data)
    (tmp_path / text[-2:] / ".new-half").write_bytes(b"half")
    (tmp_path / text[-2:] / "note").write_text("no block")
    with closing(BlockStore(tmp_path)) as store:
        assert store.read(cid) == data
        assert store.usage().blocks == 1


@pytest.mark.parametrize("left", [b"", b"shorter"])
def test_a_block_file_that_was_cut_or_deleted_is_not_held(store: BlockStore, left: bytes) -> None:
    cid, data = leaf(1)
    store.put_verified(cid, data)
    path = store.locate(cid).path
    if left:
        path.write_bytes(left)
    else:
        path.unlink()
    assert not store.has(cid)
    store.put_verified(cid, data)
    assert store.read(cid) == data
    assert store.usage().block_bytes == len(data)


def test_a_block_beyond_the_limit_of_ipfs_is_refused(store: BlockStore) -> None:
    with pytest.raises(ValueError, match="at most"):
        store.put(Codec.RAW, bytes(BLOCK_BYTES_MAX + 1))


def test_equal_blocks_are_stored_once_and_counted(store: BlockStore) -> None:
    cid, data = leaf(1)
    for _ in range(3):
        store.put(Codec.RAW, data)
    store.put_verified(cid, data)
    usage = store.usage()
    assert (usage.blocks, usage.block_bytes) == (1, 1000)
    assert (usage.duplicates, usage.duplicate_bytes) == (3, 3000)


# Files kept in place


def test_a_file_kept_in_place_is_held_without_a_copy(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, iter(blocks))
    for number, (cid, offset, size) in enumerate(blocks):
        assert store.read(cid) == leaf(number)[1]
        assert store.locate(cid) == blockstore.BlockPlace(path, offset, size)
    store.put_verified(blocks[0][0], leaf(0)[1])
    usage = store.usage()
    assert (usage.files, usage.leaves, usage.leaf_bytes, usage.block_bytes) == (1, 4, 4000, 0)
    with closing(BlockStore(tmp_path / "store")) as again:
        assert again.has(blocks[3][0])


@pytest.mark.parametrize("change", ["append", "rewrite", "touch", "replace", "delete"])
def test_a_file_that_is_changed_is_no_longer_held(tmp_path: Path, store: BlockStore, change: str) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    match change:
        case "append":
            with path.open("ab") as file:
                file.write(b"x")
        case "rewrite":
            path.write_bytes(bytes(4000))
            os.utime(path, ns=(1, 1))
        case "touch":
            os.utime(path, ns=(1, 1))
        case "replace":
            status = path.stat()
            (tmp_path / "new").write_bytes(bytes(4000))
            (tmp_path / "new").rename(path)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "delete":
            path.unlink()
    assert not any(store.has(cid) for cid, _, _ in blocks)
    with pytest.raises(BlockMissingError):
        store.read(blocks[0][0])


def test_a_block_in_two_files_is_held_until_both_are_gone(tmp_path: Path, store: BlockStore) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, blocks = kept_file(tmp_path / "a")
    two, _ = kept_file(tmp_path / "b")
    store.reference_file(one, blocks)
    store.reference_file(two, blocks)
    one.unlink()
    assert store.locate(blocks[0][0]).path == two
    store.forget_files(tmp_path / "b")
    assert not store.has(blocks[0][0])
    assert two.exists()


def test_only_files_below_a_forgotten_directory_are_forgotten(tmp_path: Path, store: BlockStore) -> None:
    files = {}
    for number, name in enumerate(("model", "model-2", "model/sub", "mode")):
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / "f"
        cid, data = leaf(number)
        path.write_bytes(data)
        store.reference_file(path, [(cid, 0, len(data))])
        files[name] = cid
    store.forget_files(tmp_path / "model")
    assert {name for name, cid in files.items() if store.has(cid)} == {"model-2", "mode"}


def test_ranges_outside_of_a_file_are_refused_and_nothing_of_it_is_held(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    for bad in ((leaf(9)[0], 3500, 1000), (leaf(9)[0], -1, 10), (leaf(9)[0], 0, BLOCK_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="not within"):
            store.reference_file(path, [*blocks, bad])
    with pytest.raises(ValueError, match="absolute"):
        store.reference_file(Path("weights"), blocks)
    assert store.usage().files == 0


def test_a_file_that_changes_while_it_is_taken_in_is_not_held(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)

    def reading() -> Iterator[tuple[Cid, int, int]]:
        yield from blocks
        with path.open("ab") as file:
            file.write(b"x")

    with pytest.raises(FileChangedError, match="changed"):
        store.reference_file(path, reading())
    assert not store.has(blocks[0][0])
    assert store.usage().files == 0


def test_a_failed_second_reading_leaves_a_file_held(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)

    def failing() -> Iterator[tuple[Cid, int, int]]:
        yield blocks[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        store.reference_file(path, failing())
    assert all(store.has(cid) for cid, _, _ in blocks)


def test_removing_a_damaged_leaf_forgets_it_and_leaves_the_file(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    store.remove(blocks[1][0])
    assert [store.has(cid) for cid, _, _ in blocks] == [True, False, True, True]
    assert path.stat().st_size == 4000


# Limits


def test_a_full_store_evicts_the_longest_unused_fetched_blocks(tmp_path: Path, clock: Clock) -> None:
    with closing(BlockStore(tmp_path, bytes_max=10_000, clock=clock)) as store:
        for number in range(10):
            clock.now += 100
            store.put_verified(*leaf(number))
        clock.now += 100
        store.read(leaf(0)[0])
        clock.now += 100
        store.put_verified(*leaf(10))
        assert store.has(leaf(0)[0])
        assert store.has(leaf(10)[0])
        assert not store.has(leaf(1)[0])
        assert store.usage().block_bytes <= 10_000


def test_pinned_trees_and_own_blocks_are_never_evicted(tmp_path: Path, clock: Clock) -> None:
    with closing(BlockStore(tmp_path, bytes_max=8_000, clock=clock)) as store:
        pinned = [leaf(number) for number in range(3)]
        inner = directory_of(*(cid for cid, _ in pinned))
        root = directory_of(Cid.of(Codec.DAG_PB, inner))
        store.pin(Cid.of(Codec.DAG_PB, root), "model")
        for codec, data in ((Codec.DAG_PB, root), (Codec.DAG_PB, inner)):
            store.put_verified(Cid.of(codec, data), data)
        for cid, data in pinned:
            store.put_verified(cid, data)
        own = store.put(Codec.RAW, leaf(50)[1])
        for number in range(100, 120):
            clock.now += 100
            store.put_verified(*leaf(number))
        assert all(store.has(cid) for cid, _ in pinned)
        assert store.has(own)
        assert store.has(leaf(119)[0])
        assert store.usage().block_bytes <= 8_000
        with pytest.raises(StoreFullError, match="cache_bytes_max"):
            store.put_verified(*leaf(200, 6000))
        assert not store.has(leaf(200, 6000)[0])


def test_old_blocks_of_our_own_make_room_last(tmp_path: Path, clock: Clock) -> None:
    with closing(BlockStore(tmp_path, bytes_max=4_000, clock=clock)) as store:
        old = store.put(Codec.RAW, leaf(1)[1])
        clock.now += 8 * 86400
        recent = store.put(Codec.RAW, leaf(2)[1])
        for number in range(10, 13):
            store.put_verified(*leaf(number))
        assert store.has(old)
        store.pin(leaf(12)[0], "kept")
        store.put(Codec.RAW, leaf(3, 1600)[1])
        assert not store.has(old)
        assert store.has(recent)
        assert store.has(leaf(12)[0])


def test_a_part_of_the_disk_stays_free_for_others(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(BlockStore(tmp_path / "store", free_bytes_min=5_000, clock=clock)) as store:

        def usage(_path: Path) -> tuple[int, int, int]:
            return shutil._ntuple_diskusage(100_000, 0, 9_000 - store.usage().block_bytes)  # type: ignore[attr-defined,no-any-return]  # its type has no public name

        monkeypatch.setattr(shutil, "disk_usage", usage)
        pinned = leaf(1)
        store.pin(pinned[0], "kept")
        store.put_verified(*pinned)
        for number in range(10, 20):
            clock.now += 100
            store.put_verified(*leaf(number))
            assert shutil.disk_usage(tmp_path).free >= 5_000
        assert store.has(pinned[0])
        assert store.has(leaf(19)[0])
        with pytest.raises(StoreFullError, match="larger disk") as full:
            store.put_verified(*leaf(30, 4_000))
        assert full.value.errno == errno.ENOSPC
        assert not store.has(leaf(30, 4_000)[0])


def test_what_is_discarded_goes_at_once_but_not_what_a_pin_reaches_or_was_made_here(store: BlockStore) -> None:
    shared, alone = leaf(1), leaf(2)
    for cid, data in (shared, alone):
        store.put_verified(cid, data)
    own = store.put(Codec.RAW, leaf(3)[1])
    over = store.put(Codec.DAG_PB, directory_of(shared[0], alone[0], own, leaf(4)[0]))
    other = store.put(Codec.DAG_PB, directory_of(shared[0]))
    store.pin(other, "kept")
    assert store.discard([over, other], own=False) == 1000
    assert [store.has(cid) for cid in (over, other, shared[0], alone[0], own)] == [True, True, True, False, True]
    assert not store.path_of(alone[0]).exists()
    assert store.discard([over], own=True) > 1000
    assert [store.has(cid) for cid in (over, other, shared[0], own)] == [False, True, True, False]
    assert store.discard([over], own=True) == 0


def test_more_pins_than_are_walked_are_a_disk_that_cannot_be_tidied_and_concern_who_discards_only(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = [store.put(Codec.DAG_PB, directory_of(leaf(number)[0])) for number in range(3)]
    for root in over[1:]:
        store.pin(root, "kept")
    monkeypatch.setattr(block_upkeep, "WALK_NODES_MAX", 1)
    assert store.discard([], own=True) == 0
    with pytest.raises(OSError, match="unpin"):
        store.discard(over[:1], own=True)
    assert store.has(over[0])


def test_a_full_disk_is_a_clear_error_and_nothing_half_written(
    store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    cid, data = leaf(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreFullError, match="disk") as full:
            store.put_verified(cid, data)
    assert full.value.errno == errno.ENOSPC
    assert not store.has(cid)
    assert [path for path in store.directory.glob("??/*") if path.is_file()] == []
    store.put_verified(cid, data)


def test_an_index_that_another_process_keeps_locked_is_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_index_file, "BUSY_SECONDS_MAX", 0.01)
    with closing(BlockStore(tmp_path)) as store, closing(sqlite3.connect(tmp_path / blockstore.INDEX_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="locked") as refused:
            store.pin(leaf(1)[0], "kept")
        assert refused.value.errno == errno.EIO
        other.execute("ROLLBACK")
        store.pin(leaf(1)[0], "kept")
        assert [pin.name for pin in store.pins()] == ["kept"]


def test_an_index_that_cannot_grow_is_a_full_disk_too(store: BlockStore) -> None:
    with store._index.writing() as rows:
        (pages,) = rows.execute("PRAGMA page_count").fetchone()
    store._index._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError, match="disk"):
        for number in range(10_000):
            store.put_verified(*leaf(number, 8))
    store._index._writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.put_verified(*leaf(10_001))


# Garbage


def test_garbage_is_what_no_pin_reaches_and_nobody_used_lately(tmp_path: Path, store: BlockStore, clock: Clock) -> None:
    kept, dropped = store.put(Codec.RAW, b"kept"), store.put(Codec.RAW, b"dropped")
    root = store.put(Codec.DAG_PB, directory_of(kept))
    store.pin(root, "a")
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    clock.now += 3600
    recent = store.put(Codec.RAW, b"recent")
    garbage = store.collect_garbage(grace_seconds=1800)
    assert (garbage.blocks, garbage.block_bytes, garbage.files, garbage.missing) == (1, 7, 1, 0)
    assert [store.has(cid) for cid in (root, kept, dropped, recent, blocks[0][0])] == [True, True, False, True, False]
    assert path.exists()
    assert not store.path_of(dropped).exists()
    store.unpin(root, "a")
    clock.now += 3600
    assert store.collect_garbage(grace_seconds=1800).blocks == 3
    assert store.usage().block_bytes == 0


def test_a_file_of_a_pinned_tree_stays_held(tmp_path: Path, store: BlockStore, clock: Clock) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    store.pin(store.put(Codec.DAG_PB, directory_of(*(cid for cid, _, _ in blocks))), "model")
    clock.now += 10 * 86400
    assert store.collect_garbage().files == 0
    path.unlink()
    assert store.collect_garbage().files == 1


def test_own_blocks_below_a_missing_node_are_not_garbage(store: BlockStore, clock: Clock) -> None:
    own = store.put(Codec.RAW, b"the only copy")
    inner = store.put(Codec.DAG_PB, directory_of(own))
    root = store.put(Codec.DAG_PB, directory_of(inner))
    store.pin(root, "model")
    store.remove(inner)
    clock.now += 10 * 86400
    garbage = store.collect_garbage()
    assert (garbage.blocks, garbage.missing) == (0, 1)
    assert store.has(own)


def test_every_pin_of_a_root_keeps_it(store: BlockStore, clock: Clock) -> None:
    cid = store.put(Codec.RAW, b"x")
    store.pin(cid, "one")
    store.pin(cid, "two")
    store.pin(cid, "two")
    store.unpin(cid, "one")
    store.unpin(cid, "three")
    assert [(pin.root, pin.name) for pin in store.pins()] == [(cid, "two")]
    clock.now += 10 * 86400
    assert store.collect_garbage().blocks == 0


def test_what_a_killed_writer_left_is_swept(store: BlockStore) -> None:
    cid, data = leaf(1)
    orphan = store.path_of(cid)
    orphan.parent.mkdir()
    orphan.write_bytes(data)
    old, new = orphan.with_name(".new-old"), orphan.with_name(".new-new")
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.collect_garbage().leftovers == 2
    assert not orphan.exists()
    assert not old.exists()
    assert new.exists()


# Integrity


def test_a_scrub_finds_every_kind_of_damage_and_forgets_it(tmp_path: Path, store: BlockStore) -> None:
    good = store.put(Codec.RAW, b"good block")
    rotten = store.put(Codec.RAW, b"rotting block")
    store.path_of(rotten).write_bytes(b"rotten  block")
    gone = store.put(Codec.RAW, b"gone")
    store.path_of(gone).unlink()
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(2500)
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a disk changes it, without a trace
    bad = {rotten, gone, blocks[2][0]}
    steps = list(store.verify())
    assert {step.damage.cid for step in steps if step.damage is not None} == bad
    assert steps[-1].blocks == 7
    assert steps[-1].checked_bytes == steps[-1].total_bytes
    assert store.has(blocks[2][0])
    list(store.verify(remove=True))
    assert not any(store.has(cid) for cid in bad)
    assert store.has(good)
    assert [step for step in store.verify() if step.damage is not None] == []


def test_a_repair_leaves_the_good_copies_of_a_damaged_block(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    own = store.put(Codec.RAW, leaf(0)[1])
    kept = store.put(Codec.RAW, leaf(1)[1])
    store.reference_file(path, blocks)
    store.path_of(own).write_bytes(bytes(1000)[:-1] + b"!")
    list(store.verify(remove=True))
    assert store.read(own) == leaf(0)[1]
    os.utime(path, ns=(1, 1))
    list(store.verify(remove=True))
    assert not store.has(own)
    assert store.read(kept) == leaf(1)[1]
    assert store.usage().files == 0


def test_a_scrub_reads_every_place_of_a_block_that_a_file_repeats(tmp_path: Path, store: BlockStore) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(5000))
    cid = Cid.of(Codec.RAW, bytes(1000))
    store.reference_file(path, [(cid, offset, 1000) for offset in range(0, 5000, 1000)])
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(3333)
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    steps = list(store.verify())
    assert [step.damage.place.offset for step in steps if step.damage is not None] == [3000]
    assert (steps[-1].blocks, steps[-1].checked_bytes, steps[-1].total_bytes) == (5, 5000, 5000)
    store.remove(cid)
    assert list(store.verify()) == []


def test_a_file_that_was_cut_in_two_ways_is_scrubbed_whole(tmp_path: Path, store: BlockStore) -> None:
    path = tmp_path / "file"
    data = os.urandom(3000)
    path.write_bytes(data)
    cuts = [(offset, size) for size in (1, 2, 3) for offset in range(0, 3000, size)]
    for size in (1, 2, 3):
        store.reference_file(
            path, [(Cid.of(Codec.RAW, data[at : at + size]), at, size) for at, length in cuts if length == size]
        )
    assert list(store.verify())[-1].blocks == len(cuts)


def test_a_changed_file_is_damage_too(tmp_path: Path, store: BlockStore) -> None:
    path, blocks = kept_file(tmp_path)
    store.reference_file(path, blocks)
    os.utime(path, ns=(1, 1))
    damages = [step.damage for step in store.verify(remove=True)]
    assert all(damage is not None and "changed" in damage.reason for damage in damages)
    assert len(damages) == 4


def test_a_damaged_index_is_made_anew_from_the_blocks(tmp_path: Path) -> None:
    with closing(BlockStore(tmp_path)) as store:
        cid = store.put(Codec.RAW, b"survivor")
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    with closing(BlockStore(tmp_path)) as store:
        assert store.read(cid) == b"survivor"
    assert list(tmp_path.glob("index.sqlite.damaged-*"))


def test_an_index_damaged_in_use_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with closing(BlockStore(tmp_path)) as store:
        for number in range(300):
            store.put(Codec.RAW, str(number).encode())
    index = tmp_path / "index.sqlite"
    data = bytearray(index.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    index.write_bytes(data)
    with pytest.raises(OSError, match="damaged"), closing(BlockStore(tmp_path)) as store:
        for number in range(300):
            store.read(Cid.of(Codec.RAW, str(number).encode()))


def test_a_store_that_may_not_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(OSError, match=r"index\.sqlite"):
        BlockStore(tmp_path)


# Several at once


def test_threads_may_store_and_read_at_once(store: BlockStore) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(40):
                cid, data = leaf(number * 3 + seed % 3)
                store.put_verified(cid, data)
                assert store.read(cid) == data
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.usage().blocks == 120
    assert store.usage().block_bytes == 120_000


def test_processes_may_share_a_store_from_its_first_moment(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom p2p.content.blockstore import BlockStore\n"
        "from p2p.content.cid import Codec\nstore = BlockStore(Path(sys.argv[1]))\n"
        "for number in range(60): store.put(Codec.RAW, str(number).encode())\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    with closing(BlockStore(tmp_path)) as store:
        assert store.usage().blocks == 60
        assert all(step.damage is None for step in store.verify())


KILLED_IMPORT = """
import sys
from pathlib import Path
from p2p.content.blockstore import BlockStore
from p2p.content.unixfs_import import Layout, import_path
store = BlockStore(Path(sys.argv[2]))
sys.stdout.write("begun\\n")
sys.stdout.flush()
root = import_path(Path(sys.argv[1]), store.put, Layout(64, 256), reference=store.reference_file).cid
sys.stdout.write(f"{root}\\n")
"""


def test_an_import_in_place_that_is_killed_leaves_nothing_wrong_and_can_be_repeated(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(400_000))
    expected = str(import_path(source, Cid.of, Layout(64, 256)).cid)
    command = [sys.executable, "-c", KILLED_IMPORT, source, tmp_path / "store"]
    for life in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.05 * life)
            child.kill()
        with closing(BlockStore(tmp_path / "store")) as store:
            assert all(step.damage is None for step in store.verify())
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().split()[-1] == expected
    with closing(BlockStore(tmp_path / "store")) as store:
        export(Cid.parse(expected), store.read, tmp_path / "copy", limit_bytes=10**7)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


KILLED_WRITER = """
import sys
from pathlib import Path
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
store = BlockStore(Path(sys.argv[1]), bytes_max=60_000)
number = int(sys.argv[2])
while True:
    number += 1
    data = number.to_bytes(8, "big") * 125
    cid = Cid.of(Codec.RAW, data)
    store.put_verified(cid, data)
    sys.stdout.write(f"{cid}\\n")
    sys.stdout.flush()
    if number % 7 == 0:
        store.remove(cid)
"""


def test_a_kill_at_any_moment_leaves_no_row_without_its_bytes(tmp_path: Path) -> None:
    for life in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(tmp_path), str(life * 1_000_000)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        for _ in range(20 + life * 13):  # killed at another moment each time; eviction and removal under way
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        child.stdout.close()
        with closing(BlockStore(tmp_path)) as store:
            steps = list(store.verify())
            assert [step.damage for step in steps if step.damage is not None] == []
            assert steps
            assert store.usage().block_bytes == sum(path.stat().st_size for path in indexed_files(store))
            store.collect_garbage()
            assert set(tmp_path.glob("??/b*")) == set(indexed_files(store))


def indexed_files(store: BlockStore) -> list[Path]:
    return [store.path_of(cid) for cid, _ in store._index.blocks_after(b"", 10_000)]
