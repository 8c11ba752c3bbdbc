"""A daemon that dies at any point: its next life finds every model whole, on its way, or not there; nothing is left."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from node.models.identity import LocalModelId
from node.models.registry import ModelQuery
from node.models.requests import DirectoryRequest
from node.models.states import ModelEvent, ModelStatus, ModelType
from node.models.storage import STAGED_SECONDS_MAX
from node.store.model_tables import FileRow
from tests.hub_stand_in import HubStandIn, hub_stand_in, repository
from tests.unit.models.managing import Place, ended, tree

ROOT = Path(__file__).parents[3]
FILES = {
    "config.json": b"{}",
    "a.safetensors": random.Random(1).randbytes(1_500_000),
    "b.safetensors": random.Random(2).randbytes(1_500_000),
}
HUB_ID, CUSTOM_ID = LocalModelId("huggingface/owner/model"), LocalModelId("custom/source")
# Other bytes than the Hub's: of equal files the second is not downloaded, but copied.
HELD = {HUB_ID: FILES, CUSTOM_ID: {name: data[::-1] for name, data in FILES.items()}}
LIVES_MAX = 7


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    (tmp_path / "source").mkdir()
    for name, data in HELD[CUSTOM_ID].items():
        (tmp_path / "source" / name).write_bytes(data)
    with hub_stand_in() as server:
        server.repositories["owner/model"] = repository(FILES, lfs=frozenset({"a.safetensors"}))
        yield server


def whole_or_absent(place: Place) -> None:
    """What engines could see is all of a model or nothing, at every moment and without asking the registry."""
    for model_id, files in HELD.items():
        if (place.models / model_id).exists():
            assert tree(place.models / model_id) == files


def killed_lives(place: Place) -> int:
    """Start a daemon again and again and kill it at some moment, until it is done; return how often it was killed."""
    chance = random.Random(5)
    command = [sys.executable, "-m", "tests.unit.models.manager_child", str(place.folder), place.hub_url, "3000000"]
    for killed in range(LIVES_MAX):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert child.stdout is not None
        while child.stdout.readline() not in ("begun\n", ""):  # the log is there too
            pass
        time.sleep(chance.uniform(0, 0.4))
        whole_or_absent(place)
        child.kill()
        done = "done\n" in child.stdout.read()
        child.wait()
        whole_or_absent(place)
        if done:
            return killed
    return LIVES_MAX


async def test_kill_9_at_any_moment_loses_nothing_and_leaves_nothing(hub: HubStandIn, tmp_path: Path) -> None:
    place = Place(tmp_path, hub_url=hub.url)
    killed = await trio.to_thread.run_sync(killed_lives, place)
    async with place.manager() as manager:
        for model_id in (HUB_ID, CUSTOM_ID):
            progress = await ended(manager, model_id)
            assert progress.status is ModelStatus.AVAILABLE, progress.message
            assert await manager.verify(model_id, "test") == []
    assert killed > 1, "the test never killed anything"
    # Nothing else is left anywhere.
    assert tree(place.models) == {
        f"{model_id}/{name}": data for model_id in HELD for name, data in HELD[model_id].items()
    }
    # Each life asked for what was missing only: none began the file anew.
    gets = [headers for method, _, headers in hub.cdn_requests if method == "GET"]
    begins = [int(headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-")) for headers in gets]
    assert begins and begins == sorted(begins)


async def begun(place: Place, *, published: bool, manifest: bool) -> None:
    """Leave what a daemon leaves that dies between the steps that end a download."""
    async with place.manager() as manager:
        registry = manager.registry
        registry.add(CUSTOM_ID, ModelType.OTHER, place.models / CUSTOM_ID, "{}")
        registry.step(CUSTOM_ID, ModelEvent.STARTED)
        staging = manager._storage.staging(CUSTOM_ID)
        staging.begin("v")
        staging.files.mkdir()
        (staging.files / "a").write_bytes(b"abc")
        if manifest:
            staging.write_manifest([FileRow("a", 3, "00" * 32)])
        if published:
            staging.publish(place.models / CUSTOM_ID)


async def test_a_model_that_was_in_place_but_not_yet_noted_is_noted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await begun(place, published=True, manifest=True)
    async with place.manager() as manager:
        entry = manager.registry.get(CUSTOM_ID)
        assert (entry.status, entry.size_bytes) == (ModelStatus.AVAILABLE, 3)
    assert set(tree(place.models)) == {f"{CUSTOM_ID}/a"}


@pytest.mark.parametrize("manifest", [False, True])
async def test_a_model_that_was_not_yet_in_place_is_not_taken_for_one(tmp_path: Path, manifest: bool) -> None:
    place = Place(tmp_path)
    await begun(place, published=False, manifest=manifest)
    async with place.manager() as manager:
        # Its request cannot be read (it is a test's), so it does not go on by itself.
        assert manager.registry.get(CUSTOM_ID).status is ModelStatus.ERROR
    assert not (place.models / CUSTOM_ID).exists()


async def test_what_was_being_removed_is_removed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await begun(place, published=True, manifest=True)
    async with place.manager() as manager:
        manager.registry.step(CUSTOM_ID, ModelEvent.REMOVED)  # and the daemon dies before the files go
    async with place.manager() as manager:
        assert manager.registry.query() == ()
    assert tree(place.models) == {}


async def test_an_available_model_without_files_is_told_of(tmp_path: Path) -> None:
    place = Place(tmp_path)
    await begun(place, published=True, manifest=True)
    async with place.manager() as manager:
        (place.models / CUSTOM_ID).rename(tmp_path / "elsewhere")
    async with place.manager() as manager:
        entry = manager.registry.get(CUSTOM_ID)
    assert (entry.status, entry.reason) == (ModelStatus.ERROR, "its files are gone from the disk")


async def test_what_a_failed_download_left_is_kept_for_a_while_and_then_removed(
    hub: HubStandIn, tmp_path: Path
) -> None:
    place = Place(tmp_path, now=int(time.time()))
    async with place.manager() as manager:
        manager.registry.add(CUSTOM_ID, ModelType.OTHER, place.models / CUSTOM_ID, "{}")
        staging = manager._storage.staging(CUSTOM_ID)
        staging.begin("v")
        manager.registry.step(CUSTOM_ID, ModelEvent.FAILED, reason="cut off")
        orphan = place.models / "cache" / "downloads" / "nobody-knows"
        orphan.mkdir()
    place.now += STAGED_SECONDS_MAX - 10
    async with place.manager():
        assert staging.directory.exists() and not orphan.exists()
    place.now += 20
    async with place.manager() as manager:
        assert not staging.directory.exists()
        assert manager.registry.query(ModelQuery(status=ModelStatus.ERROR))


async def test_a_pending_download_begins_in_the_next_life(hub: HubStandIn, tmp_path: Path) -> None:
    place = Place(tmp_path)
    request = DirectoryRequest(directory=tmp_path / "source")
    async with place.manager() as manager:
        manager.registry.add(CUSTOM_ID, ModelType.OTHER, place.models / CUSTOM_ID, request.model_dump_json())
    async with place.manager() as manager:
        assert (await ended(manager, CUSTOM_ID)).status is ModelStatus.AVAILABLE
