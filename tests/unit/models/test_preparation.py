"""Preparing models: all faults at once, no model of a batch at fault imported, files served in place, keys kept."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from node.models.encryption.directory import open_directory, read_sealed
from node.models.encryption.keyring import KeyRing
from node.models.hub import HubAccess
from node.models.manifest import UploadRequest, read_request
from node.models.preparation import (
    PIN_NAME,
    PreparedUpload,
    UploadPlaces,
    UploadsInvalidError,
    complete_description,
    prepare_uploads,
)
from node.models.reporting import LineReporter
from node.models.retries import RetryPolicy
from node.models.validation import ModelFacts, ModelInvalidError
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid as BlockCid
from p2p.content.unixfs_export import export
from tests.hub_stand_in import HubStandIn, Repository, commit_of, hub_stand_in
from tests.unit.models.test_validation import model as model  # noqa: PLC0414 - a fixture
from tests.unit.models.test_validation import write_safetensors


@dataclass
class Owner:
    """Where an owner's uploads go, and what was told."""

    folder: Path
    told: list[str] = field(default_factory=list)
    hub_url: str = "http://127.0.0.1:9"

    @property
    def places(self) -> UploadPlaces:
        return UploadPlaces.below(self.folder, self.folder / "model-keys")

    async def prepare(self, *requests: UploadRequest, skip_download: bool = False) -> tuple[PreparedUpload, ...]:
        access = HubAccess(self.hub_url, retries=RetryPolicy(tries_max=1))
        reporter = LineReporter(self.told.append)
        return await prepare_uploads(requests, self.places, reporter, access, skip_download=skip_download)

    def read(self, cid: str) -> dict[str, bytes]:
        """Export a published model from the store alone."""
        store, target = BlockStore(self.places.content), self.folder / f"exported-{cid}"
        export(BlockCid.parse(cid), store.read, target, limit_bytes=2**30)
        assert [(str(pin.root), pin.name) for pin in store.pins() if str(pin.root) == cid] == [(cid, PIN_NAME)]
        store.close()
        return files_of(target)

    def imported(self) -> int:
        return len(list(self.places.content.rglob("*"))) if self.places.content.exists() else 0


def files_of(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {name: path.read_bytes() for path in found if not (name := str(path.relative_to(directory))).startswith(".")}


def local(model_id: str, directory: Path, **options: object) -> UploadRequest:
    return read_request({"id": model_id, "name": "x", "model": str(directory), **options}, Path("/"))


def on_hub(model_id: str, **options: object) -> UploadRequest:
    return read_request({"id": model_id, "name": "x", "model": "team/x", **options}, Path("/"))


HUB_FILES = {
    "config.json": b'{"architectures": ["X"], "max_position_embeddings": 64}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"chat_template": "x"}',
}
COMMIT = commit_of("first")


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStandIn]:
    """A Hub with one whole model, `team/x`, whose `v1` is its `main`."""
    weights = tmp_path_factory.mktemp("weights") / "model.safetensors"
    write_safetensors(weights)
    with hub_stand_in() as server:
        files = {**HUB_FILES, "model.safetensors": weights.read_bytes()}
        server.repositories["team/x"] = Repository({COMMIT: files}, {"main": COMMIT, "v1": COMMIT})
        yield server


