"""The loader brings what an epoch asks: fetched early, loaded in time, let go when nobody needs it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from node.engine.arguments import EngineArgumentsError
from node.model_loader import ModelLoader
from node.models.validation import ModelInvalidError
from node.node_assignments import NodeAssignment
from node.ports import Head
from node.protocol.identifiers import BlockNumber, Cid
from node.protocol.records import ModelRecord
from tests.builders import model

OLD = model()
NEW = replace(OLD, cid=Cid("bafy-new"), version=2)
BAD = replace(OLD, cid=Cid("bafy-bad"), version=3)


class World:
    """Everything around a loader; notes in `done` what it does."""

    node_id = "node-1"

    def __init__(self) -> None:
        self.assigned = NodeAssignment(OLD)
        self.done: list[tuple[str, str]] = []
        self.held: Counter[str] = Counter()
        self.mining = False
        self.explained = ""
        self.beside: ModelRecord | None = None
        self.gate = trio.Event()
        self.gate.set()
        self.rounds = 0

    async def heads(self) -> AsyncIterator[Head]:
        while True:
            yield Head(BlockNumber(1), BlockNumber(1))
            self.rounds += 1
            await trio.sleep(0.001)

    async def ensure(self, record: ModelRecord) -> Path:
        await self.gate.wait()
        self.done.append(("fetch", record.cid))
        if record.cid == BAD.cid:
            raise ModelInvalidError("it is no model")
        self.held[record.cid] += 1
        return Path(record.cid)

    def release(self, cid: Cid) -> None:
        self.held[cid] -= 1

    async def keep(self, _user: str, cid: Cid | None) -> None:
        self.done.append(("keep", str(cid)))

    def load(self, record: ModelRecord, path: Path) -> None:
        if "--bad" in record.model_args:
            raise EngineArgumentsError("not allowed")
        assert path == Path(record.cid)
        self.done.append(("load", record.cid))

    def explain(self, reason: str) -> None:
        self.explained = reason

    def load_next(self, record: ModelRecord | None, path: Path = Path()) -> None:
        self.beside = record
        if record is None:
            return
        assert path == Path(record.cid)
        if ("beside", record.cid) not in self.done:
            self.done.append(("beside", record.cid))

    def unload(self) -> None:
        self.done.append(("unload", ""))

    def mine(self, mining: bool) -> None:
        self.mining = mining

    async def until(self, what: Callable[[], object]) -> None:
        with trio.fail_after(20):
            while not what():
                await trio.sleep(0.002)

    async def until_nothing_is_new(self) -> None:
        """Rounds in which it would have done what it must not do."""
        enough = self.rounds + 20
        await self.until(lambda: self.rounds >= enough)

    def did(self, *action: str) -> Callable[[], bool]:
        return lambda: action in self.done


@asynccontextmanager
async def loading() -> AsyncIterator[World]:
    world: Any = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ModelLoader(world, world, world, world, OLD.model_id, lambda: world.assigned).run)
        yield world
        nursery.cancel_scope.cancel()


async def test_the_next_version_is_fetched_early_loaded_beside_in_time_and_the_old_one_let_go() -> None:
    async with loading() as world:
        await world.until(world.did("load", OLD.cid))
        world.assigned = NodeAssignment(OLD, NEW)
        await world.until(world.did("fetch", NEW.cid))
        await world.until_nothing_is_new()
        assert ("beside", NEW.cid) not in world.done
        assert +world.held == {OLD.cid: 1, NEW.cid: 1}
        world.assigned = NodeAssignment(OLD, NEW, load_coming=True)
        await world.until(world.did("beside", NEW.cid))
        assert ("load", NEW.cid) not in world.done
        world.assigned = NodeAssignment(NEW)
        await world.until(world.did("load", NEW.cid))
        await world.until(lambda: +world.held == {NEW.cid: 1})
    assert world.done.count(("fetch", NEW.cid)) == 1


async def test_what_no_longer_comes_is_no_longer_loaded_beside() -> None:
    async with loading() as world:
        world.assigned = NodeAssignment(OLD, NEW, load_coming=True)
        await world.until(lambda: world.beside == NEW)
        world.assigned = NodeAssignment(OLD)
        await world.until(lambda: world.beside is None)


async def test_mining_begins_on_time_though_a_model_is_being_fetched() -> None:
    async with loading() as world:
        await world.until(world.did("load", OLD.cid))
        world.gate = trio.Event()
        world.assigned = NodeAssignment(OLD, NEW, mining=True)
        await world.until(lambda: world.mining)
        assert ("fetch", NEW.cid) not in world.done
        world.gate.set()
        await world.until(world.did("fetch", NEW.cid))


async def test_what_cannot_be_used_is_tried_once_and_leaves_what_serves_alone() -> None:
    async with loading() as world:
        await world.until(world.did("load", OLD.cid))
        world.assigned = NodeAssignment(OLD, BAD)
        await world.until(world.did("fetch", BAD.cid))
        world.assigned = NodeAssignment(replace(NEW, model_args=("--bad",)))
        await world.until(world.did("fetch", NEW.cid))
        await world.until(lambda: +world.held == {OLD.cid: 1})
        await world.until_nothing_is_new()
        assert "is refused: not allowed" in world.explained
    assert [action for action in world.done if action[0] != "keep"] == [
        ("fetch", OLD.cid),
        ("load", OLD.cid),
        ("fetch", BAD.cid),
        ("fetch", NEW.cid),
    ]


async def test_a_model_that_the_network_no_longer_serves_is_unloaded_and_comes_back_with_it() -> None:
    async with loading() as world:
        await world.until(world.did("load", OLD.cid))
        world.assigned = NodeAssignment(None)
        await world.until(world.did("unload", ""))
        await world.until(lambda: not +world.held)
        world.assigned = NodeAssignment(OLD)
        await world.until(lambda: world.done.count(("load", OLD.cid)) == 2)
    assert world.done.count(("unload", "")) == 1
