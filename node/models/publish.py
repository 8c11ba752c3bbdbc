"""What publishing a model means on chain: a first registration, a new version, or nothing at all."""

from dataclasses import dataclass

from node.protocol.actions import RegisterModel, UpdateModel
from node.protocol.identifiers import Cid, ModelId
from node.protocol.records import ModelRecord


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


def publication(
    description: ModelDescription, cid: Cid, known: ModelRecord | None
) -> RegisterModel | UpdateModel | None:
    """Return the action that makes `cid` the current version; None if it is already."""
    if known is None:
        return RegisterModel(
            model_id=description.model_id,
            cid=cid,
            name=description.name,
            description=description.description,
            hf_repo=description.hf_repo,
            hf_commit=description.hf_commit,
            model_args=description.model_args,
            vram_mib=description.vram_mib,
            throughput_per_nonce=description.throughput_per_nonce,
            units_of_compute_per_token=description.units_of_compute_per_token,
            context_length=description.context_length,
            poc_distance_max=description.poc_distance_max,
        )
    if known.cid == cid and known.active:
        return None
    return UpdateModel(description.model_id, cid)
