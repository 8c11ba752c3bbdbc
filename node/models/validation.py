"""What a directory must be to be published or loaded as a model. Anything else could run code or cannot be served.

Weights are untrusted: only safetensors, which hold numbers and nothing that runs (requirements, models).
"""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".joblib", ".npy", ".npz")
CODE_SUFFIXES = (".py", ".pyc", ".so", ".sh", ".dll", ".dylib")
JSON_BYTES_MAX = 64 * 1024 * 1024
"""Tokenizers of large vocabularies have some 20 MB."""
SAFETENSORS_HEADER_BYTES_MAX = 100 * 1024 * 1024
"""As the format's own library has it."""
FILES_MAX = 10_000
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class ModelInvalidError(Exception):
    """The directory is no model this network serves; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What validation found out."""

    architecture: str
    context_length: int | None
    weight_bytes: int
    files: int


def validate_model(directory: Path, *, encrypted: bool = False) -> ModelFacts:
    """Check a model directory; of `encrypted` weights only that they are there. Raises ModelInvalidError."""
    if not directory.is_dir():
        raise ModelInvalidError(f"{directory} is not a directory")
    files = list(_files(directory))
    for path in files:
        _refuse_dangerous(path, directory)
    config = _read_json(directory / "config.json", "every model has one")
    if "auto_map" in config:
        raise ModelInvalidError("config.json has auto_map: the model needs code of its own, which no node will run")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelInvalidError("config.json names no architectures, so no engine can load it")
    _check_tokenizer(directory)
    weights = sorted(directory.glob("*.safetensors"))
    if not weights:
        raise ModelInvalidError("no *.safetensors file: convert the weights (save_pretrained writes safetensors)")
    for path in weights:
        if not encrypted:
            check_safetensors(path)
    _check_index(directory)
    context = config.get("max_position_embeddings")
    return ModelFacts(
        architecture=architectures[0],
        context_length=context if isinstance(context, int) else None,
        weight_bytes=sum(path.stat().st_size for path in weights),
        files=len(files),
    )


def _files(directory: Path) -> Iterator[Path]:
    for count, path in enumerate(sorted(directory.rglob("*"))):
        if count >= FILES_MAX:
            raise ModelInvalidError(f"more than {FILES_MAX} files")
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise ModelInvalidError(f"{path.name} is a symbolic link; put the file itself in its place (cp -L)")
        if stat.S_ISREG(mode):
            yield path
        elif not stat.S_ISDIR(mode):
            raise ModelInvalidError(f"{path.name} is neither a file nor a directory")


def _refuse_dangerous(path: Path, directory: Path) -> None:
    name = path.relative_to(directory)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelInvalidError(
            f"{name}: pickled weights can run code when they are loaded; remove it and publish safetensors"
        )
    if path.suffix.lower() in CODE_SUFFIXES:
        raise ModelInvalidError(f"{name}: code is not published with a model; remove it")


def _check_tokenizer(directory: Path) -> None:
    if not (directory / "tokenizer.json").is_file():
        raise ModelInvalidError("tokenizer.json is missing: without it prompts cannot become tokens")
    _read_json(directory / "tokenizer.json", "without it prompts cannot become tokens")
    config = _read_json(directory / "tokenizer_config.json", "it holds the chat template")
    if "auto_map" in config:
        raise ModelInvalidError("tokenizer_config.json has auto_map: the tokenizer needs code, which no node will run")
    if not config.get("chat_template") and not (directory / "chat_template.jinja").is_file():
        raise ModelInvalidError(
            "tokenizer_config.json has no chat_template (nor is there chat_template.jinja): chats cannot be rendered"
        )


def _read_json(path: Path, why: str) -> dict[str, Any]:
    if not path.is_file():
        raise ModelInvalidError(f"{path.name} is missing: {why}")
    if path.stat().st_size > JSON_BYTES_MAX:
        raise ModelInvalidError(f"{path.name} is larger than {JSON_BYTES_MAX} bytes")
    try:
        value = from_json(path.read_bytes())
    except ValueError as error:
        raise ModelInvalidError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelInvalidError(f"{path.name} is not a JSON object")
    return value


def check_safetensors(path: Path) -> None:
    """Check the header of a safetensors file against its size. Raises ModelInvalidError.

    Format: 8 bytes little-endian header length, JSON header, then the tensors' bytes without gaps or overlap.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(SAFETENSORS_HEADER_BYTES_MAX, size - 8):
            raise ModelInvalidError(f"{path.name} is not a safetensors file: its header does not fit (is it cut off?)")
        try:
            header = from_json(file.read(header_bytes))
            spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelInvalidError(f"{path.name} has a damaged header: {error!r}") from error
    position = 0
    for begin, end in spans:
        if begin != position:
            raise ModelInvalidError(f"{path.name}: tensors overlap or leave gaps at byte {position}")
        position = end
    if 8 + header_bytes + position != size:
        raise ModelInvalidError(f"{path.name} has {size} bytes, its header says {8 + header_bytes + position}")


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    count = 1
    for dimension in entry["shape"]:
        if not isinstance(dimension, int) or dimension < 0:
            raise ValueError(f"{name}: shape {entry['shape']}")
        count *= dimension
    if entry["dtype"] in DTYPE_BYTES and end - begin != count * DTYPE_BYTES[entry["dtype"]]:
        raise ValueError(f"{name}: {end - begin} bytes for shape {entry['shape']} of {entry['dtype']}")
    if not 0 <= begin <= end:
        raise ValueError(f"{name}: offsets {begin}, {end}")
    return begin, end


def _check_index(directory: Path) -> None:
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return
    named = _read_json(index, "").get("weight_map")
    if not isinstance(named, dict):
        raise ModelInvalidError(f"{index.name} has no weight_map")
    for name in sorted({str(value) for value in named.values()}):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name) or not (directory / name).is_file():
            raise ModelInvalidError(f"{index.name} names {name!r}, which is not in the directory")
