"""Reads what an owner wants published: a TOML manifest of models, or the same options given one by one.

Everything that can be known without the files and without the chain is checked here, and all of it is told at once.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from node.engine.arguments import EngineArgumentsError, merge_model_args
from node.models.hub import DEFAULT_REVISION, REPOSITORY
from node.models.publish import ModelDescription
from node.models.record_fields import (
    MODELS_MAX,
    AccountText,
    ContextLength,
    ModelArgs,
    ModelIdText,
    Name,
    PocDistanceMax,
    Quantization,
    Text,
    ThroughputPerNonce,
    UnitsOfComputePerToken,
    VramMib,
)
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address, ModelId

MANIFEST_BYTES_MAX = 1024 * 1024
"""As many models as a registry holds take some 300 kB."""
POC_DISTANCE_DEFAULT = 1_000_000
"""About 3 % of a vector's length: far above rounding on one kind of machine, far below another model. Measure yours."""
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


class ManifestError(Exception):
    """What is to be published is described wrongly; the message names the tables and keys."""


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """One model to be published."""

    directory: Path | None
    """Where its files are; None: to be downloaded from the Hub, by the repository of `wanted` and `revision`."""
    wanted: ModelDescription
    """A `context_length` of 0 stands for what config.json says, and no `model_args` for just that length."""
    revision: str = ""
    """For a model from the Hub: the branch, tag or full commit to publish."""
    encrypt: bool = False
    new_key: bool = False
    """Encrypt anew, although the same content was encrypted before."""
    allow_pickle: bool = False
    copy: bool = False
    """Copy the files into the content directory instead of serving them from where they are."""


def read_manifest(path: Path) -> tuple[UploadRequest, ...]:
    """Return the models of a manifest, in its order. Raises ManifestError with all faults."""
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise ManifestError(f"{path} is too large to be a manifest: it has more than {MANIFEST_BYTES_MAX} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"the manifest {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(f"{path} is not TOML: {error}") from error
    tables = document.get("models")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ManifestError(f"{path} is not a manifest: expected a [[models]] table for each model")
    if len(tables) > MODELS_MAX:
        raise ManifestError(f"{path} has {len(tables)} models; the registry takes {MODELS_MAX}")
    faults = [f"{key}: only [[models]] tables are expected" for key in document if key != "models"]
    requests = []
    numbers: dict[object, int] = {}
    for number, table in enumerate(tables, 1):
        place = f"[[models]] {number}" + (f" ({table['id']})" if isinstance(table.get("id"), str) else "")
        first = numbers.setdefault(table.get("id", number), number)
        if first != number:
            faults.append(f"{place}: id: [[models]] {first} has it already")
        try:
            requests.append(read_request(table, path.parent))
        except ManifestError as error:
            faults.append(f"{place}: {error}")
    if faults:
        raise ManifestError(f"{path} is not a valid manifest:\n  " + "\n  ".join(faults))
    return tuple(requests)


def read_request(values: Mapping[str, object], base: Path) -> UploadRequest:
    """Check the options of one upload; a relative directory is relative to `base`. Raises ManifestError."""
    try:
        return _to_request(_Upload.model_validate(dict(values)), base)
    except ValidationError as error:
        raise ManifestError(
            "; ".join(
                ": ".join([*(str(part) for part in fault["loc"]), fault["msg"].removeprefix("Value error, ")])
                for fault in error.errors()
            )
        ) from error


def _commit(text: str) -> str:
    if text and not FULL_COMMIT.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is not a full commit hash: publish an exact version, not a branch")
    return text


def _arguments(words: list[str]) -> list[str]:
    try:
        merge_model_args(words, ())
    except EngineArgumentsError as error:
        raise ValueError(str(error)) from error
    return words


class _Upload(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    id: ModelIdText
    name: Name
    description: Text = ""
    model: str = ""
    revision: Text = ""
    directory: str = ""
    hf_repo: Text = ""
    hf_commit: Annotated[str, AfterValidator(_commit)] = ""
    model_args: Annotated[ModelArgs, AfterValidator(_arguments)] = []
    vram_mib: VramMib = 0
    throughput_per_nonce: ThroughputPerNonce = 1000
    units_of_compute_per_token: UnitsOfComputePerToken = 1
    context_length: ContextLength | None = None
    poc_distance_max: PocDistanceMax = POC_DISTANCE_DEFAULT
    quantization: Quantization = ""
    kv_cache_quantization: Quantization = ""
    gated: bool = False
    encrypted: bool = False
    encrypt: bool = False
    new_key: bool = False
    allow_pickle: bool = False
    copy_files: bool = Field(default=False, alias="copy")
    proposer: AccountText = ZERO_ADDRESS

    @model_validator(mode="after")
    def _from_somewhere(self) -> "_Upload":
        if self.model and (self.directory or self.hf_repo):
            raise ValueError("give model, or directory, or hf_repo, but one of them only")
        if not (self.model or self.directory or (self.hf_repo and (self.hf_commit or self.revision))):
            raise ValueError("give model (a directory or a repository), or directory, or hf_repo with hf_commit")
        if self.revision and self.hf_commit:
            raise ValueError("give revision or hf_commit: both say which version")
        return self

    @model_validator(mode="after")
    def _encrypted_how(self) -> "_Upload":
        if self.encrypt and self.encrypted:
            raise ValueError(
                "encrypt is for a plain model, encrypted for a directory that is encrypted already: give one"
            )
        if self.new_key and not self.encrypt:
            raise ValueError("new_key goes with encrypt")
        if self.encrypted and not self.context_length:
            raise ValueError("give context_length: that of an encrypted model cannot be read from its config.json")
        return self


def _source(upload: _Upload, base: Path) -> tuple[Path | None, str]:
    """Return the directory, or None and the repository. Raises ManifestError."""
    if not upload.model:
        return (base / Path(upload.directory).expanduser() if upload.directory else None), upload.hf_repo
    directory = base / Path(upload.model).expanduser()
    if directory.exists():
        return directory, ""
    if not REPOSITORY.fullmatch(upload.model):
        raise ManifestError(
            f"model: {upload.model[:200]!r} is neither a directory that exists nor a repository (`owner/name`)"
        )
    return None, upload.model


def _to_request(upload: _Upload, base: Path) -> UploadRequest:
    directory, repository = _source(upload, base)
    if directory is not None and upload.revision:
        raise ManifestError("revision: a directory has none; it goes with a repository")
    if directory is None and upload.encrypted:
        raise ManifestError("encrypted: give the directory; a repository is encrypted here, with encrypt")
    return UploadRequest(
        directory=directory,
        revision=upload.hf_commit or upload.revision or DEFAULT_REVISION,
        encrypt=upload.encrypt,
        new_key=upload.new_key,
        allow_pickle=upload.allow_pickle,
        copy=upload.copy_files,
        wanted=ModelDescription(
            model_id=ModelId(upload.id),
            name=upload.name,
            description=upload.description,
            hf_repo=repository,
            hf_commit=upload.hf_commit,
            model_args=tuple(upload.model_args),
            vram_mib=upload.vram_mib,
            throughput_per_nonce=upload.throughput_per_nonce,
            units_of_compute_per_token=upload.units_of_compute_per_token,
            context_length=upload.context_length or 0,
            poc_distance_max=upload.poc_distance_max,
            quantization=upload.quantization,
            kv_cache_quantization=upload.kv_cache_quantization,
            gated=upload.gated,
            encrypted=upload.encrypted,
            proposer=Address(upload.proposer),
        ),
    )
