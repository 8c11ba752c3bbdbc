"""What is imported is exported as it was; paths, shards and in-place files lead to the same bytes."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.content.blockstore import BlockStore, FileChangedError
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link
from p2p.content.hamt import build_shards
from p2p.content.murmur import murmur3_64
from p2p.content.tree import PathError, TreeReader
from p2p.content.unixfs import ShardNode, UnixFsError
from p2p.content.unixfs_export import export, file_chunks
from p2p.content.unixfs_import import IMPORT_DEPTH_MAX, Layout, import_file, import_path
from tests.unit.content.blocks import MemoryBlocks

LIMIT = 10**9

names = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
trees: st.SearchStrategy[object] = st.recursive(
    st.binary(max_size=200), lambda below: st.dictionaries(names, below, max_size=6), max_leaves=20
)
layouts = st.builds(Layout, st.integers(1, 64), st.integers(2, 5))


def write_tree(tree: object, path: Path) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    assert isinstance(tree, dict)
    path.mkdir()
    for name, below in tree.items():
        write_tree(below, path / name)


def read_tree(path: Path) -> object:
    if path.is_file():
        return path.read_bytes()
    return {below.name: read_tree(below) for below in path.iterdir()}


@given(tree=trees, layout=layouts)
@settings(max_examples=60, deadline=None)
def test_export_gives_back_what_was_imported(tree: object, layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        write_tree(tree, directory / "in")
        blocks = MemoryBlocks()
        imported = import_path(directory / "in", blocks.put, layout)
        export(imported.cid, blocks.read, directory / "out", limit_bytes=LIMIT)
        assert read_tree(directory / "out") == tree
        assert import_path(directory / "out", Cid.of, layout) == imported


@given(data=st.binary(max_size=2000), layout=layouts)
@settings(deadline=None)
def test_a_stream_and_a_file_have_the_same_root(data: bytes, layout: Layout) -> None:
    blocks = MemoryBlocks()
    streamed = import_file(io.BytesIO(data), blocks.put, layout)
    assert b"".join(file_chunks(streamed.cid, blocks.read, limit_bytes=len(data))) == data
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "file"
        path.write_bytes(data)
        assert import_path(path, Cid.of, layout) == streamed


@given(entries=st.dictionaries(names, st.binary(max_size=5), min_size=1, max_size=300))
@settings(max_examples=30, deadline=None)
def test_every_name_is_found_in_shards_and_no_other(entries: dict[str, bytes]) -> None:
    blocks = MemoryBlocks()
    links = [Link(blocks.put(Codec.RAW, data), name.encode(), len(data)) for name, data in entries.items()]
    root = build_shards(links, blocks.put).cid
    reader = TreeReader(blocks.read, LIMIT)
    node = reader.node(root)
    assert isinstance(node, ShardNode)
    assert {entry.name: blocks.read(entry.cid) for entry in reader.entries(node)} == entries
    for name, data in entries.items():
        assert blocks.read(reader.resolve(root, (name,))) == data
    absent = "".join(entries) + "x"
    assert reader.find(node, absent) is None


def test_names_whose_hashes_are_equal_are_refused() -> None:
    blocks = MemoryBlocks()
    leaf = blocks.put(Codec.RAW, b"x")
    with pytest.raises(UnixFsError, match="equal hashes"):
        build_shards([Link(leaf, b"same", 1), Link(leaf, b"same", 1)], blocks.put)


@pytest.mark.parametrize(
    ("text", "digest"),
    [(b"", 0), (b"hello", 0xCBD8A7B341BD9B02), (b"The quick brown fox jumps over the lazy dog", 0xE34BBC7BBC071B6C)],
)
def test_the_hash_of_names_has_its_known_values(text: bytes, digest: int) -> None:
    assert murmur3_64(text) == digest


def test_paths_lead_through_directories_to_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("found")
    blocks = MemoryBlocks()
    root = import_path(tmp_path, blocks.put).cid
    reader = TreeReader(blocks.read, LIMIT)
    assert b"".join(reader.chunks(reader.resolve(root, ("a", "b", "file")))) == b"found"
    assert reader.resolve(root, ()) == root
    with pytest.raises(PathError, match="no 'c'"):
        reader.resolve(root, ("a", "c"))
    with pytest.raises(PathError, match="is a file"):
        reader.resolve(root, ("a", "b", "file", "x"))
    with pytest.raises(UnixFsError, match="unsafe"):
        reader.resolve(root, ("a", "..", "a"))


# In place


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlockStore]:
    with closing(BlockStore(tmp_path / "store")) as store:
        yield store


def test_a_file_in_place_has_the_same_root_and_takes_no_space(tmp_path: Path, store: BlockStore) -> None:
    source = tmp_path / "model"
    source.mkdir()
    (source / "weights").write_bytes(os.urandom(5_000_000))
    (source / "config.json").write_text("{}")
    (source / "empty").touch()
    in_place = import_path(source, store.put, reference=store.reference_file)
    assert in_place == import_path(source, Cid.of)
    usage = store.usage()
    assert usage.leaf_bytes == 5_000_002
    assert usage.block_bytes < 2000
    export(in_place.cid, store.read, tmp_path / "copy", limit_bytes=LIMIT)
    assert read_tree(tmp_path / "copy") == read_tree(source)


def test_an_edited_file_voids_what_was_published_in_place(tmp_path: Path, store: BlockStore) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(3_000_000))
    root = import_path(source, store.put, reference=store.reference_file).cid
    with source.open("r+b") as file:
        file.write(b"edited")
    with pytest.raises(KeyError):
        export(root, store.read, tmp_path / "copy", limit_bytes=LIMIT)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_that_changes_during_the_import_is_an_error(tmp_path: Path, store: BlockStore, in_place: bool) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(8_000_000))
    changed = []

    def advance(_size: int) -> None:
        if not changed:
            changed.append(True)
            with source.open("ab") as file:
                file.write(b"more")

    with pytest.raises(FileChangedError, match="changed"):
        import_path(source, store.put, advance=advance, reference=store.reference_file if in_place else None)
    assert store.usage().files == 0


def test_an_import_that_is_stopped_holds_no_file(tmp_path: Path, store: BlockStore) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(8_000_000))

    def stop(_size: int) -> None:
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        import_path(source, store.put, advance=stop, reference=store.reference_file)
    assert store.usage().files == 0


# Refused


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to("/etc/passwd")
    with pytest.raises(UnixFsError, match=r"symbolic link.*cp -L"):
        import_path(tmp_path / "root", Cid.of)
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with pytest.raises(UnixFsError, match="symbolic link"):
        import_path(tmp_path / "link", Cid.of)


def test_devices_pipes_and_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnixFsError, match="neither"):
        import_path(tmp_path / "pipe", Cid.of)
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    bad.touch()
    (tmp_path / "pipe").unlink()
    with pytest.raises(UnixFsError, match="not UTF-8"):
        import_path(tmp_path, Cid.of)


def test_trees_that_no_export_would_take_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep" / "/".join("d" * (IMPORT_DEPTH_MAX + 1))).mkdir(parents=True)
    with pytest.raises(UnixFsError, match="deep"):
        import_path(tmp_path / "deep", Cid.of)


@pytest.mark.parametrize(("chunk_bytes", "width"), [(0, 174), (2 * 1024 * 1024 + 1, 174), (1, 1), (1, 100_000)])
def test_layouts_that_nobody_could_read_are_refused(chunk_bytes: int, width: int) -> None:
    with pytest.raises(ValueError, match="have"):
        Layout(chunk_bytes, width)


def test_the_largest_chunks_can_be_stored(tmp_path: Path, store: BlockStore) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(5 * 1024 * 1024))
    layout = Layout(2 * 1024 * 1024)
    for reference in (None, store.reference_file):
        root = import_path(source, store.put, layout, reference=reference).cid
        assert b"".join(file_chunks(root, store.read, limit_bytes=LIMIT)) == source.read_bytes()


MEASURED = """
import resource, sys
from pathlib import Path
from p2p.content.blockstore import BlockStore
from p2p.content.unixfs_export import file_chunks
from p2p.content.unixfs_import import import_path
source, store = Path(sys.argv[1]), BlockStore(Path(sys.argv[2]))
root = import_path(source, store.put, reference=store.reference_file).cid
for _ in file_chunks(root, store.read, limit_bytes=1 << 40): pass
for _ in store.verify(): pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_is_flat_whatever_the_size(tmp_path: Path) -> None:
    peaks = []
    for mebibytes in (8, 512):
        source = tmp_path / f"{mebibytes}"
        with source.open("wb") as file:
            file.truncate(mebibytes * 1024 * 1024)  # sparse: the disk is not what is measured
        measured = subprocess.run(
            [sys.executable, "-c", MEASURED, source, tmp_path / "store"], capture_output=True, text=True, check=True
        )
        peaks.append(int(measured.stdout))
    assert peaks[1] - peaks[0] < 30
