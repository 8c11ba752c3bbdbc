"""What publishing a model means on chain: a first registration, a new version, another specification, or nothing."""

from dataclasses import dataclass, fields, replace

from node.protocol.actions import ZERO_ADDRESS, RegisterModel, SetModelSpec, UpdateModel
from node.protocol.identifiers import Address, Cid, ModelId
from node.protocol.records import ModelRecord

PublishAction = RegisterModel | SetModelSpec | UpdateModel


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What an owner says of a model besides its content."""

    model_id: ModelId
    name: str
    description: str
    hf_repo: str
    hf_commit: str
    model_args: tuple[str, ...]
    vram_mib: int
    throughput_per_nonce: int
    units_of_compute_per_token: int
    context_length: int
    poc_distance_max: int
    quantization: str = ""
    kv_cache_quantization: str = ""
    gated: bool = False
    encrypted: bool = False
    proposer: Address = ZERO_ADDRESS
    """Zero stands for the registering account at first, for the present proposer later."""


def publication(description: ModelDescription, cid: Cid, known: ModelRecord | None) -> tuple[PublishAction, ...]:
    """Return what makes `cid` the current version, described so, in the order to send it; nothing if it is already.

    A specification precedes the version it is for: a new version never goes out open, or at its predecessor's price.
    """
    wanted = _specification(description)
    if known is None:
        return (
            RegisterModel(
                model_id=description.model_id,
                cid=cid,
                name=description.name,
                description=description.description,
                hf_repo=wanted.hf_repo,
                hf_commit=wanted.hf_commit,
                model_args=wanted.model_args,
                vram_mib=wanted.vram_mib,
                throughput_per_nonce=wanted.throughput_per_nonce,
                units_of_compute_per_token=wanted.units_of_compute_per_token,
                context_length=wanted.context_length,
                poc_distance_max=wanted.poc_distance_max,
                quantization=wanted.quantization,
                kv_cache_quantization=wanted.kv_cache_quantization,
                gated=wanted.gated,
                encrypted=wanted.encrypted,
                proposer=wanted.proposer,
            ),
        )
    actions: list[PublishAction] = []
    if changed_fields(description, known):
        actions.append(wanted)
    if known.cid != cid or not known.active:
        actions.append(UpdateModel(description.model_id, cid))
    return tuple(actions)


def changed_fields(description: ModelDescription, known: ModelRecord) -> tuple[str, ...]:
    """Return each difference in specification as `field: old becomes new`, for the owner to read."""
    present, wanted = _specification(known), _specification(description)
    if wanted.proposer == ZERO_ADDRESS:
        wanted = replace(wanted, proposer=present.proposer)
    return tuple(
        f"{name}: {getattr(present, name)!r} becomes {getattr(wanted, name)!r}"
        for name in (field.name for field in fields(SetModelSpec))
        if getattr(present, name) != getattr(wanted, name)
    )


def fixed_differences(description: ModelDescription, known: ModelRecord) -> tuple[str, ...]:
    """Return which of `name` and `description` differ from the registered ones, which nothing can change."""
    return tuple(name for name in ("name", "description") if getattr(description, name) != getattr(known, name))


def _specification(source: ModelDescription | ModelRecord) -> SetModelSpec:
    return SetModelSpec(
        model_id=source.model_id,
        hf_repo=source.hf_repo,
        hf_commit=source.hf_commit,
        model_args=source.model_args,
        vram_mib=source.vram_mib,
        throughput_per_nonce=source.throughput_per_nonce,
        units_of_compute_per_token=source.units_of_compute_per_token,
        context_length=source.context_length,
        poc_distance_max=source.poc_distance_max,
        quantization=source.quantization,
        kv_cache_quantization=source.kv_cache_quantization,
        gated=source.gated,
        encrypted=source.encrypted,
        proposer=source.proposer,
    )
