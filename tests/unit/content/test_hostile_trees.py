"""Trees made to harm whoever reads them: refused with a reason, in bounded time and memory, with nothing written."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.hamt import build_shards, positions_of
from p2p.content.protobuf import encode_bytes, encode_integer
from p2p.content.tree import PathError, TreeReader
from p2p.content.unixfs import DIRECTORY_DATA, Kind, UnixFsError, encode_file_data, encode_leaf_data, encode_shard_data
from p2p.content.unixfs_export import CorruptBlockError, export, file_chunks
from tests.unit.content.blocks import MemoryBlocks

LIMIT = 10_000_000
EXBIBYTE = 2**60


@pytest.fixture
def blocks() -> MemoryBlocks:
    return MemoryBlocks()


def directory(blocks: MemoryBlocks, *entries: tuple[bytes, Cid]) -> Cid:
    links = tuple(Link(cid, name, 0) for name, cid in entries)
    return blocks.put(Codec.DAG_PB, encode_node(Node(links, DIRECTORY_DATA)))


def file(blocks: MemoryBlocks, *parts: tuple[Cid, int]) -> Cid:
    links = tuple(Link(cid, b"", size) for cid, size in parts)
    return blocks.put(Codec.DAG_PB, encode_node(Node(links, encode_file_data(tuple(size for _, size in parts)))))


def refused(blocks: MemoryBlocks, root: Cid, directory: Path, match: str) -> None:
    """Nothing is at the destination and nothing beside it after the refusal."""
    with pytest.raises(UnixFsError, match=match):
        export(root, blocks.read, directory / "out", limit_bytes=LIMIT)
    assert list(directory.iterdir()) == []


# Sizes


def test_a_node_that_claims_an_exbibyte(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    refused(blocks, file(blocks, (leaf, EXBIBYTE)), tmp_path, "limit")


def test_a_part_that_brings_other_bytes_than_promised(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"four")
    for promised in (3, 5):
        refused(blocks, file(blocks, (leaf, promised)), tmp_path, "promised")
    inner = file(blocks, (leaf, 4), (leaf, 4))
    refused(blocks, file(blocks, (inner, 4)), tmp_path, "promised")


def test_parts_that_do_not_add_up(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"four")
    data = encode_integer(1, Kind.FILE) + encode_integer(3, 9) + encode_integer(4, 4) + encode_integer(4, 4)
    links = (Link(leaf, b"", 4), Link(leaf, b"", 4))
    refused(blocks, blocks.put(Codec.DAG_PB, encode_node(Node(links, data))), tmp_path, "contradict")
    refused(blocks, blocks.put(Codec.DAG_PB, encode_node(Node(links[:1], data))), tmp_path, "contradict")


def test_a_leaf_that_lies_about_its_size(blocks: MemoryBlocks, tmp_path: Path) -> None:
    data = encode_integer(1, Kind.FILE) + encode_bytes(2, b"four") + encode_integer(3, 5)
    refused(blocks, blocks.put(Codec.DAG_PB, encode_node(Node((), data))), tmp_path, "contradict")


def test_parts_without_bytes_that_would_never_end(blocks: MemoryBlocks, tmp_path: Path) -> None:
    empty = blocks.put(Codec.RAW, b"")
    refused(blocks, file(blocks, (empty, 0), (empty, 0)), tmp_path, "empty")


def test_a_small_tree_that_unfolds_into_a_huge_file(blocks: MemoryBlocks, tmp_path: Path) -> None:
    cid, size = blocks.put(Codec.RAW, bytes(1000)), 1000
    for _ in range(4):
        cid, size = file(blocks, *[(cid, size)] * 1000), size * 1000
    refused(blocks, cid, tmp_path, "limit")


def test_a_file_larger_than_the_disk_is_refused_before_it_is_begun(
    blocks: MemoryBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    leaf = blocks.put(Codec.RAW, bytes(1000))
    root = file(blocks, *[(leaf, 1000)] * 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(99_999))
    with pytest.raises(OSError, match="no room for 100000 bytes") as caught:
        export(root, blocks.read, tmp_path / "out", limit_bytes=LIMIT)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    blocks: MemoryBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = directory(blocks, (b"a", blocks.put(Codec.RAW, b"a")), (b"b", blocks.put(Codec.RAW, b"b")))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="space"):
        export(root, blocks.read, tmp_path / "out", limit_bytes=LIMIT)
    assert list(tmp_path.iterdir()) == []


# Depth and number


def test_a_file_of_thousands_of_rows(blocks: MemoryBlocks, tmp_path: Path) -> None:
    cid = blocks.put(Codec.RAW, b"x")
    for _ in range(20_000):  # a million would not be read either, and take long to make
        cid = file(blocks, (cid, 1))
    refused(blocks, cid, tmp_path, "rows")
    with pytest.raises(UnixFsError, match="rows"):
        list(file_chunks(cid, blocks.read, limit_bytes=LIMIT))


def test_directories_thousands_deep(blocks: MemoryBlocks, tmp_path: Path) -> None:
    cid = blocks.put(Codec.RAW, b"x")
    for _ in range(20_000):
        cid = directory(blocks, (b"d", cid))
    refused(blocks, cid, tmp_path, "deep")
    with pytest.raises(PathError, match="more than"):
        TreeReader(blocks.read, 0).resolve(cid, ("d",) * 1_000_000)


def test_one_subtree_under_many_names(blocks: MemoryBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.content.unixfs_export.EXPORT_ENTRIES_MAX", 2000)
    cid = blocks.put(Codec.RAW, b"")
    for _ in range(5):
        cid = directory(blocks, *((str(number).encode(), cid) for number in range(100)))
    refused(blocks, cid, tmp_path, "more than 2000")


# Names


@pytest.mark.parametrize(
    "name",
    [b"..", b".", b"", b"../up", b"/etc/passwd", b"a/b", b"nul\0", b"\xff\xfe", b"x" * 256],
)
def test_names_that_could_leave_the_directory(blocks: MemoryBlocks, tmp_path: Path, name: bytes) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    refused(blocks, directory(blocks, (b"fine", leaf), (name, leaf)), tmp_path, "name")


@pytest.mark.parametrize("name", [b"..", b"../up", b"/etc/passwd", b"a/b", b"nul\0", b"\xff\xfe", b"x" * 256])
def test_such_names_in_a_sharded_directory(blocks: MemoryBlocks, tmp_path: Path, name: bytes) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    root = build_shards([Link(leaf, b"fine", 1), Link(leaf, name, 1)], blocks.put).cid
    refused(blocks, root, tmp_path, "name")


def test_one_name_twice(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    refused(blocks, directory(blocks, (b"a", leaf), (b"a", leaf)), tmp_path, "twice")


def test_a_symbolic_link(blocks: MemoryBlocks, tmp_path: Path) -> None:
    data = encode_integer(1, Kind.SYMBOLIC_LINK) + encode_bytes(2, b"/etc/passwd")
    link = blocks.put(Codec.DAG_PB, encode_node(Node((), data)))
    refused(blocks, directory(blocks, (b"link", link)), tmp_path, "symbolic link")


# Shards


def shard(blocks: MemoryBlocks, *links: tuple[str, Cid], positions: list[int] | None = None, bits: int = 8) -> Cid:
    if positions is None:
        positions = [int(label[:2], 16) for label, _ in links]
    node = Node(tuple(Link(cid, label.encode(), 0) for label, cid in links), encode_shard_data(positions, bits))
    return blocks.put(Codec.DAG_PB, encode_node(node))


def place(name: str, level: int = 0) -> str:
    return f"{positions_of(name.encode(), 8, level + 1)[level]:02X}"


def test_a_name_in_a_shard_where_it_does_not_belong(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    assert place("model") != "00"
    refused(blocks, shard(blocks, ("00model", leaf)), tmp_path, "does not belong")
    below = shard(blocks, (place("model", 1) + "model", leaf))
    refused(blocks, shard(blocks, ("00", below)), tmp_path, "does not belong")


def test_a_bit_field_that_contradicts_the_links(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    refused(blocks, shard(blocks, (place("a") + "a", leaf), positions=[1, 2]), tmp_path, "bit field")


def test_a_position_twice(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    label = place("a") + "a"
    refused(blocks, shard(blocks, (label, leaf), (label, leaf), positions=[int(label[:2], 16)]), tmp_path, "twice")


@pytest.mark.parametrize("label", ["", "1", "zz", "0x", " 1a", "+1a", "1fa".lower(), "１１a"])
def test_labels_that_are_no_positions(blocks: MemoryBlocks, tmp_path: Path, label: str) -> None:
    leaf = blocks.put(Codec.RAW, b"x")
    refused(blocks, shard(blocks, (label, leaf), positions=[0]), tmp_path, "named")


def test_a_shard_without_end(blocks: MemoryBlocks, tmp_path: Path) -> None:
    name = "model"
    cid = shard(blocks, ("00" + name, blocks.put(Codec.RAW, b"x")))
    for _ in range(1000):
        cid = shard(blocks, (place(name), cid))
    refused(blocks, cid, tmp_path, "deeper")


def test_something_else_in_the_place_of_a_shard(blocks: MemoryBlocks, tmp_path: Path) -> None:
    for other in (blocks.put(Codec.RAW, b"x"), directory(blocks, (b"a", blocks.put(Codec.RAW, b"x")))):
        refused(blocks, shard(blocks, ("00", other)), tmp_path, "no shard")


def test_shards_of_different_widths(blocks: MemoryBlocks, tmp_path: Path) -> None:
    below = shard(blocks, positions=[], bits=4)
    refused(blocks, shard(blocks, ("00", below)), tmp_path, "widths")


@pytest.mark.parametrize(
    ("hash_type", "fanout"), [(0x12, 256), (0, 256), (0x22, 0), (0x22, 255), (0x22, 4), (0x22, 2048), (0x22, 2**62)]
)
def test_shards_by_other_rules(blocks: MemoryBlocks, tmp_path: Path, hash_type: int, fanout: int) -> None:
    data = encode_integer(1, Kind.SHARDED_DIRECTORY) + encode_bytes(2, b"\0")
    data += encode_integer(5, hash_type) + encode_integer(6, fanout)
    refused(blocks, blocks.put(Codec.DAG_PB, encode_node(Node((), data))), tmp_path, "shard")


# Damage, and what there is no way around


def test_a_damaged_block_is_named_and_nothing_is_left(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"precious")
    root = directory(blocks, (b"a", leaf), (b"b", blocks.put(Codec.RAW, b"other")))
    blocks.blocks[leaf] = b"rotten  "
    with pytest.raises(CorruptBlockError) as caught:
        export(root, blocks.read, tmp_path / "out", limit_bytes=LIMIT)
    assert caught.value.cid == leaf
    assert list(tmp_path.iterdir()) == []


def test_truncated_and_bit_flipped_nodes_are_refused_or_harmless(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.RAW, b"four")
    links = [Link(leaf, str(number).encode(), 4) for number in range(5)]
    sharded = build_shards(links, blocks.put).cid
    for root in (directory(blocks, (b"a", leaf)), file(blocks, (leaf, 4), (leaf, 4)), sharded):
        block = blocks.read(root)
        mutations: list[bytes] = [block[:length] for length in range(len(block))]
        mutations += [
            block[:index] + bytes((block[index] ^ 1 << index % 8,)) + block[index + 1 :] for index in range(len(block))
        ]
        for number, mutated in enumerate(mutations):
            cid = blocks.put(Codec.DAG_PB, mutated)
            destination = tmp_path / str(number)
            try:
                export(cid, blocks.read, destination, limit_bytes=LIMIT)
            except (UnixFsError, KeyError):
                assert not destination.exists()
            else:
                remove = shutil.rmtree if destination.is_dir() else Path.unlink
                remove(destination)
        assert list(tmp_path.iterdir()) == []


def test_a_destination_that_exists_is_not_touched(blocks: MemoryBlocks, tmp_path: Path) -> None:
    root = blocks.put(Codec.RAW, b"new")
    makers: dict[str, Callable[[Path], object]] = {
        "file": lambda path: path.write_text("old"),
        "directory": lambda path: path.mkdir(),
        "dangling": lambda path: path.symlink_to("nowhere"),
    }
    for name, make in makers.items():
        make(tmp_path / name)
        with pytest.raises(FileExistsError):
            export(root, blocks.read, tmp_path / name, limit_bytes=LIMIT)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "directory", "file"]


def test_files_of_older_importers_are_read(blocks: MemoryBlocks, tmp_path: Path) -> None:
    leaf = blocks.put(Codec.DAG_PB, encode_node(Node((), encode_leaf_data(b"four"))))
    export(file(blocks, (leaf, 4), (leaf, 4)), blocks.read, tmp_path / "out", limit_bytes=LIMIT)
    assert (tmp_path / "out").read_bytes() == b"fourfour"
