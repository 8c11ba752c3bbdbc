"""Nonces on the disk: a restart takes what is whole of the same batch, and a disk that fails stops no mining."""

from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from node.protocol.identifiers import Hash32
from node.protocol.nonces import VECTOR_BYTES
from node.store.nonce_file import HEAD_BYTES, MAGIC, RECORD_BYTES, NonceFile

BATCH, OTHER = Hash32(b"\x01" * 32), Hash32(b"\x02" * 32)


def vectors(first: int, count: int) -> list[bytes]:
    return [number.to_bytes(VECTOR_BYTES) for number in range(first, first + count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "nonces" / "node"
    file = NonceFile(path)
    assert file.begin_blocking(BATCH, 1000) == b""
    file.append(vectors(0, 3))
    file.append(vectors(3, 2))
    file.sync_blocking()
    return path


def taken(path: Path, batch: Hash32 = BATCH, most: int = 1000) -> int:
    """How many of the first vectors are taken; that they are these is asserted."""
    kept = NonceFile(path).begin_blocking(batch, most)
    assert kept == b"".join(vectors(0, len(kept) // VECTOR_BYTES))
    return len(kept) // VECTOR_BYTES


def test_what_was_appended_is_taken_without_a_word_from_the_run_before(path: Path) -> None:
    assert taken(path) == 5


def test_the_file_tells_of_which_batch_it_is(path: Path) -> None:
    assert NonceFile(path).batch_blocking() == BATCH
    assert NonceFile(path.parent / "other").batch_blocking() is None
    path.write_bytes(path.read_bytes()[: HEAD_BYTES - 1])
    assert NonceFile(path).batch_blocking() is None
    path.write_bytes(bytes(HEAD_BYTES))
    assert NonceFile(path).batch_blocking() is None


def test_what_comes_after_a_restart_follows_what_was_taken(path: Path) -> None:
    file = NonceFile(path)
    file.begin_blocking(BATCH, 1000)
    file.append(vectors(5, 2))
    assert taken(path) == 7


@pytest.mark.parametrize("lost", [1, RECORD_BYTES - 1, RECORD_BYTES, RECORD_BYTES + 1])
def test_a_torn_tail_is_cut_and_written_again(path: Path, lost: int) -> None:
    path.write_bytes(path.read_bytes()[:-lost])
    whole = 5 - -(-lost // RECORD_BYTES)
    file = NonceFile(path)
    assert len(file.begin_blocking(BATCH, 1000)) == whole * VECTOR_BYTES
    file.append(vectors(whole, 5 - whole + 1))
    assert taken(path) == 6


@pytest.mark.parametrize("place", [0, len(MAGIC), HEAD_BYTES, HEAD_BYTES + RECORD_BYTES, HEAD_BYTES + 3 * RECORD_BYTES])
def test_nothing_from_a_damaged_place_on_is_taken(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert taken(path) == max(0, (place - HEAD_BYTES) // RECORD_BYTES)


def test_zeros_that_a_loss_of_power_left_are_no_vectors(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(4 * RECORD_BYTES))
    assert taken(path) == 5


def test_records_in_another_order_are_not_taken(path: Path) -> None:
    data = path.read_bytes()
    first, second = (data[HEAD_BYTES + n * RECORD_BYTES : HEAD_BYTES + (n + 1) * RECORD_BYTES] for n in (0, 1))
    path.write_bytes(data[:HEAD_BYTES] + second + first + data[HEAD_BYTES + 2 * RECORD_BYTES :])
    assert taken(path) == 0


def test_another_batch_takes_the_place_of_the_one_before(path: Path) -> None:
    assert taken(path, OTHER) == 0
    assert taken(path) == 0


def test_no_more_is_taken_than_may_be_committed(path: Path) -> None:
    assert taken(path, most=2) == 2
    assert taken(path) == 2


def test_a_batch_that_is_dropped_is_gone(path: Path) -> None:
    file = NonceFile(path)
    file.drop_blocking()
    file.drop_blocking()
    assert taken(path) == 0


def test_a_disk_that_fails_stops_no_mining_and_has_its_room_back(path: Path) -> None:
    file = NonceFile(path)
    file.begin_blocking(BATCH, 1000)
    assert file._file is not None
    file._file.close()
    file.sync_blocking()
    file.append(vectors(5, 2))  # nothing is kept any more
    file.sync_blocking()
    assert not path.exists()
    blocked = NonceFile(path / "below a file" / "node")
    assert blocked.begin_blocking(BATCH, 1000) == b""
    blocked.append(vectors(0, 1))
    blocked.sync_blocking()


def test_what_the_disk_cut_short_is_given_up_and_leaves_its_room_to_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short:
        """A file on a disk that is full after ten bytes."""

        def __init__(self, file: NonceFile) -> None:
            assert file._file is not None
            self._real = file._file

        def write(self, data: bytes) -> int:
            return self._real.write(data[:10])

        def close(self) -> None:
            self._real.close()

    file = NonceFile(path)
    file.begin_blocking(BATCH, 1000)
    monkeypatch.setattr(file, "_file", Short(file))
    file.append(vectors(5, 2))
    file.append(vectors(7, 2))
    assert not path.exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_what_others_need_of_the_disk_stays_free(path: Path, monkeypatch: pytest.MonkeyPatch, lacking: int) -> None:
    reserve = 1000
    disk = SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=reserve + 2 * RECORD_BYTES - lacking))
    monkeypatch.setattr("node.store.nonce_file.shutil", disk)
    file = NonceFile(path, free_bytes_min=reserve)
    file.begin_blocking(BATCH, 1000)
    file.append(vectors(5, 2))
    assert path.exists() == (not lacking)
    if not lacking:
        assert taken(path) == 7


def test_a_file_given_up_by_one_thread_does_not_stop_the_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Given:
        """Gives the file up as soon as it is looked at a second time: the other thread came in between."""

        def __init__(self) -> None:
            self.looks = 0

        def __get__(self, file: NonceFile, _: type[NonceFile]) -> BinaryIO | None:
            self.looks += 1
            return file.__dict__["_file"] if self.looks == 1 else None

        def __set__(self, file: NonceFile, value: BinaryIO | None) -> None:
            file.__dict__["_file"] = value

    for act in (NonceFile.sync_blocking, lambda file: file.append(vectors(5, 1))):
        file = NonceFile(path)
        file.begin_blocking(BATCH, 1000)
        with monkeypatch.context() as patched:
            patched.setattr(NonceFile, "_file", Given(), raising=False)
            act(file)
    assert taken(path) == 6


async def test_what_does_not_block_does_the_same(path: Path) -> None:
    file = NonceFile(path)
    assert await file.batch() == BATCH
    assert await file.begin(BATCH, 1000) == b"".join(vectors(0, 5))
    file.append(vectors(5, 1))
    await file.sync()
    assert taken(path) == 6
    await file.drop()
    assert taken(path) == 0
