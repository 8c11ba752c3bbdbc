"""The models a network begins with, as a file: written from one registry, read to fill the next one.

A file is checked as the ModelRegistry checks it, so that a deployment does not stop half way at a model it refuses.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contracts.bindings import model_registry
from node.chain.calibrations import calibration_from_json, calibration_to_json
from node.models.record_fields import (
    MODELS_MAX,
    AccountText,
    CidText,
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
from node.protocol.calibration import calibration_bytes

GENESIS_BYTES_MAX = 64 * 1024 * 1024
"""Far more than MODELS_MAX models with hundreds of versions each."""
VERSIONS_MAX = 200
"""All versions of a model are imported in one transaction, whose gas EIP-7825 limits to 2^24."""


class GenesisFileError(Exception):
    """The genesis file is missing or damaged; the message says where."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Spec(_Record):
    """A model's specification. What has a default may be left out by whoever writes a file by hand."""

    hf_repo: Text = ""
    hf_commit: Text = ""
    model_args: ModelArgs = []
    quantization: Quantization = ""
    kv_cache_quantization: Quantization = ""
    vram_mib: VramMib = 0
    throughput_per_nonce: ThroughputPerNonce
    units_of_compute_per_token: UnitsOfComputePerToken
    context_length: ContextLength
    poc_distance_max: PocDistanceMax
    gated: bool = False
    encrypted: bool = False
    proposer: AccountText = ZERO_ADDRESS
    """Zero stands for whoever deploys."""


class _Model(_Record):
    model_id: ModelIdText
    name: Name
    description: Text = ""
    active: bool = True
    spec: _Spec
    cids: list[CidText] = Field(min_length=1, max_length=VERSIONS_MAX)
    """All versions, the first one first; the last one is current."""
    calibration: dict[str, Any] | None = None
    """Of the current version, as `quern calibrate` writes it."""

    @model_validator(mode="after")
    def _calibrated_as_it_is(self) -> "_Model":
        if self.calibration is not None:
            found = calibration_from_json(self.calibration)
            version = len(self.cids)
            if (found.model_id, found.model_version) != (self.model_id, version):
                measured = f"{found.model_id} version {found.model_version}"
                raise ValueError(f"its calibration is of {measured}, not of version {version}")
        return self


class _Genesis(_Record):
    models: list[_Model] = Field(max_length=MODELS_MAX)

    @model_validator(mode="after")
    def _each_once(self) -> "_Genesis":
        ids = [model.model_id for model in self.models]
        twice = sorted({model_id for model_id in ids if ids.count(model_id) > 1})
        if twice:
            raise ValueError(f"twice in the file: {', '.join(twice)}")
        return self


def read_genesis(path: Path) -> tuple[model_registry.ModelImport, ...]:
    """Return the models of a genesis file, in the order in which they are to be imported. Raises GenesisFileError."""
    try:
        if path.stat().st_size > GENESIS_BYTES_MAX:
            raise GenesisFileError(f"{path} is too large to be a genesis file")
        genesis = _Genesis.model_validate_json(path.read_bytes())
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'the file'}: {detail['msg']}"
            for detail in error.errors()
        )
        raise GenesisFileError(f"{path} is not a genesis file: {faults}") from error
    except OSError as error:
        raise GenesisFileError(f"the genesis file {path} cannot be read: {error}") from error
    return tuple(_to_import(model) for model in genesis.models)


def write_genesis(path: Path, models: Sequence[model_registry.ModelImport]) -> None:
    """Write the file in one step: a reader never sees half of it."""
    staged = path.with_name(path.name + ".new")
    staged.write_text(genesis_text(models), encoding="utf-8")
    staged.replace(path)


def genesis_text(models: Sequence[model_registry.ModelImport]) -> str:
    """Return the contents of a genesis file."""
    records = [_from_import(model).model_dump(mode="json") for model in models]
    return json.dumps({"models": records}, indent=2, ensure_ascii=False) + "\n"


def _to_import(model: _Model) -> model_registry.ModelImport:
    spec = model.spec
    return model_registry.ModelImport(
        model_id=model.model_id,
        name=model.name,
        description=model.description,
        active=model.active,
        spec=model_registry.ModelSpec(
            hf_repo=spec.hf_repo,
            hf_commit=spec.hf_commit,
            model_args=tuple(spec.model_args),
            quantization=spec.quantization,
            kv_cache_quantization=spec.kv_cache_quantization,
            vram_mib=spec.vram_mib,
            throughput_per_nonce=spec.throughput_per_nonce,
            units_of_compute_per_token=spec.units_of_compute_per_token,
            context_length=spec.context_length,
            poc_distance_max=spec.poc_distance_max,
            gated=spec.gated,
            encrypted=spec.encrypted,
            proposer=spec.proposer,
        ),
        cids=tuple(model.cids),
        calibration=b"" if model.calibration is None else calibration_bytes(calibration_from_json(model.calibration)),
    )


def _from_import(model: model_registry.ModelImport) -> _Model:
    """Not checked anew: what a registry holds is exported as it is, and said to be wrong when it is read."""
    spec = model.spec
    return _Model.model_construct(
        model_id=model.model_id,
        name=model.name,
        description=model.description,
        active=model.active,
        spec=_Spec.model_construct(
            hf_repo=spec.hf_repo,
            hf_commit=spec.hf_commit,
            model_args=list(spec.model_args),
            quantization=spec.quantization,
            kv_cache_quantization=spec.kv_cache_quantization,
            vram_mib=spec.vram_mib,
            throughput_per_nonce=spec.throughput_per_nonce,
            units_of_compute_per_token=spec.units_of_compute_per_token,
            context_length=spec.context_length,
            poc_distance_max=spec.poc_distance_max,
            gated=spec.gated,
            encrypted=spec.encrypted,
            proposer=spec.proposer,
        ),
        cids=list(model.cids),
        calibration=calibration_to_json(model.calibration),
    )
