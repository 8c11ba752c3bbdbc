"""Manifests: what is written is what is published, and everything wrong in one is told at once, by table and key."""

from pathlib import Path

import pytest

from node.models.manifest import POC_DISTANCE_DEFAULT, ManifestError, read_manifest, read_request
from node.models.publish import ModelDescription
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address, ModelId

PROPOSER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
COMMIT = "c0ffee" + "0" * 34


def written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_arrives_where_it_belongs(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"""
        [[models]]
        id = "team/tiny"
        name = "Tiny"
        description = "ein kleines Modell · ½"
        directory = "files/tiny"
        hf_repo = "team/tiny"
        hf_commit = "{COMMIT}"
        model_args = ["--max-model-len", "512"]
        vram_mib = 1
        throughput_per_nonce = 2
        units_of_compute_per_token = 3
        context_length = 4
        poc_distance_max = 18446744073709551615
        quantization = "fp8"
        kv_cache_quantization = "fp8_e5m2"
        gated = true
        encrypted = true
        proposer = "{PROPOSER}"
        """,
    )
    (request,) = read_manifest(path)
    assert request.directory == tmp_path / "files" / "tiny"
    assert request.wanted == ModelDescription(
        model_id=ModelId("team/tiny"),
        name="Tiny",
        description="ein kleines Modell · ½",
        hf_repo="team/tiny",
        hf_commit=COMMIT,
        model_args=("--max-model-len", "512"),
        vram_mib=1,
        throughput_per_nonce=2,
        units_of_compute_per_token=3,
        context_length=4,
        poc_distance_max=2**64 - 1,
        quantization="fp8",
        kv_cache_quantization="fp8_e5m2",
        gated=True,
        encrypted=True,
        proposer=Address(PROPOSER),
    )


def test_what_is_left_out_has_the_defaults_of_the_command_line(tmp_path: Path) -> None:
    text = f'[[models]]\nid = "b"\nname = "B"\nhf_repo = "team/b"\nhf_commit = "{COMMIT}"\n'
    first, second = read_manifest(written(tmp_path, f'{text}[[models]]\nid = "a"\nname = "A"\ndirectory = "/a"\n'))
    assert (first.directory, second.directory) == (None, Path("/a"))
    assert second.wanted == ModelDescription(
        ModelId("a"), "A", "", "", "", (), 0, 1000, 1, 0, POC_DISTANCE_DEFAULT, proposer=ZERO_ADDRESS
    )


def test_all_faults_are_told_together_with_table_and_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        version = 1
        [[models]]
        id = "Upper"
        name = "x"
        directory = "a"
        vram_mib = "24"
        [[models]]
        id = "tiny"
        name = "x"
        directory = "a"
        model_args = ["--host", "0.0.0.0"]
        [[models]]
        id = "tiny"
        name = ""
        hf_repo = "team/tiny"
        hf_commit = "main"
        prize = 3
        [[models]]
        name = "nowhere"
        """,
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = str(caught.value).splitlines()
    for place, words in (
        ("", "version: only [[models]]"),
        ("[[models]] 1 (Upper)", "id: expected 1 to 64 lower-case"),
        ("[[models]] 1 (Upper)", "vram_mib: "),
        ("[[models]] 2 (tiny)", "model_args: the registry's model_args: --host is not allowed"),
        ("[[models]] 3 (tiny)", "id: [[models]] 2 has it already"),
        ("[[models]] 3 (tiny)", "name: "),
        ("[[models]] 3 (tiny)", "hf_commit: 'main' is not a full commit hash"),
        ("[[models]] 3 (tiny)", "prize: "),
        ("[[models]] 4", "id: Field required"),
    ):
        assert any(place in line and words in line for line in lines), (place, words, lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = 3", r"expected a \[\[models\]\] table"),
        ("models = []", r"expected a \[\[models\]\] table"),
        ("models = [1]", r"expected a \[\[models\]\] table"),
        ("", r"expected a \[\[models\]\] table"),
        ("[[models]\n", "is not TOML"),
        ("#" * (1024 * 1024 + 1), "too large"),
        ("[[models]]\n" * 257, "257 models; the registry takes 256"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read_manifest(written(tmp_path, text))


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent\.toml cannot be read"):
        read_manifest(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"directory": ""}, "or directory, or hf_repo with hf_commit"),
        ({"directory": "", "hf_repo": "team/tiny"}, "or directory, or hf_repo with hf_commit"),
        ({"hf_commit": "main"}, "not a full commit hash"),
        ({"context_length": 0}, "context_length"),
        ({"units_of_compute_per_token": 0}, "units_of_compute_per_token"),
        ({"throughput_per_nonce": 2**64}, "throughput_per_nonce"),
        ({"gated": 1}, "gated"),
        ({"proposer": PROPOSER.lower()}, "proposer: .* is not a checksummed address"),
        ({"description": "½" * 257}, "description: has 514 bytes"),
        ({"quantization": "q" * 65}, "quantization"),
    ],
)
def test_what_the_registry_would_refuse_is_refused_before(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    good: dict[str, object] = {"id": "tiny", "name": "Tiny", "directory": "x"}
    read_request(good, tmp_path)
    with pytest.raises(ManifestError, match=words):
        read_request({**good, **change}, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "x", "directory": "x"}, "one of them only"),
        ({"model": "x", "hf_repo": "team/x"}, "one of them only"),
        ({}, "give model"),
        ({"model": "./absent"}, "neither a directory that exists nor a repository"),
        ({"model": "a/b/c"}, "neither a directory that exists nor a repository"),
        ({"model": "here", "revision": "main"}, "a directory has none"),
        ({"model": "team/x", "revision": "v1", "hf_commit": COMMIT}, "both say which version"),
        ({"model": "here", "encrypt": True, "encrypted": True}, "encrypt is for a plain model"),
        ({"model": "here", "new_key": True}, "new_key goes with encrypt"),
        ({"model": "here", "encrypted": True}, "give context_length"),
        ({"model": "team/x", "encrypted": True, "context_length": 1}, "give the directory"),
        ({"model": "here", "copy": 1}, "copy"),
    ],
)
def test_options_of_a_source_that_contradict_each_other_are_refused(
    tmp_path: Path, options: dict[str, object], words: str
) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(ManifestError, match=words):
        read_request({"id": "x", "name": "X", **options}, tmp_path)


def test_a_model_is_a_directory_if_that_exists_and_else_a_repository(tmp_path: Path) -> None:
    (tmp_path / "team" / "chat").mkdir(parents=True)
    here = read_request({"id": "x", "name": "X", "model": "team/chat"}, tmp_path)
    assert (here.directory, here.wanted.hf_repo) == (tmp_path / "team" / "chat", "")
    there = read_request({"id": "x", "name": "X", "model": "team/other"}, tmp_path)
    assert (there.directory, there.wanted.hf_repo, there.revision) == (None, "team/other", "main")
    tagged = read_request({"id": "x", "name": "X", "model": "team/other", "revision": "v1"}, tmp_path)
    assert tagged.revision == "v1"
    exact = read_request({"id": "x", "name": "X", "hf_repo": "team/other", "hf_commit": COMMIT}, tmp_path)
    assert exact.revision == COMMIT
