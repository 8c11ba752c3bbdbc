"""An operator's content commands with a network: what is missing is fetched from peers, checked, and kept as asked."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.control.client import ControlError, connect_control
from node.control.content_methods import (
    AddParams,
    FindParams,
    GarbageParams,
    GetParams,
    ListParams,
    PathParams,
    PinParams,
    VerifyParams,
    content_method_table,
)
from node.control.content_views import AddedView, ContentProgress, StatView
from node.control.jsonrpc import RpcError
from node.control.server import serve_control
from node.models.content import ContentAdapter, open_content
from node.operations.content import StoreOperations
from node.operations.content_trees import NetworkTrees
from node.ports import Provider
from p2p.content.cid import Cid

MIB = 1024 * 1024


@asynccontextmanager
async def peer(directory: Path) -> AsyncIterator[ContentAdapter]:
    async with open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0) as content:
        yield content


def operations(content: ContentAdapter, *others: ContentAdapter) -> StoreOperations:
    return StoreOperations(
        content.store, NetworkTrees(content, lambda: [Provider("127.0.0.1", other.port) for other in others])
    )


async def ignore(_progress: ContentProgress) -> None:
    await trio.lowlevel.checkpoint()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "sub" / "weights").write_bytes(os.urandom(5 * MIB + 3))
    (directory / "config.json").write_text("{}")
    return directory


async def test_what_a_peer_added_in_place_is_listed_read_and_got_by_another(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        seen: list[ContentProgress] = []

        async def note(progress: ContentProgress) -> None:
            seen.append(progress)

        added = await operations(one).add(AddParams(path=str(model)), note)
        assert added.in_place
        assert seen[-1].done_bytes == seen[-1].total_bytes == 5 * MIB + 5
        here = operations(two, one)
        listing = await here.entries(ListParams(path=added.cid))
        assert [entry.name for entry in listing.entries] == ["config.json", "sub"]
        nodes_only = await here.stat(PathParams(path=added.cid))
        assert not nodes_only.whole
        found = await here.find(FindParams(path=f"{added.cid}/config.json"), ignore)
        assert two.store.read(Cid.parse(found.cid)) == b"{}"
        assert not (await here.stat(PathParams(path=added.cid))).whole
        copy = tmp_path / "copy"
        await here.get(GetParams(path=f"{added.cid}", destination=str(copy)), ignore)
        assert (copy / "sub" / "weights").read_bytes() == (model / "sub" / "weights").read_bytes()
        assert (await here.stat(PathParams(path=added.cid))).whole


async def test_a_pinned_tree_is_whole_survives_garbage_collection_and_is_repaired(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        added = await operations(one).add(AddParams(path=str(model)), ignore)
        here = operations(two, one)
        await here.pin(PinParams(path=added.cid, name="mine"), ignore)
        assert (await here.collect_garbage(GarbageParams(grace_seconds=0))).blocks == 0
        block = max((tmp_path / "b").glob("??/b*"), key=lambda path: path.stat().st_size)
        block.write_bytes(os.urandom(block.stat().st_size))
        found = await here.verify(VerifyParams(repair=True), ignore)
        assert (found.damaged, found.incomplete) == (1, [added.cid])
        assert found.damages[0].cid == block.name
        await here.pin(PinParams(path=added.cid, name="mine"), ignore)
        assert (await here.verify(VerifyParams(), ignore)).damaged == 0
        assert (await here.stat(PathParams(path=added.cid))).whole


async def test_damage_found_while_reading_is_fetched_again(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        added = await operations(one).add(AddParams(path=str(model)), ignore)
        here = operations(two, one)
        await here.pin(PinParams(path=added.cid, name="mine"), ignore)
        for block in (tmp_path / "b").glob("??/b*"):
            block.write_bytes(os.urandom(block.stat().st_size))
        assert len((await here.entries(ListParams(path=f"{added.cid}/sub"))).entries) == 1
        await here.get(GetParams(path=added.cid, destination=str(tmp_path / "copy")), ignore)
        assert (tmp_path / "copy" / "sub" / "weights").read_bytes() == (model / "sub" / "weights").read_bytes()


async def test_what_nobody_has_is_named_and_nothing_is_written(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        added = await operations(one).add(AddParams(path=str(model)), ignore)
        (model / "sub" / "weights").write_bytes(b"edited")
        here = operations(two, one)
        with pytest.raises(RpcError, match="missing") as caught:
            await here.get(GetParams(path=added.cid, destination=str(tmp_path / "copy")), ignore)
        assert "peers" in caught.value.remedy
        assert not (tmp_path / "copy").exists()


async def test_the_methods_answer_over_the_control_socket(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path / "socket", content_method_table(operations(one)))
        async with connect_control(tmp_path / "socket") as client:
            events = []

            async def note(event: object) -> None:
                events.append(event)

            added = await client.call(
                "content_add", {"path": str(model)}, AddedView, deadline_seconds=30, on_event=note
            )
            assert events
            stat = await client.call("content_stat", {"path": added.cid}, StatView, deadline_seconds=30)
            assert stat.whole
            for method, params in (
                ("content_add", {"path": "relative"}),
                ("content_add", {"path": str(model), "chunk_bytes": 2**30}),
                ("content_stat", {"path": ""}),
                ("content_stat", {"path": "x" * 20_000}),
                ("content_get", {"path": added.cid, "destination": str(model)}),
                ("content_add", {"path": str(tmp_path / "absent")}),
            ):
                with pytest.raises(ControlError):
                    await client.call(method, params, StatView, deadline_seconds=30)
        nursery.cancel_scope.cancel()


async def test_cancelling_an_import_leaves_nothing_held_and_a_working_store(tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2048 * MIB)
    async with peer(tmp_path / "a") as one:
        started = trio.Event()

        async def note(_progress: ContentProgress) -> None:
            started.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations(one).add, AddParams(path=str(large)), note)
            await started.wait()
            nursery.cancel_scope.cancel()
        assert one.store.usage().files == 0
        assert one.store.has(Cid.parse(await one.add_bytes(b"still works")))
