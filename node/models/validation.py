"""What a directory must be to be published or loaded as a model. Anything else could run code or cannot be served.

Weights are untrusted: only safetensors, which hold numbers and nothing that runs (requirements, models). Pickled ones
are refused. An owner may ask to publish them nevertheless (`allow_pickle`), for readers outside this network: daemons
never pass that, so none of them loads such a model.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.models.encryption.container import SealBrokenError
from node.models.encryption.directory import is_sealed, read_sealed
from node.models.safetensors import WeightsFile, WeightsInvalidError, check_together, read_weights
from node.models.strict_json import JSON_BYTES_MAX, read_strict

PICKLE_SUFFIXES = (
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".dill", ".ckpt", ".msgpack", ".h5", ".keras", ".joblib", ".npy", ".npz",
)  # fmt: skip
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".sh", ".dll", ".dylib", ".exe", ".jar")
PARTIAL_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp", ".download")
"""What downloaders leave behind when they are cut off."""
WEIGHTS_SUFFIX = ".safetensors"
FILES_MAX = 10_000
TEMPLATE_BYTES_MAX = 1024 * 1024
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATES_MAX = 64
UINT32_MAX = 2**32 - 1
CONTEXT_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""In the order they are looked for; all models of today have the first or the second."""
SILENT_SUFFIXES = (
    "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForQuestionAnswering", "ForMultipleChoice",
    "ForImageClassification", "ForAudioClassification", "ForSequenceEmbedding", "EncoderModel", "EmbeddingModel",
)  # fmt: skip
"""Architectures that embed or classify: nobody chats with them, so they need no chat template."""
EMBEDDING_MARK = "modules.json"
"""What sentence-transformers puts beside the configuration of an embedding model."""


class ModelInvalidError(Exception):
    """The directory is no model this network serves; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What validation found out."""

    architecture: str
    """Empty if the model is encrypted."""
    context_length: int | None
    weight_bytes: int
    files: int
    generates: bool = True
    """Whether it answers in words; else it embeds or classifies."""
    pickled: tuple[str, ...] = ()
    """Files that no daemon of this network loads; only with `allow_pickle`."""


def validate_model(directory: Path, *, encrypted: bool = False, allow_pickle: bool = False) -> ModelFacts:
    """Check a model directory, or an encrypted one as far as that goes without its key. Raises ModelInvalidError.

    `allow_pickle` is for publishing only: nothing that loads may set it.
    """
    if not directory.is_dir():
        raise ModelInvalidError(f"{directory} is not a directory")
    if encrypted:
        return _validate_sealed(directory)
    if is_sealed(directory):
        raise ModelInvalidError("the model is encrypted: its record on chain has to say so (--encrypted)")
    files = list(_files(directory))
    pickled = []
    for path in files:
        _refuse_dangerous(path.relative_to(directory))
        if path.suffix.lower() in PICKLE_SUFFIXES:
            pickled.append(str(path.relative_to(directory)))
    if pickled and not allow_pickle:
        raise ModelInvalidError(
            f"{pickled[0]}: pickled weights can run code when they are loaded; remove it and publish safetensors"
        )
    config = _read_object(directory / "config.json", "every model has one")
    architecture = _architecture(config)
    generates = _generates(architecture, directory)
    _check_tokenizer(directory, generates=generates)
    _check_other_json(directory)
    return ModelFacts(
        architecture=architecture,
        context_length=_context_length(config),
        weight_bytes=_check_weights(directory, files, needed=not pickled),
        files=len(files),
        generates=generates,
        pickled=tuple(pickled),
    )


def _validate_sealed(directory: Path) -> ModelFacts:
    try:
        sealed = read_sealed(directory)
    except SealBrokenError as error:
        raise ModelInvalidError(f"the encrypted model is not whole: {error}") from error
    return ModelFacts("", None, sealed.plain_bytes, len(sealed.containers) + 2)


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


def _refuse_dangerous(name: Path) -> None:
    suffix = name.suffix.lower()
    if suffix in CODE_SUFFIXES:
        raise ModelInvalidError(f"{name}: code is not published with a model; remove it")
    if suffix in PARTIAL_SUFFIXES and not _is_hidden(name):  # a downloader's own records are hidden
        raise ModelInvalidError(f"{name} is a download that was cut off: get the file again, or remove it")


def _is_hidden(name: Path) -> bool:
    """Whether a file is left out when the directory is published."""
    return any(part.startswith(".") for part in name.parts)


