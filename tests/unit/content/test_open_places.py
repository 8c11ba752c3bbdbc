"""Blocks of one file are sent from one open descriptor, unless something became of the file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.gateway.places import BlockPlaces, OpenBlock
from tests.open_files import open_files

PARTS = [bytes([number]) * 1000 for number in range(3)]
CIDS = [Cid.of(Codec.RAW, part) for part in PARTS]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model" / "weights"
    path.parent.mkdir()
    path.write_bytes(b"".join(PARTS))
    os.utime(path, ns=(1, 1))  # so that a change shows in its time, however quick it is
    return path


@pytest.fixture
def store(tmp_path: Path, model: Path) -> BlockStore:
    store = BlockStore(tmp_path / "store")
    store.reference_file(model, [(cid, number * 1000, 1000) for number, cid in enumerate(CIDS)])
    return store


def content_of(opened: OpenBlock) -> bytes:
    return os.pread(opened.descriptor, opened.size, opened.offset)


async def test_the_next_block_of_the_same_file_needs_no_opening(store: BlockStore, tmp_path: Path) -> None:
    places = BlockPlaces(store)
    first = await places.open_block(CIDS[0])
    descriptor = first.descriptor
    second = await places.open_block(CIDS[2], first)
    assert second.descriptor == descriptor
    assert content_of(second) == PARTS[2]
    assert open_files(tmp_path / "model") == ["weights"]
    second.close()
    assert not open_files(tmp_path / "model")


async def test_a_block_of_another_file_closes_the_one_before(store: BlockStore, tmp_path: Path) -> None:
    other = tmp_path / "model" / "other"
    other.write_bytes(b"other")
    cid = Cid.of(Codec.RAW, b"other")
    store.reference_file(other, [(cid, 0, 5)])
    places = BlockPlaces(store)
    first = await places.open_block(CIDS[0])
    second = await places.open_block(cid, first)
    assert content_of(second) == b"other"
    assert open_files(tmp_path / "model") == ["other"]
    second.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"x" * 3000),
        lambda path: (path.parent / "new").write_bytes(b"x" * 3000) and (path.parent / "new").rename(path),
        lambda path: os.truncate(path, 1500),
    ],
    ids=["deleted", "edited", "replaced", "cut"],
)
async def test_a_file_that_changed_between_two_blocks_is_not_served_from_the_open_one(
    store: BlockStore, model: Path, change: Callable[[Path], object]
) -> None:
    places = BlockPlaces(store)
    first = await places.open_block(CIDS[0])
    change(model)
    with pytest.raises(BlockMissingError):
        await places.open_block(CIDS[1], first)
    assert not open_files(model.parent)
