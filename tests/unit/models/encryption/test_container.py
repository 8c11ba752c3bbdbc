"""One sealed file: what opens is what was sealed, under its name, with its key; everything else is an error."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.models.encryption.container import (
    HEADER_BYTES,
    TAG_BYTES,
    SealBrokenError,
    SealedReader,
    SourceChangedError,
    WrongKeyError,
    read_header,
    seal_file,
)
from node.models.encryption.keys import ContentKey, create_content_key

CHUNK = 64
KEY = ContentKey(bytes(range(32)))
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7)
small_files = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def seal(folder: Path, plain: bytes, name: str = "weights", path: str = "model.safetensors") -> Path:
    source, target = folder / f"{name}.plain", folder / name
    target.unlink(missing_ok=True)
    source.write_bytes(plain)
    seal_file(source, target, path, KEY, chunk_bytes=CHUNK)
    return target


def opened(sealed: Path, path: str = "model.safetensors", key: ContentKey = KEY) -> bytes:
    with SealedReader(sealed, path, key) as reader:
        return b"".join(reader.chunks())


def chunk_at(index: int) -> slice:
    begin = HEADER_BYTES + index * (CHUNK + TAG_BYTES)
    return slice(begin, begin + CHUNK + TAG_BYTES)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_sealed_opens_whole_and_has_the_size_its_header_says(tmp_path: Path, size: int) -> None:
    plain = bytes(index % 251 for index in range(size))
    sealed = seal(tmp_path, plain)
    assert opened(sealed) == plain
    assert sealed.stat().st_size == read_header(sealed).sealed_bytes
    if size > 16:
        assert plain[:16] not in sealed.read_bytes()


@given(plain=st.binary(max_size=5 * CHUNK), offset=st.integers(0, 6 * CHUNK), length=st.integers(0, 6 * CHUNK))
@small_files
def test_every_range_is_the_slice_of_the_plain_file(tmp_path: Path, plain: bytes, offset: int, length: int) -> None:
    with SealedReader(seal(tmp_path, plain), "model.safetensors", KEY) as reader:
        assert reader.read_range(offset, length) == plain[offset : offset + length]


def test_a_range_opens_although_the_rest_is_damaged_and_the_damage_is_found_where_it_is(tmp_path: Path) -> None:
    sealed = seal(tmp_path, bytes(3 * CHUNK))
    data = bytearray(sealed.read_bytes())
    data[chunk_at(1).start] ^= 1
    sealed.write_bytes(data)
    with SealedReader(sealed, "model.safetensors", KEY) as reader:
        assert reader.read_range(2 * CHUNK, CHUNK) == bytes(CHUNK)
        with pytest.raises(SealBrokenError, match="chunk 1"):
            reader.read_range(CHUNK - 1, 2)


@given(size=st.sampled_from(SIZES), data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_single_flipped_bit_anywhere_is_an_error(tmp_path: Path, size: int, data: st.DataObject) -> None:
    sealed = seal(tmp_path, bytes(size))
    whole = bytearray(sealed.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    sealed.write_bytes(whole)
    with pytest.raises(SealBrokenError):
        opened(sealed)


@given(size=st.sampled_from(SIZES), data=st.data())
@small_files
def test_a_cut_or_lengthened_file_is_an_error(tmp_path: Path, size: int, data: st.DataObject) -> None:
    sealed = seal(tmp_path, bytes(size))
    whole = sealed.read_bytes()
    length = data.draw(st.integers(0, len(whole) + 2 * CHUNK).filter(lambda length: length != len(whole)))
    sealed.write_bytes((whole + bytes(2 * CHUNK))[:length])
    with pytest.raises(SealBrokenError):
        opened(sealed)


def test_a_file_cut_at_a_chunk_is_an_error_even_if_its_header_is_made_to_agree(tmp_path: Path) -> None:
    whole = seal(tmp_path, bytes(3 * CHUNK)).read_bytes()
    two = read_header(seal(tmp_path, bytes(2 * CHUNK), name="two"))
    forged = tmp_path / "forged"
    header = whole[: HEADER_BYTES - 8] + two.plain_bytes.to_bytes(8, "big")
    forged.write_bytes(header + whole[HEADER_BYTES : chunk_at(1).stop])
    assert read_header(forged).plain_bytes == 2 * CHUNK
    with pytest.raises(SealBrokenError, match="chunk 0"):
        opened(forged)


def test_chunks_in_another_order_or_of_another_file_are_errors(tmp_path: Path) -> None:
    sealed = seal(tmp_path, bytes(3 * CHUNK))
    whole, other = bytearray(sealed.read_bytes()), seal(tmp_path, bytes(3 * CHUNK), name="other").read_bytes()
    whole[chunk_at(0)], whole[chunk_at(1)] = whole[chunk_at(1)], whole[chunk_at(0)]
    sealed.write_bytes(whole)
    with pytest.raises(SealBrokenError, match="chunk 0"):
        opened(sealed)
    whole = bytearray(seal(tmp_path, bytes(3 * CHUNK)).read_bytes())
    whole[chunk_at(1)] = other[chunk_at(1)]
    sealed.write_bytes(whole)
    with pytest.raises(SealBrokenError, match="chunk 1"):
        opened(sealed)


def test_a_file_under_another_name_is_an_error(tmp_path: Path) -> None:
    sealed = seal(tmp_path, b"weights", path="model-00001.safetensors")
    assert opened(sealed, "model-00001.safetensors") == b"weights"
    with pytest.raises(SealBrokenError, match="exchanged"):
        opened(sealed, "model-00002.safetensors")


def test_another_key_is_told_before_anything_is_read(tmp_path: Path) -> None:
    sealed = seal(tmp_path, b"weights")
    with pytest.raises(WrongKeyError, match="sealed with key"):
        opened(sealed, key=create_content_key())


def test_the_same_bytes_sealed_twice_have_nothing_in_common(tmp_path: Path) -> None:
    first, second = seal(tmp_path, bytes(CHUNK)).read_bytes(), seal(tmp_path, bytes(CHUNK), name="b").read_bytes()
    assert first[chunk_at(0)] != second[chunk_at(0)]
    assert read_header(tmp_path / "weights").salt != read_header(tmp_path / "b").salt


def test_equal_chunks_of_one_file_do_not_show(tmp_path: Path) -> None:
    whole = seal(tmp_path, bytes(4 * CHUNK)).read_bytes()
    assert len({whole[chunk_at(index)] for index in range(4)}) == 4


@pytest.mark.parametrize("change", [-1, 1])
def test_a_source_that_changes_while_it_is_sealed_is_an_error(tmp_path: Path, change: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2 * CHUNK))

    def resize(_: int) -> None:
        with source.open("r+b") as file:
            file.truncate(2 * CHUNK + change)

    with pytest.raises(SourceChangedError, match="while it was being encrypted"):
        seal_file(source, tmp_path / "sealed", "x", KEY, chunk_bytes=CHUNK, advance=resize)


@pytest.mark.parametrize(
    ("begin", "replacement", "named"),
    [
        (0, b"XXXXXXXX", "not a sealed file"),
        (8, b"\x00\x02", "version 2"),
        (10, (2**31).to_bytes(4, "big"), "chunks have 2147483648 bytes"),
        (10, (0).to_bytes(4, "big"), "chunks have 0 bytes"),
        (HEADER_BYTES - 8, (2**60).to_bytes(8, "big"), "claims 1152921504606846976 bytes"),
    ],
)
def test_a_hostile_header_is_refused_by_what_is_wrong_with_it(
    tmp_path: Path, begin: int, replacement: bytes, named: str
) -> None:
    sealed = seal(tmp_path, b"weights")
    data = sealed.read_bytes()
    sealed.write_bytes(data[:begin] + replacement + data[begin + len(replacement) :])
    with pytest.raises(SealBrokenError, match=named):
        read_header(sealed)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for mib in (4, 32):
        source, target, size = tmp_path / "source", tmp_path / f"sealed{mib}", 0
        with source.open("wb") as file:
            file.truncate(mib * 2**20)
        tracemalloc.start()
        seal_file(source, target, "x", KEY)
        with SealedReader(target, "x", KEY) as reader:
            for chunk in reader.chunks():
                size += len(chunk)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert size == mib * 2**20
    assert peaks[1] < peaks[0] + 2**20
