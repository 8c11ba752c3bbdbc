"""Checks files of weights: a safetensors file is whole and means one thing, and all files together are one model.

Only headers are read. Format: 8 bytes little-endian header length, the header as JSON, then the tensors' bytes without
gaps or overlap. What is not refused here any safetensors library reads as the same tensors.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.models.strict_json import parse_strict, read_strict

HEADER_BYTES_MAX = 100 * 1024 * 1024
"""As the format's own library has it."""
LENGTH_BYTES = 8
DIMENSIONS_MAX = 32
ELEMENTS_MAX = 2**56
"""Far above any tensor, far below where products of dimensions no longer fit a 64-bit integer."""
TENSOR_NAME_CHARACTERS_MAX = 1024
INDEX_NAME = "model.safetensors.index.json"
METADATA = "__metadata__"
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of an element. An unknown type is refused: its size could not be checked."""

_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors")
_LFS_POINTER = b"version https://git-lfs"


class WeightsInvalidError(Exception):
    """Weights that are damaged, incomplete or ambiguous; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What a file of weights holds."""

    name: str
    tensors: frozenset[str]
    data_bytes: int


def read_weights(path: Path) -> WeightsFile:
    """Check one file against its header and its size. Raises WeightsInvalidError, OSError."""
    name = path.name
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        beginning = file.read(LENGTH_BYTES)
        if size == 0:
            raise WeightsInvalidError(f"{name} is empty: the download or the copy was cut off; get the file again")
        if _LFS_POINTER.startswith(beginning):
            raise WeightsInvalidError(f"{name} is a Git LFS pointer, not the weights: run `git lfs pull`")
        header_bytes = int.from_bytes(beginning, "little")
        if size < LENGTH_BYTES or header_bytes > min(HEADER_BYTES_MAX, size - LENGTH_BYTES):
            raise WeightsInvalidError(f"{name} is not a safetensors file: its header does not fit (is it cut off?)")
        header = file.read(header_bytes)
    try:
        spans = _spans(header)
    except (ValueError, RecursionError) as error:
        raise WeightsInvalidError(f"{name} has a damaged header: {error}") from error
    if not spans:
        raise WeightsInvalidError(f"{name} holds no tensors: the model was not saved whole")
    position = 0
    for begin, end, tensor in sorted((begin, end, tensor) for tensor, (begin, end) in spans.items()):
        if begin != position:
            raise WeightsInvalidError(f"{name}: tensors overlap or leave gaps at byte {position} ({tensor[:80]!r})")
        position = end
    expected = LENGTH_BYTES + header_bytes + position
    if expected != size:
        what = "it is cut off" if size < expected else "there is more behind its tensors"
        raise WeightsInvalidError(f"{name} has {size} bytes, its header says {expected}: {what}")
    return WeightsFile(name, frozenset(spans), position)


def check_together(directory: Path, files: Sequence[WeightsFile]) -> None:
    """Check that the files of one directory are one model: all parts, every tensor once, each where the index says.

    Raises WeightsInvalidError, OSError.
    """
    place: dict[str, str] = {}
    for file in files:
        for tensor in sorted(file.tensors):
            if tensor in place:
                raise WeightsInvalidError(
                    f"the tensor {tensor[:80]!r} is in {place[tensor]} and in {file.name}: which one counts would be "
                    "chance. Remove the file that does not belong to the model"
                )
            place[tensor] = file.name
    names = {file.name for file in files}
    _check_parts(names)
    if (directory / INDEX_NAME).exists():
        _check_index(_read_index(directory / INDEX_NAME), place, names)
    elif len(files) > 1:
        raise WeightsInvalidError(
            f"{INDEX_NAME} is missing: there are {len(files)} files of weights, and nothing says that they are all"
        )


def _spans(header: bytes) -> dict[str, tuple[int, int]]:
    """Return where each tensor's bytes begin and end. Raises ValueError."""
    if not header.startswith(b"{"):
        raise ValueError("it does not begin with {")
    if not header.rstrip(b" ").endswith(b"}"):
        raise ValueError("it is padded with something else than spaces")
    entries = parse_strict(header, numbers_finite=True)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA} is no map of texts")
    return {name: _span(name, entry) for name, entry in entries.items()}


