"""Headers of weights: what passes means one thing to every reader; to any other bytes the answer is a reason."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.models.safetensors import DTYPE_BITS, WeightsInvalidError, read_weights

no_reset = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def write(folder: Path, header: bytes, data_bytes: int = 24) -> Path:
    path = folder / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data_bytes))
    return path


def entry(dtype: object = "F32", shape: object = (2, 3), offsets: object = (0, 24)) -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


def test_tensors_are_read_by_name_with_padding_metadata_and_scalars(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "a": {"dtype": "BF16", "shape": [2, 5], "data_offsets": [4, 24]},
        "none": {"dtype": "F64", "shape": [0, 7], "data_offsets": [24, 24]},
    }
    weights = read_weights(write(tmp_path, json.dumps(header).encode() + b"   "))
    assert (weights.tensors, weights.data_bytes) == (frozenset({"a", "b", "none"}), 24)


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_known_type_has_its_size(tmp_path: Path, dtype: str) -> None:
    size = 8 * DTYPE_BITS[dtype] // 8
    assert read_weights(write(tmp_path, entry(dtype, [8], [0, size]), size)).data_bytes == size


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (entry("Q9"), "unknown type 'Q9'"),
        (entry(5), "not just dtype, shape and data_offsets"),
        (entry("F4", [3], [0, 1]), "1 bytes for the shape"),
        (entry(offsets=[0, 23]), "23 bytes for the shape"),
        (entry(offsets=[24, 0]), "offsets 24 and 0"),
        (entry(offsets=[-24, 0]), "offsets -24 and 0"),
        (entry(offsets=[0, 24.0]), "offsets 0 and 24.0"),
        (entry(offsets=[False, 24]), "offsets False and 24"),
        (entry(offsets=[0, 12, 24]), "not just"),
        (entry(offsets=[1, 25]), "leave gaps at byte 0"),
        (entry(shape=[2, -3]), "shape"),
        (entry(shape=[True, 6]), "shape"),
        (entry(shape=[2.0, 3]), "shape"),
        (entry(shape=[2**40, 2**40]), "more than"),
        (entry(shape=[0, 2**64], offsets=[0, 0]), "more than"),
        (entry(shape=[1] * 100), "shape"),
        (entry(shape="23"), "not just"),
        (b'{"w": 5}', "not just"),
        (b'{"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24], "more": 1}}', "not just"),
        (entry()[:-1] + b', "w": {}}', "'w' stands twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}', "'dtype' stands twice"),
        (b'{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 24]}}', "damaged header"),
        (b'{"w": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}', "damaged header"),
        (b'{"w": {"dtype": "F32", "shape": [6], "data_offsets": [0, 1e400]}}', "damaged header"),
        (b'{"__metadata__": 5}', "no map of texts"),
        (b'{"__metadata__": {"x": 5}}', "no map of texts"),
        (entry() + b"\n", "padded with something else"),
        (entry() + b"\0", "padded with something else"),
        (b" " + entry(), "does not begin with {"),
        (b"[]", "does not begin with {"),
        (b"{" * 50_000 + b"}" * 50_000, "damaged header"),
        (b'{"' + b"x" * 2000 + b'": {}}', "2000 characters"),
        (b'{"": {}}', "0 characters"),
        (b'{"\xff": {}}', "damaged header"),
        (b"", "damaged header"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path: Path, header: bytes, named: str) -> None:
    with pytest.raises(WeightsInvalidError, match=named):
        read_weights(write(tmp_path, header))


@pytest.mark.parametrize("size", range(1, 9))
def test_a_file_shorter_than_its_first_number_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(bytes(size - 1) + b"\x01")
    with pytest.raises(WeightsInvalidError, match="cut off"):
        read_weights(path)


def test_bytes_behind_the_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalidError, match="more behind its tensors"):
        read_weights(write(tmp_path, entry(), 25))


@pytest.mark.parametrize("offsets", [([0, 24], [0, 24]), ([0, 24], [12, 36])])
def test_tensors_that_share_bytes_are_refused(tmp_path: Path, offsets: tuple[list[int], list[int]]) -> None:
    header = {
        name: {"dtype": "F32", "shape": [6], "data_offsets": place} for name, place in zip("ab", offsets, strict=True)
    }
    with pytest.raises(WeightsInvalidError, match="overlap"):
        read_weights(write(tmp_path, json.dumps(header).encode(), 36))


@given(data=st.binary(max_size=200))
@no_reset
def test_no_bytes_at_all_make_the_check_fail_in_another_way(tmp_path: Path, data: bytes) -> None:
    for content in (data, len(data).to_bytes(8, "little") + data):
        path = tmp_path / "w.safetensors"
        path.write_bytes(content)
        try:
            read_weights(path)
        except WeightsInvalidError as error:
            assert "w.safetensors" in str(error)


@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["w", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
@no_reset
def test_no_json_at_all_makes_the_check_fail_in_another_way(tmp_path: Path, header: object) -> None:
    try:
        read_weights(write(tmp_path, json.dumps(header).encode()))
    except WeightsInvalidError as error:
        assert "w.safetensors" in str(error)