def _architecture(config: dict[str, Any]) -> str:
    if "auto_map" in config:
        raise ModelInvalidError("config.json has auto_map: the model needs code of its own, which no node will run")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise ModelInvalidError("config.json names no architectures, so no engine can load it")
    return architectures[0]


def _generates(architecture: str, directory: Path) -> bool:
    if architecture.endswith(SILENT_SUFFIXES) or (directory / EMBEDDING_MARK).is_file():
        return False
    return not architecture.endswith("Model") or architecture.endswith(("LMHeadModel", "DoubleHeadsModel"))


def _context_length(config: dict[str, Any]) -> int | None:
    """Return what the configuration says, also within the text part of one for several media; None if it does not."""
    inner = config.get("text_config")
    for source in (config, inner if isinstance(inner, dict) else {}):
        for key in CONTEXT_LENGTH_KEYS:
            value = source.get(key)
            if type(value) is int and 0 < value <= UINT32_MAX:
                return value
    return None


def _check_tokenizer(directory: Path, *, generates: bool) -> None:
    _read_object(directory / "tokenizer.json", "without it prompts cannot become tokens")
    config = _read_object(directory / "tokenizer_config.json", "it holds the chat template")
    if "auto_map" in config:
        raise ModelInvalidError("tokenizer_config.json has auto_map: the tokenizer needs code, which no node will run")
    template = config.get("chat_template")
    if template is not None and not _is_template(template):
        raise ModelInvalidError(
            "the chat_template of tokenizer_config.json is neither a text nor a list of named texts: no engine can "
            "render chats by it"
        )
    file = directory / TEMPLATE_FILE
    if file.is_file():
        _check_template_file(file)
    elif template is None and generates:
        raise ModelInvalidError(
            f"tokenizer_config.json has no chat_template (nor is there {TEMPLATE_FILE}): chats cannot be rendered"
        )


def _is_template(value: object) -> bool:
    """Whether a value is a template, or the list of named templates that some models have."""
    if isinstance(value, str):
        return bool(value.strip()) and len(value) <= TEMPLATE_BYTES_MAX
    if not isinstance(value, list) or not 0 < len(value) <= TEMPLATES_MAX:
        return False
    return all(
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and isinstance(item.get("template"), str)
        and _is_template(item["template"])
        for item in value
    )


def _check_template_file(path: Path) -> None:
    if path.stat().st_size > TEMPLATE_BYTES_MAX:
        raise ModelInvalidError(f"{path.name} has more than {TEMPLATE_BYTES_MAX} bytes")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelInvalidError(f"{path.name} is not UTF-8 text") from error
    if not text.strip():
        raise ModelInvalidError(f"{path.name} is empty: chats cannot be rendered")


def _check_other_json(directory: Path) -> None:
    """Check that what engines may read besides is JSON at all: half a file stops them later, and tells less."""
    for path in sorted(directory.glob("*.json")):
        if path.is_file() and not path.name.startswith("."):
            _read_json(path)


def _check_weights(directory: Path, files: list[Path], *, needed: bool) -> int:
    """Check all files of weights, those in subdirectories each by itself; return their bytes."""
    top: list[WeightsFile] = []
    total = 0
    for path in files:
        if path.suffix.lower() == WEIGHTS_SUFFIX and not _is_hidden(path.relative_to(directory)):
            weights = _read_weights(path, directory)
            total += weights.data_bytes
            top += [weights] if path.parent == directory else []
    if not top and needed:
        raise ModelInvalidError("no *.safetensors file: convert the weights (save_pretrained writes safetensors)")
    try:
        check_together(directory, top)
    except WeightsInvalidError as error:
        raise ModelInvalidError(str(error)) from error
    return total


def _read_weights(path: Path, directory: Path) -> WeightsFile:
    try:
        return read_weights(path)
    except WeightsInvalidError as error:
        folder = path.parent.relative_to(directory)
        raise ModelInvalidError(str(error) if folder == Path() else f"{folder}/{error}") from error


def _read_object(path: Path, why: str) -> dict[str, Any]:
    if not path.is_file():
        raise ModelInvalidError(f"{path.name} is missing: {why}")
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ModelInvalidError(f"{path.name} is not a JSON object")
    return value


def _read_json(path: Path) -> object:
    size = path.stat().st_size
    if size > JSON_BYTES_MAX:
        raise ModelInvalidError(f"{path.name} is larger than {JSON_BYTES_MAX} bytes")
    if size == 0:
        raise ModelInvalidError(f"{path.name} is empty: the download or the copy was cut off; get the file again")
    try:
        return read_strict(path)
    except (ValueError, RecursionError) as error:
        raise ModelInvalidError(f"{path.name} is not JSON that can be read: {error}") from error
