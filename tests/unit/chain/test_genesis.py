"""Genesis files: what is written is read back the same, and what the registry would refuse is refused before it."""

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.bindings import model_registry
from node.chain.genesis import GenesisFileError, read_genesis, write_genesis
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.calibration import Calibration, HonestBand, calibration_bytes
from node.protocol.identifiers import ModelId
from node.protocol.json_records import to_json_value

CIDS = (
    "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
    "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
)
PROPOSER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
CALIBRATION = Calibration(
    ModelId("team/tiny-1.5"), len(CIDS), (HonestBand("vllm", "nvidia h200", 400_000, 900, 1, 2, 3, 4),)
)
MODEL = model_registry.ModelImport(
    model_id="team/tiny-1.5",
    name="Tiny",
    description="ein kleines Modell · ½",
    active=False,
    spec=model_registry.ModelSpec(
        hf_repo="team/tiny",
        hf_commit="0" * 40,
        model_args=("--max-model-len", "512"),
        quantization="fp8",
        kv_cache_quantization="fp8_e5m2",
        vram_mib=2**32 - 1,
        throughput_per_nonce=1000,
        units_of_compute_per_token=2**64 - 1,
        context_length=512,
        poc_distance_max=0,
        gated=True,
        encrypted=True,
        proposer=PROPOSER,
    ),
    cids=CIDS,
    calibration=calibration_bytes(CALIBRATION),
)


BANDS = to_json_value(CALIBRATION)["bands"]


def record(**changes: Any) -> dict[str, Any]:
    spec = {
        "throughput_per_nonce": 1,
        "units_of_compute_per_token": 1,
        "context_length": 1,
        "poc_distance_max": 0,
        **changes.pop("spec", {}),
    }
    return {"model_id": "tiny", "name": "Tiny", "cids": [CIDS[0]], "spec": spec, **changes}


def written(path: Path, *models: dict[str, Any]) -> Path:
    path = path / "genesis.json"
    path.write_text(json.dumps({"models": models}), encoding="utf-8")
    return path


def test_what_is_written_is_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    write_genesis(path, (MODEL,))
    assert read_genesis(path) == (MODEL,)
    assert [entry.name for entry in tmp_path.iterdir()] == ["genesis.json"]


def test_a_network_may_begin_without_models(tmp_path: Path) -> None:
    write_genesis(tmp_path / "genesis.json", ())
    assert read_genesis(tmp_path / "genesis.json") == ()


def test_a_file_by_hand_may_leave_out_what_has_a_default(tmp_path: Path) -> None:
    (model,) = read_genesis(written(tmp_path, record()))
    assert (model.description, model.active, model.spec.model_args, model.spec.proposer) == ("", True, (), ZERO_ADDRESS)


@pytest.mark.parametrize(
    ("faulty", "named"),
    [
        (record(model_id="Tiny"), "models.0.model_id"),
        (record(model_id="x" * 65), "models.0.model_id"),
        (record(name=""), "models.0.name"),
        (record(description="½" * 257), "514 bytes"),
        (record(cids=[]), "models.0.cids"),
        (record(cids=["QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG"]), "models.0.cids.0"),
        (record(active=1), "models.0.active"),
        (record(calibration={}), "models.0"),
        (record(calibration={"model_id": "other", "model_version": 1, "bands": BANDS}), "is of other version 1"),
        (record(calibration={"model_id": "tiny", "model_version": 2, "bands": BANDS}), "not of version 1"),
        (record(calibration={"model_id": "tiny", "model_version": 1, "bands": []}), "1 to 15 bands"),
        (record(owner=PROPOSER), "models.0.owner"),
        (record(spec={"context_length": 0}), "models.0.spec.context_length"),
        (record(spec={"throughput_per_nonce": True}), "models.0.spec.throughput_per_nonce"),
        (record(spec={"vram_mib": 2**32}), "models.0.spec.vram_mib"),
        (record(spec={"quantization": "q" * 65}), "models.0.spec.quantization"),
        (record(spec={"model_args": ["--x"] * 65}), "models.0.spec.model_args"),
        (record(spec={"proposer": PROPOSER.lower()}), "not a checksummed address"),
    ],
)
def test_what_the_registry_would_refuse_is_named(tmp_path: Path, faulty: dict[str, Any], named: str) -> None:
    with pytest.raises(GenesisFileError) as caught:
        read_genesis(written(tmp_path, faulty))
    assert named in str(caught.value)


def test_a_model_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenesisFileError, match="twice in the file: tiny"):
        read_genesis(written(tmp_path, record(), record()))


@pytest.mark.parametrize("text", ["", "[]", '{"models": 1}', "{}", "\x00"])
def test_what_is_no_genesis_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "genesis.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GenesisFileError, match="not a genesis file"):
        read_genesis(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GenesisFileError, match=r"genesis\.json cannot be read"):
        read_genesis(tmp_path / "genesis.json")