@pytest.fixture
def owner(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Owner:
    url = request.getfixturevalue("hub").url if "hub" in request.fixturenames else ""
    return Owner(tmp_path_factory.mktemp("owner"), hub_url=url or "http://127.0.0.1:9")


async def test_models_come_back_in_the_order_asked_for_and_described_in_full(
    model: Path, owner: Owner, hub: HubStandIn
) -> None:
    downloaded, given = await owner.prepare(on_hub("hub"), local("local", model))
    assert [downloaded.description.model_id, given.description.model_id] == ["hub", "local"]
    assert (downloaded.description.context_length, given.description.context_length) == (64, 512)
    assert (downloaded.description.hf_repo, downloaded.description.hf_commit) == ("team/x", COMMIT)
    assert given.description.model_args == ("--max-model-len", "512")
    assert given.description.hf_repo == ""
    assert downloaded.cid != given.cid


async def test_files_are_served_from_where_they_lie_or_copied_if_asked(model: Path, owner: Owner) -> None:
    (placed,) = await owner.prepare(local("x", model))
    assert owner.read(placed.cid) == files_of(model)
    assert any(f"served from {model}" in line for line in owner.told)
    other = Owner(owner.folder / "other")
    (copied,) = await other.prepare(local("x", model, copy=True))
    assert copied.cid == placed.cid
    before = files_of(model)
    for path in model.iterdir():
        path.unlink()
    assert other.read(copied.cid) == before


async def test_faults_of_all_models_are_told_and_nothing_is_imported_or_encrypted(
    model: Path, owner: Owner, hub: HubStandIn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    hub.faults.statuses["/team/x/resolve/"] = [500] * 100
    with pytest.raises(UploadsInvalidError) as caught:
        await owner.prepare(
            local("good", model, encrypt=True),
            on_hub("hub"),
            local("empty", empty),
            read_request({"id": "no", "name": "x", "directory": str(empty / "no")}, Path("/")),
        )
    for words in ("hub: team/x: the Hub answered 500", "empty: config.json is missing", "is not a directory"):
        assert words in str(caught.value)
    assert "good:" not in str(caught.value)
    assert owner.imported() == 0
    assert not owner.places.keys.exists()


# --- from the Hub -----------------------------------------------------------------------------------------------------


async def test_a_branch_is_resolved_once_and_the_commit_is_told_and_registered(owner: Owner, hub: HubStandIn) -> None:
    (upload,) = await owner.prepare(on_hub("hub", revision="v1"))
    assert upload.description.hf_commit == COMMIT
    assert f"team/x at v1 is commit {COMMIT}" in owner.told
    assert owner.read(upload.cid) == hub.repositories["team/x"].commits[COMMIT]


async def test_a_download_that_was_cut_off_goes_on_where_it_stopped(owner: Owner, hub: HubStandIn) -> None:
    large = bytes(3_000_000)
    hub.repositories["team/x"].commits[COMMIT]["vocab.txt"] = large
    hub.faults.cut_after["vocab.txt"] = [2_000_000]
    with pytest.raises(UploadsInvalidError, match="team/x"):
        await owner.prepare(on_hub("hub"))
    (upload,) = await owner.prepare(on_hub("hub"))
    assert owner.read(upload.cid)["vocab.txt"] == large
    assert hub.sent["vocab.txt"] < 4_000_000  # and not all of it twice


async def test_a_wrong_byte_from_the_hub_is_never_published(owner: Owner, hub: HubStandIn) -> None:
    hub.faults.wrong_bytes["model.safetensors"] = 1
    with pytest.raises(UploadsInvalidError, match=r"model\.safetensors"):
        await owner.prepare(on_hub("hub"))
    (upload,) = await owner.prepare(on_hub("hub"))
    assert owner.read(upload.cid) == hub.repositories["team/x"].commits[COMMIT]


async def test_a_whole_download_stays_and_is_what_is_published_without_asking_the_hub(
    owner: Owner, hub: HubStandIn
) -> None:
    (first,) = await owner.prepare(on_hub("hub", revision="v1"))
    asked = len(hub.requests)
    for revision in ("v1", COMMIT):
        (again,) = await owner.prepare(on_hub("hub", revision=revision), skip_download=True)
        assert (again.cid, again.description.hf_commit) == (first.cid, COMMIT)
    assert len(hub.requests) == asked
    (third,) = await owner.prepare(on_hub("hub"))
    assert third.cid == first.cid
    assert hub.sent["model.safetensors"] == len(hub.repositories["team/x"].commits[COMMIT]["model.safetensors"])


async def test_what_was_not_downloaded_whole_is_not_taken_by_skip_download(owner: Owner, hub: HubStandIn) -> None:
    hub.faults.statuses["/team/x/resolve/"] = [500] * 100
    with pytest.raises(UploadsInvalidError):
        await owner.prepare(on_hub("hub"))
    for revision in ("main", "other", COMMIT):
        with pytest.raises(UploadsInvalidError, match="was not downloaded to its end"):
            await owner.prepare(on_hub("hub", revision=revision), skip_download=True)


async def test_pickled_weights_are_downloaded_only_if_asked_for(owner: Owner, hub: HubStandIn) -> None:
    hub.repositories["team/x"].commits[COMMIT]["pytorch_model.bin"] = b"pickle"
    hub.repositories["team/x"].commits[COMMIT]["modeling.py"] = b"import os"
    (plain,) = await owner.prepare(on_hub("hub"))
    assert "pytorch_model.bin" not in owner.read(plain.cid)
    (with_pickles,) = await owner.prepare(on_hub("hub", allow_pickle=True))
    published = owner.read(with_pickles.cid)
    assert published["pytorch_model.bin"] == b"pickle"
    assert "modeling.py" not in published


@pytest.mark.parametrize("revision", ["absent", "../main", "-x"])
async def test_a_revision_that_is_not_there_is_named(owner: Owner, hub: HubStandIn, revision: str) -> None:
    with pytest.raises(UploadsInvalidError, match="team/x"):
        await owner.prepare(on_hub("hub", revision=revision))


async def test_a_hub_that_does_not_answer_is_told_in_words(owner: Owner) -> None:
    with pytest.raises(UploadsInvalidError, match="team/x: the Hub cannot be reached"):
        await owner.prepare(on_hub("hub"))


async def test_a_model_that_does_not_fit_the_disk_is_refused_before_it_is_downloaded(
    owner: Owner, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.models.hub.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UploadsInvalidError, match="make room"):
        await owner.prepare(on_hub("hub"))
    assert not hub.sent


# --- encrypted --------------------------------------------------------------------------------------------------------


async def test_an_encrypted_model_is_published_as_ciphertext_that_its_kept_key_opens(model: Path, owner: Owner) -> None:
    (upload,) = await owner.prepare(local("team/secret", model, encrypt=True))
    assert upload.description.encrypted
    assert upload.description.context_length == 512
    published = owner.read(upload.cid)
    assert all(name.endswith((".sealed", "encrypted-model.json")) for name in published)
    assert not any(b"architectures" in data for data in published.values())
    sealed = read_sealed(owner.folder / f"exported-{upload.cid}")
    (held,) = KeyRing(owner.places.keys).held()
    (owner.folder / "opened").mkdir()
    open_directory(sealed, owner.folder / "opened", held.key)
    assert files_of(owner.folder / "opened") == files_of(model)
    assert any("back it up" in line and held.key.key_id.hex() in line for line in owner.told)


async def test_the_same_model_encrypted_again_has_the_same_cid_unless_a_new_key_is_asked_for(
    model: Path, owner: Owner
) -> None:
    (first,) = await owner.prepare(local("x", model, encrypt=True))
    (again,) = await owner.prepare(local("x", model, encrypt=True))
    assert again == first
    (rotated,) = await owner.prepare(local("x", model, encrypt=True, new_key=True))
    assert rotated.cid != first.cid
    assert owner.read(first.cid)  # the version before is still served
    os.utime(model / "config.json")
    (touched,) = await owner.prepare(local("x", model, encrypt=True))
    assert touched == rotated


async def test_an_encrypted_model_from_the_hub_does_not_tell_which_it_is(owner: Owner, hub: HubStandIn) -> None:
    (upload,) = await owner.prepare(on_hub("x", encrypt=True))
    assert (upload.description.hf_repo, upload.description.hf_commit) == ("", "")


async def test_a_directory_that_is_encrypted_already_is_published_as_it_is(model: Path, owner: Owner) -> None:
    (first,) = await owner.prepare(local("x", model, encrypt=True))
    (directory,) = owner.places.sealed.glob("*/1/model")
    (again,) = await owner.prepare(local("x", directory, encrypted=True, context_length=512))
    assert again.cid == first.cid
    (directory / "config.json").write_text("{}")
    with pytest.raises(UploadsInvalidError, match="does not belong into an encrypted model"):
        await owner.prepare(local("x", directory, encrypted=True, context_length=512))
    with pytest.raises(UploadsInvalidError, match="is missing: this is no encrypted model"):
        await owner.prepare(local("x", model, encrypted=True, context_length=512))


async def test_an_upload_that_is_stopped_while_it_encrypts_goes_on_with_the_same_key(model: Path, owner: Owner) -> None:
    (model / "vocab.txt").write_bytes(bytes(40 * 2**20))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(owner.prepare, local("x", model, encrypt=True))
            while not list(owner.places.sealed.rglob("*.sealed")):
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    before = {path: path.read_bytes() for path in owner.places.sealed.rglob("*.sealed")}
    await owner.prepare(local("x", model, encrypt=True))
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(KeyRing(owner.places.keys).held())) == 1


# --- what an owner is told --------------------------------------------------------------------------------------------


def test_the_context_length_is_never_guessed() -> None:
    wanted = local("x", Path("/")).wanted
    with pytest.raises(ModelInvalidError, match="context length"):
        complete_description(wanted, ModelFacts("X", None, 0, 0))
    with pytest.raises(ModelInvalidError, match="context length"):
        complete_description(wanted, ModelFacts("X", -1, 0, 0))


async def test_pickled_weights_are_published_only_if_asked_for_and_with_a_warning(model: Path, owner: Owner) -> None:
    (model / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UploadsInvalidError, match=r"pytorch_model\.bin: pickled"):
        await owner.prepare(local("x", model))
    (upload,) = await owner.prepare(local("x", model, allow_pickle=True))
    assert any(line.startswith("WARNING: x has pickled weights (pytorch_model.bin)") for line in owner.told)
    assert "pytorch_model.bin" in owner.read(upload.cid)


def test_progress_in_lines_comes_at_every_tenth_of_long_work_and_not_for_short(owner: Owner) -> None:
    reporter = LineReporter(owner.told.append)
    with reporter.step("short", 1000) as advance:
        advance(1000)
    assert owner.told == []
    with reporter.step("x: importing", 1000 * 2**20) as advance:
        for _ in range(1000):
            advance(2**20)
    assert len(owner.told) == 10
    assert owner.told[-1] == "  x: importing: 100 % (1000 of 1000 MiB)"
    with reporter.step("x: downloading", 0) as advance:
        for _ in range(600):
            advance(2**20)
    assert owner.told[-2:] == ["  x: downloading: 256 MiB", "  x: downloading: 512 MiB"]
