"""Reads what an owner wants published: a TOML manifest of models, or the same options given one by one.

Everything that can be known without the files and without the chain is checked here, and all of it is told at once.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from node.engine.arguments import EngineArgumentsError, merge_model_args
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
    """Where its files are; None: to be downloaded from the Hub, by the repository and commit of `wanted`."""
    wanted: ModelDescription
    """A `context_length` of 0 stands for what config.json says, and no `model_args` for just that length."""


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
    proposer: AccountText = ZERO_ADDRESS

    @model_validator(mode="after")
    def _from_somewhere(self) -> "_Upload":
        if not self.directory and not (self.hf_repo and self.hf_commit):
            raise ValueError("give directory, or hf_repo with hf_commit")
        return self


def _to_request(upload: _Upload, base: Path) -> UploadRequest:
    return UploadRequest(
        directory=base / Path(upload.directory).expanduser() if upload.directory else None,
        wanted=ModelDescription(
            model_id=ModelId(upload.id),
            name=upload.name,
            description=upload.description,
            hf_repo=upload.hf_repo,
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
