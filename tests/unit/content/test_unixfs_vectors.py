"""Root CIDs equal those of the reference JavaScript importer (vectors/unixfs.json)."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from p2p.content.cid import Cid
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import Layout, import_file, import_path
from tests.unit.content.blocks import MemoryBlocks, vector_content

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "unixfs.json").read_text())


def layout_of(vector: dict[str, Any]) -> Layout:
    return Layout(chunk_bytes=vector["chunk_bytes"], width=vector["width"])


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: vector["name"])
def test_a_file_has_the_reference_cid(vector: dict[str, Any]) -> None:
    content = vector_content(vector["name"], vector["size"])
    imported = import_file(io.BytesIO(content), MemoryBlocks().put, layout_of(vector))
    assert str(imported.cid) == vector["cid"]
    assert imported.file_bytes == vector["size"]


@pytest.mark.parametrize("vector", VECTORS["directories"], ids=lambda vector: vector["name"])
def test_a_directory_has_the_reference_cid_and_comes_back(vector: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "root"
    contents = {entry["path"]: vector_content(entry["path"], entry["size"]) for entry in vector["entries"]}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    blocks = MemoryBlocks()
    assert str(import_path(root, blocks.put, layout_of(vector)).cid) == vector["cid"]

    copy = tmp_path / "copy"
    export(Cid.parse(vector["cid"]), blocks.read, copy, limit_bytes=10_000_000)
    found = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert found == contents
