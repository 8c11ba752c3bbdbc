"""Downloads from directories and from peers, and what the manager does with any: queue, room, removal, tiers."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio.testing

from node.models.bandwidth import BandwidthLimit
from node.models.downloads import DownloadFailedError
from node.models.identity import LocalModelId
from node.models.manager import ManagerRefusedError, ModelManager
from node.models.registry import UnknownModelError
from node.models.requests import DirectoryRequest, IpfsRequest
from node.models.states import ModelStatus
from node.models.transfer import Transfer
from p2p.content.cid import Cid
from p2p.content.retrieval.staging import Staging as FetchStaging
from p2p.content.unixfs_import import import_path
from tests.unit.models.managing import NOW, CannedContent, Place, ended, fetched, tree

FILES = {"config.json": b"{}", "model.safetensors": b"numbers" * 1000}


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def custom(name: str) -> LocalModelId:
    return LocalModelId(f"custom/{name}")


async def take(manager: ModelManager, directory: Path, name: str, size: int) -> LocalModelId:
    """Have a model of `size` bytes."""
    write(directory / name, {"a": b"x" * size})
    progress = await fetched(manager, DirectoryRequest(directory=directory / name, model_id=custom(name)))
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    return progress.model_id


# --- Directories ------------------------------------------------------------------------------------------------------


async def test_a_directory_is_copied_without_what_is_hidden(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {**FILES, ".git/secret": b"x", "sub/.hidden": b"x", "sub/b": b"b"})
    place = Place(tmp_path)
    async with place.manager() as manager:
        progress = await fetched(manager, DirectoryRequest(directory=source))
    assert progress.status is ModelStatus.AVAILABLE, progress.message
    assert tree(place.models / "custom/source") == {**FILES, "sub/b": b"b"}


async def test_links_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    place = Place(tmp_path)
    linked, piped = write(tmp_path / "linked", FILES), write(tmp_path / "piped", FILES)
    (linked / "link").symlink_to(secret)
    os.mkfifo(piped / "pipe")
    async with place.manager() as manager:
        for directory, told in (
            (linked, "symbolic link"),
            (piped, "neither"),
            (tmp_path / "absent", "not a directory"),
        ):
            progress = await fetched(manager, DirectoryRequest(directory=directory))
            assert progress.status is ModelStatus.ERROR and told in progress.message
    assert not any(b"hunter2" in data for data in tree(place.models).values())


# --- Peers ------------------------------------------------------------------------------------------------------------


def canned(tmp_path: Path, files: dict[str, bytes]) -> tuple[str, CannedContent]:
    cid = str(import_path(write(tmp_path / "published", files), Cid.of).cid)
    return cid, CannedContent({cid: files})


async def test_a_model_of_peers_is_an_entry_like_any_other(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    place = Place(tmp_path, content=content)
    async with place.manager() as manager:
        progress = await fetched(manager, IpfsRequest(cid=cid))
        entry = manager.registry.get(LocalModelId(f"ipfs/{cid}"))
        assert (progress.status, entry.version) == (ModelStatus.AVAILABLE, cid)
        assert tree(entry.path) == FILES and entry.path == place.models / "ipfs" / cid
        assert await manager.verify(entry.model_id, "test") == []
        (entry.path / "config.json").write_bytes(b"[]")  # of the same size: only the CID tells
        assert "not " + cid in (await manager.verify(entry.model_id, "test"))[0]
        assert manager.registry.get(entry.model_id).status is ModelStatus.ERROR


async def test_peers_that_are_not_there_yet_are_asked_again(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    content.unavailable = 2
    async with Place(tmp_path, content=content).manager() as manager:
        assert (await fetched(manager, IpfsRequest(cid=cid))).status is ModelStatus.AVAILABLE
    assert content.calls == 3


async def test_two_engines_that_want_one_model_fetch_it_once_and_it_stays_while_either_has_it(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    content.gate = trio.Event()
    async with Place(tmp_path, content=content).manager() as manager:
        paths: list[Path] = []

        async def engine() -> None:
            paths.append(await manager.ensure(IpfsRequest(cid=cid)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine)
            nursery.start_soon(engine)
            await trio.testing.wait_all_tasks_blocked()
            content.gate.set()
        model_id = LocalModelId(f"ipfs/{cid}")
        assert content.calls == 1 and paths[0] == paths[1] and tree(paths[0]) == FILES
        manager.release(model_id)
        with pytest.raises(ManagerRefusedError, match="loaded"):
            await manager.remove(model_id, "test")
        manager.release(model_id)
        await manager.remove(model_id, "test")
    assert not paths[0].exists()


async def test_an_engine_does_not_wait_behind_downloads_that_were_asked_for(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    other = CannedContent(gate=trio.Event())
    place = Place(tmp_path, content=other)
    place.options = replace(place.options, downloads_at_once=1)
    async with place.manager() as manager:
        manager.download(IpfsRequest(cid="bafybeislow"), "test")
        await trio.testing.wait_all_tasks_blocked()
        other.gate, other.directories = None, content.directories
        with trio.fail_after(20):
            await manager.ensure(IpfsRequest(cid=cid))


async def test_an_engine_learns_that_its_model_is_not_to_be_had(tmp_path: Path) -> None:
    content = CannedContent(unavailable=100)
    async with Place(tmp_path, content=content).manager() as manager:
        with pytest.raises(DownloadFailedError, match="nobody has it"):
            await manager.ensure(IpfsRequest(cid="bafybeiabsent"))


async def test_files_that_vanished_from_the_disk_are_fetched_again_for_an_engine(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    place = Place(tmp_path, content=content)
    async with place.manager() as manager:
        path = await manager.ensure(IpfsRequest(cid=cid))
        manager.release(LocalModelId(f"ipfs/{cid}"))
        path.rename(tmp_path / "elsewhere")
        assert tree(await manager.ensure(IpfsRequest(cid=cid))) == FILES


# --- The manager ------------------------------------------------------------------------------------------------------


async def test_only_so_many_downloads_run_at_once_and_the_rest_waits(tmp_path: Path) -> None:
    content = CannedContent(gate=trio.Event())
    cids = [f"bafybei{number}aaaa" for number in range(2, 7)]
    content.directories = dict.fromkeys(cids, FILES)
    async with Place(tmp_path, content=content).manager() as manager:
        ids = [manager.download(IpfsRequest(cid=cid), "test").model_id for cid in cids]
        with trio.fail_after(20):
            while content.calls < 2:
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.05)
        waiting = [model_id for model_id in ids if manager.progress(model_id).status is ModelStatus.PENDING]
        assert (content.calls, len(waiting)) == (2, 3)
        manager.cancel(waiting[0], "test")
        assert (await ended(manager, waiting[0])).message == "cancelled by test"
        content.gate.set()
        for model_id in ids:
            if model_id != waiting[0]:
                assert (await ended(manager, model_id)).status is ModelStatus.AVAILABLE


async def test_asking_twice_is_asking_once_and_another_version_is_not_taken_for_it(tmp_path: Path) -> None:
    async with Place(tmp_path).manager() as manager:
        await take(manager, tmp_path, "a", 10)
        request = DirectoryRequest(directory=tmp_path / "a", model_id=custom("a"))
        assert manager.download(request, "test").status is ModelStatus.AVAILABLE
        with pytest.raises(ManagerRefusedError, match="from another source"):
            manager.download(DirectoryRequest(directory=tmp_path / "b", model_id=custom("a")), "test")


async def test_the_longest_unused_gives_way_and_pinned_or_loaded_ones_never(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.limit(bytes_max=3000)
    async with place.manager() as manager:
        first, second = await take(manager, tmp_path, "first", 1000), await take(manager, tmp_path, "second", 1000)
        place.now += 10
        third = await take(manager, tmp_path, "third", 1000)
        manager.pin(first, "test", pinned=True)
        place.now += 10
        await take(manager, tmp_path, "fourth", 500)
        assert not (place.models / second).exists() and (place.models / first).exists()
        with pytest.raises(UnknownModelError):
            manager.registry.get(second)
        manager.pin(third, "test", pinned=True)
        write(tmp_path / "huge", {"a": b"x" * 1500})
        progress = await fetched(manager, DirectoryRequest(directory=tmp_path / "huge"))
        assert progress.status is ModelStatus.ERROR and "bytes_max" in progress.message
        assert (place.models / "custom/fourth").exists()  # nobody goes in vain
        assert [row.action for row in manager.audit.newest(limit=100, model_id=second)] == ["evict", "download"]


async def test_a_pinned_model_is_not_removed_and_a_removed_one_leaves_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with place.manager() as manager:
        name = await take(manager, tmp_path, "a", 10)
        manager.pin(name, "test", pinned=True)
        with pytest.raises(ManagerRefusedError, match="pinned"):
            await manager.remove(name, "test")
        manager.pin(name, "test", pinned=False)
        await manager.remove(name, "test")
        with pytest.raises(UnknownModelError):
            manager.progress(name)
        assert tree(place.models) == {}
        assert (await take(manager, tmp_path, "a", 20)) == name  # and may come again


async def test_damage_is_found_named_and_takes_the_model_out_of_use(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with place.manager() as manager:
        write(tmp_path / "m", {**FILES, "c": b"c"})
        await fetched(manager, DirectoryRequest(directory=tmp_path / "m"))
        model_id = custom("m")
        assert await manager.verify(model_id, "test") == []
        held = place.models / model_id
        (held / "config.json").write_bytes(b"[]")
        (held / "c").unlink()
        (held / "extra").write_bytes(b"")
        faults = await manager.verify(model_id, "test")
        assert {fault.split()[0] for fault in faults} == {"config.json", "c", "extra"}
        assert manager.registry.get(model_id).status is ModelStatus.ERROR


async def test_what_nobody_uses_moves_to_the_cold_directory_and_works_from_there(tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    place = Place(tmp_path, cold=cold)
    place.options = replace(place.options, cold_after_seconds=100)
    async with place.manager() as manager:
        old = await take(manager, tmp_path, "old", 1000)
        pinned = await take(manager, tmp_path, "pinned", 1000)
        manager.pin(pinned, "test", pinned=True)
    place.now = NOW + 200
    async with place.manager() as manager:
        with trio.fail_after(20):
            while manager.registry.get(old).path != cold / old or manager._use.is_occupied(old):
                await trio.sleep(0.01)
        assert not (place.models / old).exists()
        assert manager.registry.get(pinned).path == place.models / pinned
        assert await manager.verify(old, "test") == []
        await manager.remove(old, "test")
        assert not (cold / old).exists()


async def test_the_export_file_follows_the_registry(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.options = replace(place.options, export_file=tmp_path / "out" / "registry.json")
    async with place.manager() as manager:
        await take(manager, tmp_path, "a", 10)
        with trio.fail_after(20):
            while '"status": "available"' not in (tmp_path / "out" / "registry.json").read_text():
                await trio.sleep(0.02)


async def test_a_model_of_before_the_registry_is_taken_over(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    place = Place(tmp_path, content=content)
    write(place.models / cid, FILES)
    async with place.manager() as manager:
        assert tree(await manager.ensure(IpfsRequest(cid=cid))) == FILES
    assert content.calls == 0 and not (place.models / cid).exists()


async def test_a_removed_model_of_peers_is_not_given_to_peers_any_more(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    place = Place(tmp_path, content=content)
    async with place.manager() as manager:
        await fetched(manager, IpfsRequest(cid=cid))
        cut_off = FetchStaging(place.models / "ipfs" / cid, Cid.parse(cid))
        with cut_off.locked():
            assert cut_off.exists
        await manager.remove(LocalModelId(f"ipfs/{cid}"), "test")
    assert content.forgotten == [(cid, place.models / "ipfs" / cid)]
    assert not cut_off.exists


async def test_what_a_cut_off_fetch_left_beside_models_of_peers_is_removed_once_nobody_wants_it(tmp_path: Path) -> None:
    content = CannedContent(unavailable=100)
    place = Place(tmp_path, content=content)
    wanted, stranger = (place.models / "ipfs" / f".partial-{cid}-01" for cid in ("bafybeiwanted", "bafybeistranger"))
    async with place.manager() as manager:
        assert (await fetched(manager, IpfsRequest(cid="bafybeiwanted"))).status is ModelStatus.ERROR
    for path in (wanted, stranger):
        path.mkdir()
    async with place.manager():
        assert wanted.exists() and not stranger.exists()
    place.now += 8 * 86400
    async with place.manager():
        assert not wanted.exists()


async def test_a_damaged_model_of_peers_is_replaced_and_a_whole_one_is_not_fetched_twice(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    place = Place(tmp_path, content=content)
    path = place.models / "ipfs" / cid
    async with place.manager() as manager:
        await fetched(manager, IpfsRequest(cid=cid))
        (path / "config.json").write_bytes(b"[]")
        assert await manager.verify(LocalModelId(f"ipfs/{cid}"), "test")
        await fetched(manager, IpfsRequest(cid=cid))
        assert tree(path) == FILES and len(content.forgotten) == 1
        assert await manager.verify(LocalModelId(f"ipfs/{cid}"), "test") == []


async def test_finding_again_what_an_earlier_try_brought_is_no_progress() -> None:
    transfer = Transfer(BandwidthLimit(0))
    for _ in range(3):
        for done in (0, 500, 1000):
            transfer.at(done, 5000)
    assert (transfer.bytes_new, transfer.bytes_done) == (1000, 1000)


async def test_an_engine_does_not_wait_for_the_turn_of_what_was_asked_for_before(tmp_path: Path) -> None:
    cid, content = canned(tmp_path, FILES)
    gate = content.gate = trio.Event()
    place = Place(tmp_path, content=content)
    place.options = replace(place.options, downloads_at_once=1)
    async with place.manager() as manager:
        manager.download(IpfsRequest(cid="bafybeislow"), "test")
        with trio.fail_after(20):
            while content.calls < 1:
                await trio.sleep(0.01)
        manager.download(IpfsRequest(cid=cid), "test")
        content.gate = None
        with trio.fail_after(20):
            assert tree(await manager.ensure(IpfsRequest(cid=cid))) == FILES
        assert manager.progress(LocalModelId("ipfs/bafybeislow")).status is ModelStatus.DOWNLOADING
        content.directories["bafybeislow"] = FILES
        gate.set()
        assert (await ended(manager, LocalModelId("ipfs/bafybeislow"))).status is ModelStatus.AVAILABLE


async def test_a_directory_that_changed_since_a_failed_copy_is_copied_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "m", FILES)
    place = Place(tmp_path)
    async with place.manager() as manager:
        monkeypatch.setattr("node.models.storage.ModelStorage.free_bytes", lambda _self: 0)
        assert (await fetched(manager, DirectoryRequest(directory=source))).status is ModelStatus.ERROR
        monkeypatch.undo()
        write(source, {"config.json": b"changed"})
        assert (await fetched(manager, DirectoryRequest(directory=source))).status is ModelStatus.AVAILABLE
    assert tree(place.models / "custom/m") == {**FILES, "config.json": b"changed"}
