"""Downloads from the Hub by the real huggingface_hub, against a server that speaks its endpoints and fails like it."""

import errno
import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from huggingface_hub import constants, hf_hub_download

from node.models.identity import LocalModelId
from node.models.requests import HubRequest
from node.models.states import ModelStatus, ModelType
from tests.hub_stand_in import HubStandIn, commit_of, hub_stand_in, repository
from tests.unit.models.managing import Place, ended, fetched, tree

WEIGHTS = random.Random(1).randbytes(3_000_000)
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "sub/extra.json": b"[1]",
    "pytorch_model.bin": b"\x80\x04 this would run code",
    "modeling.py": b"import os",
}
WANTED = {name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors", "sub/extra.json")}
ID = LocalModelId("huggingface/owner/model")
REQUEST = HubRequest(repo="owner/model")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    with hub_stand_in() as server:
        server.repositories["owner/model"] = repository(dict(FILES), lfs=frozenset({"model.safetensors"}))
        yield server


@pytest.fixture
def place(tmp_path: Path, hub: HubStandIn) -> Place:
    return Place(tmp_path, hub_url=hub.url)


def held(place: Place) -> dict[str, bytes]:
    return tree(place.models / ID)


async def test_a_model_comes_at_one_commit_without_code_or_pickles(place: Place, hub: HubStandIn) -> None:
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
        entry = manager.registry.get(ID)
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    assert held(place) == WANTED
    assert (entry.version, entry.model_type) == (commit_of("first"), ModelType.TEXT_GENERATION)
    assert (entry.path, entry.size_bytes) == (place.models / ID, sum(map(len, WANTED.values())))
    assert not list((place.models / "cache" / "downloads").glob("*"))
    # Whatever the branch does meanwhile, everything is asked of one commit.
    assert all(commit_of("first") in path for _, path, _ in hub.requests if "/resolve/" in path or "/tree/" in path)


async def test_every_file_is_recorded_with_its_sha256(place: Place) -> None:
    async with place.manager() as manager:
        await fetched(manager, REQUEST)
        recorded = {file.path: file.sha256 for file in manager.registry.files(ID)}
    assert recorded == {name: hashlib.sha256(data).hexdigest() for name, data in WANTED.items()}


async def test_a_download_that_is_cut_off_goes_on_where_it_stopped(place: Place, hub: HubStandIn) -> None:
    hub.faults.cut_after["model.safetensors"] = [1_000_000, 1_000_000]
    async with place.manager() as manager:
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert held(place) == WANTED
    assert hub.sent["model.safetensors"] == len(WEIGHTS)


async def test_the_next_life_of_the_daemon_goes_on_where_the_last_one_stopped(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.stall_after["model.safetensors"] = [1_000_000]
    async with place.manager() as manager:
        manager.download(REQUEST, "test")
        with trio.fail_after(20):
            while manager.progress(ID).bytes_done < 1_000_000:
                await trio.sleep(0.01)
        hub.repositories["owner/model"].branches["main"] = commit_of("second")
        hub.repositories["owner/model"].commits[commit_of("second")] = {"config.json": b"{}"}
    sent_before = hub.sent["model.safetensors"]
    async with place.manager() as manager:
        progress = await ended(manager, ID)
        assert progress.status is ModelStatus.AVAILABLE, progress.message
        entry = manager.registry.get(ID)
    assert held(place) == WANTED
    assert hub.sent["model.safetensors"] - sent_before <= len(WEIGHTS) - 1_000_000
    # It went on with the commit it had begun, and says that the branch has moved since.
    assert entry.version == commit_of("first")
    assert entry.metadata["revision_moved_to"] == commit_of("second")


async def test_a_hub_that_ignores_ranges_costs_time_but_not_the_file(place: Place, hub: HubStandIn) -> None:
    hub.faults.cut_after["model.safetensors"] = [1_000_000]
    hub.faults.no_ranges = True
    async with place.manager() as manager:
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert held(place) == WANTED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_wrong_bytes_are_discarded_and_fetched_again(place: Place, hub: HubStandIn, name: str) -> None:
    hub.faults.wrong_bytes[name] = 1
    async with place.manager() as manager:
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert held(place) == WANTED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
async def test_bytes_that_stay_wrong_never_become_a_model(place: Place, hub: HubStandIn, name: str) -> None:
    hub.faults.wrong_bytes[name] = 1000
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR
    assert name in progress.message and "promised" in progress.message
    assert not (place.models / ID).exists()


async def test_a_hub_that_mixes_commits_is_a_clear_error(place: Place, hub: HubStandIn) -> None:
    hub.faults.answers_with_commit["model.safetensors"] = commit_of("second")
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR
    assert "changed while it was downloaded" in progress.message
    assert not (place.models / ID).exists()


async def test_server_errors_are_tried_again(place: Place, hub: HubStandIn) -> None:
    hub.faults.statuses["/api/models/owner/model"] = [503]
    hub.faults.statuses["/owner/model/resolve"] = [502]
    hub.faults.statuses["cdn"] = [500]
    place.limit(timeout_seconds=20.0)
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.AVAILABLE, progress.message


async def test_a_hub_that_is_down_for_long_is_given_up_with_the_reason(place: Place, hub: HubStandIn) -> None:
    hub.faults.statuses["/"] = [503] * 1000
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR
    assert "503" in progress.message and "4 tries" in progress.message


async def test_a_stalled_answer_is_taken_up_again(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    hub.faults.stall_after["model.safetensors"] = [1_000_000]
    async with place.manager() as manager:
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert held(place) == WANTED


async def test_a_stalled_download_is_cancelled_at_once(place: Place, hub: HubStandIn) -> None:
    hub.faults.stall_after["model.safetensors"] = [1_000_000]
    async with place.manager() as manager:
        manager.download(REQUEST, "test")
        with trio.fail_after(20):
            while manager.progress(ID).bytes_done < 1_000_000:
                await trio.sleep(0.01)
        with trio.fail_after(3):
            manager.cancel(ID, "somebody")
            progress = await ended(manager, ID)
    assert (progress.status, progress.message) == (ModelStatus.ERROR, "cancelled by somebody")
    assert not (place.models / ID).exists()


@pytest.mark.parametrize(("token", "told"), [(None, "gated"), ("hf_stranger", "gated"), ("hf_reader_secret", "")])
async def test_a_gated_model_needs_a_token_with_access(
    place: Place, hub: HubStandIn, token: str | None, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["owner/model"].gated = True
    hub.repositories["owner/model"].readers = frozenset({"hf_reader_secret"})
    place.token = token
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
        written = str(manager.registry.query()) + str(manager.audit.newest(limit=100)) + manager.export("test")
    assert (progress.status is ModelStatus.AVAILABLE) == (not told)
    assert told in progress.message
    if told:
        assert "quern model login" in progress.message
    # The token reaches the Hub, and nobody else.
    assert not any("authorization" in headers for _, _, headers in hub.cdn_requests)
    shown = "".join(capfd.readouterr()) + written + progress.message
    assert token is None or token not in shown
    disk = b"".join(tree(place.folder).values())
    assert token is None or token.encode() not in disk


async def test_a_token_of_this_user_is_never_sent_unasked(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_lies_around")
    async with place.manager() as manager:
        await fetched(manager, REQUEST)
    assert not any("authorization" in headers for _, _, headers in hub.requests)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (HubRequest(repo="owner/absent"), "not on the Hub, or is private"),
        (HubRequest(repo="owner/model", revision="absent"), "no revision absent"),
        (HubRequest(repo="owner/model", include=["*.gguf"]), "no file matches"),
    ],
)
async def test_what_is_not_there_is_told_in_words(place: Place, request_: HubRequest, told: str) -> None:
    async with place.manager() as manager:
        progress = await fetched(manager, request_)
    assert progress.status is ModelStatus.ERROR
    assert told in progress.message


async def test_files_are_chosen_by_patterns(place: Place) -> None:
    async with place.manager() as manager:
        await fetched(manager, HubRequest(repo="owner/model", include=["*.json"], exclude=["sub/*"]))
    assert set(held(place)) == {"config.json", "tokenizer.json"}


async def test_a_file_that_another_model_has_is_not_fetched_again(place: Place, hub: HubStandIn) -> None:
    hub.repositories["owner/copy"] = hub.repositories["owner/model"]
    async with place.manager() as manager:
        await fetched(manager, REQUEST)
        await fetched(manager, HubRequest(repo="owner/copy"))
    assert hub.sent["model.safetensors"] == len(WEIGHTS)
    assert tree(place.models / "huggingface/owner/copy") == WANTED


async def test_a_damaged_copy_of_another_model_does_not_spread(place: Place, hub: HubStandIn) -> None:
    hub.repositories["owner/copy"] = hub.repositories["owner/model"]
    async with place.manager() as manager:
        await fetched(manager, REQUEST)
        damaged = place.models / ID / "model.safetensors"
        damaged.write_bytes(b"x" + WEIGHTS[1:])
        progress = await fetched(manager, HubRequest(repo="owner/copy"))
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    assert tree(place.models / "huggingface/owner/copy") == WANTED


async def test_names_that_lead_out_of_the_directory_are_refused(place: Place, hub: HubStandIn) -> None:
    commit = hub.repositories["owner/model"].branches["main"]
    hub.repositories["owner/model"].commits[commit]["../../../evil.json"] = b"{}"
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR
    assert "not taken" in progress.message
    assert not list(place.folder.parent.rglob("evil.json"))


async def test_nothing_is_downloaded_when_the_disk_could_not_hold_it(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.models.storage.ModelStorage.free_bytes", lambda _self: 1_000_000)
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR
    assert "storage_dir" in progress.message
    assert hub.sent["model.safetensors"] == 0


async def test_downloads_stay_within_the_bandwidth(place: Place) -> None:
    place.options = replace(place.options, bandwidth_bytes_per_second_max=3_000_000)
    async with place.manager() as manager:
        start = trio.current_time()
        await fetched(manager, REQUEST)
    # A second's worth of bytes may come a quarter of a second early, and is never faster than that.
    assert trio.current_time() - start > 0.5


async def test_a_try_that_takes_too_long_is_ended_and_told(place: Place, hub: HubStandIn) -> None:
    hub.faults.stall_after["model.safetensors"] = [1000] * 10
    place.limit(timeout_seconds=0.5)
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR and "longer than" in progress.message


async def test_a_server_that_trickles_is_given_up(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.models.downloads.SLOW_SECONDS", 0.3)
    hub.faults.stall_after["model.safetensors"] = [1000] * 10
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
    assert progress.status is ModelStatus.ERROR and "fewer than" in progress.message


async def test_a_full_disk_is_told_and_what_came_is_gone_on_with(
    place: Place, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.write, 1_000_000

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        if len(data) > left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= len(data)
        return real(descriptor, data)

    monkeypatch.setattr("node.models.staging.os.write", write)
    async with place.manager() as manager:
        progress = await fetched(manager, REQUEST)
        assert progress.status is ModelStatus.ERROR and "disk is full" in progress.message
        monkeypatch.undo()
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert held(place) == WANTED
    begins = [headers.get("range", "") for method, _, headers in hub.cdn_requests if method == "GET"]
    assert begins[0] == "" and begins[-1].startswith("bytes=")


async def test_files_of_a_cache_of_the_hub_are_copied_instead_of_downloaded(
    place: Place, hub: HubStandIn, tmp_path: Path
) -> None:
    place.cache_dir = tmp_path / "hub-cache"
    blob = hf_hub_download("owner/model", "model.safetensors", endpoint=hub.url, cache_dir=place.cache_dir, token=False)
    assert Path(blob).read_bytes() == WEIGHTS
    sent = hub.sent["model.safetensors"]
    async with place.manager() as manager:
        # The file of the cache is of the branch's commit, by which it is found.
        assert (await fetched(manager, REQUEST)).status is ModelStatus.AVAILABLE
    assert hub.sent["model.safetensors"] == sent
    assert held(place) == WANTED


async def test_a_commit_that_is_gone_from_the_hub_gives_way_to_what_the_revision_is_now(
    place: Place, hub: HubStandIn
) -> None:
    hub.faults.stall_after["model.safetensors"] = [1_000_000]
    repo = hub.repositories["owner/model"]
    async with place.manager() as manager:
        manager.download(REQUEST, "test")
        with trio.fail_after(20):
            while manager.progress(ID).bytes_done < 1_000_000:
                await trio.sleep(0.01)
        repo.commits, repo.branches = {commit_of("rewritten"): {"config.json": b"[]"}}, {"main": commit_of("rewritten")}
    async with place.manager() as manager:
        assert (await ended(manager, ID)).status is ModelStatus.AVAILABLE
        assert manager.registry.get(ID).version == commit_of("rewritten")
    assert held(place) == {"config.json": b"[]"}
