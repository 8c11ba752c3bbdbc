"""Preparing models: all faults at once, no directory of a batch at fault imported, only cut-off downloads kept."""

from pathlib import Path

import pytest

from node.models import preparation
from node.models.hub import HubError
from node.models.manifest import UploadRequest, read_request
from node.models.preparation import UploadsInvalidError, complete_description, prepare_uploads
from node.models.validation import ModelFacts, ModelInvalidError
from tests.unit.models.test_validation import model as model  # noqa: PLC0414 - a fixture
from tests.unit.models.test_validation import write_safetensors

COMMIT = "c0ffee" + "0" * 34


def local(model_id: str, directory: Path) -> UploadRequest:
    return read_request({"id": model_id, "name": "x", "directory": str(directory)}, Path("/"))


def on_hub(model_id: str) -> UploadRequest:
    return read_request({"id": model_id, "name": "x", "hf_repo": "team/x", "hf_commit": COMMIT}, Path("/"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A Hub that gives a whole model, unless `broken` is set: then it breaks off after one file."""
    asked: dict[str, object] = {"broken": False, "found": []}

    def download(repository: str, commit: str, destination: Path, *, endpoint: str | None = None) -> Path:
        destination.mkdir(parents=True, exist_ok=True)
        asked["found"] = sorted(path.name for path in destination.iterdir())
        (destination / "tokenizer.json").write_text("{}")
        if asked["broken"]:
            raise HubError(f"{repository}: cut off")
        (destination / "config.json").write_text('{"architectures": ["X"], "max_position_embeddings": 64}')
        (destination / "tokenizer_config.json").write_text('{"chat_template": "x"}')
        write_safetensors(destination / "model.safetensors")
        return destination

    monkeypatch.setattr(preparation, "download_model", download)
    return asked


async def prepare(folder: Path, *requests: UploadRequest) -> tuple[preparation.PreparedUpload, ...]:
    return await prepare_uploads(requests, folder / "content", folder / "downloads", lambda line: None)


def blocks(folder: Path) -> int:
    return sum(1 for path in (folder / "content").rglob("*") if path.is_file())


async def test_models_come_back_in_the_order_asked_for_and_described_in_full(
    model: Path, tmp_path_factory: pytest.TempPathFactory, hub: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("node")
    downloaded, copied = await prepare(folder, on_hub("hub"), local("local", model))
    assert [downloaded.description.model_id, copied.description.model_id] == ["hub", "local"]
    assert (downloaded.description.context_length, copied.description.context_length) == (64, 512)
    assert copied.description.model_args == ("--max-model-len", "512")
    assert downloaded.cid != copied.cid
    assert list((folder / "downloads").iterdir()) == []


async def test_faults_of_all_models_are_told_and_no_directory_is_imported(
    model: Path, tmp_path_factory: pytest.TempPathFactory, hub: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("node")
    empty = tmp_path_factory.mktemp("empty")
    hub["broken"] = True
    with pytest.raises(UploadsInvalidError) as caught:
        await prepare(folder, local("good", model), on_hub("hub"), local("empty", empty), local("no", empty / "no"))
    for words in ("hub: team/x: cut off", "empty: config.json is missing", "is not a directory"):
        assert words in str(caught.value)
    assert "good:" not in str(caught.value)
    before = blocks(folder)
    await prepare(folder, local("good", model))
    assert blocks(folder) > before


async def test_a_download_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path, hub: dict[str, object]) -> None:
    hub["broken"] = True
    with pytest.raises(UploadsInvalidError):
        await prepare(tmp_path, on_hub("hub"))
    hub["broken"] = False
    await prepare(tmp_path, on_hub("hub"))
    assert hub["found"] == ["tokenizer.json"]


def test_the_context_length_is_never_guessed() -> None:
    wanted = local("x", Path("/")).wanted
    with pytest.raises(ModelInvalidError, match="context length"):
        complete_description(wanted, ModelFacts("X", None, 0, 0))
    with pytest.raises(ModelInvalidError, match="context length"):
        complete_description(wanted, ModelFacts("X", -1, 0, 0))


async def test_encrypted_weights_are_taken_unread_but_everything_else_is_looked_at(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 64)
    folder = tmp_path_factory.mktemp("node")
    options = {"id": "x", "name": "x", "directory": str(model)}
    with pytest.raises(UploadsInvalidError, match=r"model\.safetensors"):
        await prepare(folder, read_request(options, Path("/")))
    await prepare(folder, read_request({**options, "encrypted": True}, Path("/")))
    (model / "run.py").write_text("")
    with pytest.raises(UploadsInvalidError, match=r"run\.py: code"):
        await prepare(folder, read_request({**options, "encrypted": True}, Path("/")))