def _span(name: str, entry: object) -> tuple[int, int]:
    said = repr(name[:80])
    if not 0 < len(name) <= TENSOR_NAME_CHARACTERS_MAX:
        raise ValueError(f"the tensor name {said} has {len(name)} characters")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            pass
        case _:
            raise ValueError(f"{said} has not just dtype, shape and data_offsets")
    if dtype not in DTYPE_BITS:
        raise ValueError(f"{said} has the unknown type {dtype[:32]!r}")
    if not (_is_count(begin) and _is_count(end) and begin <= end):
        raise ValueError(f"{said} has the offsets {begin!r} and {end!r}")
    bits = _elements(said, shape) * DTYPE_BITS[dtype]
    if bits % 8 or end - begin != bits // 8:
        raise ValueError(f"{said} has {end - begin} bytes for the shape {shape} of {dtype}")
    return begin, end


def _elements(said: str, shape: list[Any]) -> int:
    if len(shape) > DIMENSIONS_MAX or not all(_is_count(dimension) for dimension in shape):
        raise ValueError(f"{said} has the shape {str(shape)[:200]}")
    count = 1
    for dimension in shape:
        count *= dimension
        if max(count, dimension) > ELEMENTS_MAX:
            raise ValueError(f"{said} has the shape {str(shape)[:200]}: more than {ELEMENTS_MAX} elements")
    return count


def _is_count(value: object) -> bool:
    """Whether a value is a whole number from 0 on; `true` is a number in Python and in no header."""
    return type(value) is int and value >= 0


def _check_parts(names: set[str]) -> None:
    """Check that of files numbered `-00001-of-00003` none is missing."""
    for name in sorted(names):
        match = _PART_NAME.fullmatch(name)
        if match is None:
            continue
        parts = int(match["parts"])
        if not 0 < int(match["part"]) <= parts:
            raise WeightsInvalidError(f"{name} says that it is part {match['part']} of {match['parts']}")
        for part in range(1, parts + 1):
            wanted = f"{match['stem']}-{part:05d}-of-{match['parts']}.safetensors"
            if wanted not in names:
                raise WeightsInvalidError(f"{wanted} is missing: {name} is there. Download or copy that file too")


def _read_index(path: Path) -> Mapping[str, Any]:
    try:
        index = read_strict(path)
    except (ValueError, RecursionError) as error:
        raise WeightsInvalidError(f"{path.name} is not JSON that can be read: {error}") from error
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise WeightsInvalidError(f"{path.name} has no weight_map")
    return places


def _check_index(index: Mapping[str, Any], place: Mapping[str, str], names: set[str]) -> None:
    for tensor, name in sorted(index.items()):
        if not isinstance(name, str) or name not in names:
            raise WeightsInvalidError(
                f"{INDEX_NAME} names {name!r}, which is not in the directory: download or copy that file too"
            )
        if tensor not in place:
            raise WeightsInvalidError(
                f"{INDEX_NAME} says that {tensor[:80]!r} is in {name}, but no file has it: index and weights are of "
                "two versions"
            )
        if place[tensor] != name:
            raise WeightsInvalidError(
                f"{INDEX_NAME} says that {tensor[:80]!r} is in {name}, but it is in {place[tensor]}: index and weights "
                "are of two versions"
            )
    extra = sorted(set(place) - set(index))
    if extra:
        raise WeightsInvalidError(
            f"{INDEX_NAME} does not have {extra[0][:80]!r} of {place[extra[0]]}, nor {len(extra) - 1} more: index and "
            "weights are of two versions, or that file does not belong to the model"
        )
