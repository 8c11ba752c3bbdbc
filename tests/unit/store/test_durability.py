"""What a commit survives, and when."""

import os
import sqlite3
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

import node.store.database
from node.store.database import Database


def put(database: Database, key: str) -> None:
    with database.quick_transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, b"x"))


def synchronous(database: Database) -> int:
    (mode,) = database.connection.execute("PRAGMA synchronous").fetchone()
    return int(mode)


def test_a_quick_commit_is_there_for_whoever_opens_the_file_next(tmp_path: Path) -> None:
    database = Database(tmp_path / "quern.sqlite")
    put(database, "a")
    other = sqlite3.connect(tmp_path / "quern.sqlite")  # as after kill -9: nothing was closed
    assert other.execute("SELECT key FROM documents").fetchall() == [("a",)]


def test_only_quick_commits_are_made_without_sync(tmp_path: Path) -> None:
    database = Database(tmp_path / "quern.sqlite")
    full = synchronous(database)
    assert full == 2
    with database.quick_transaction():
        assert synchronous(database) == 1
    assert synchronous(database) == full
    with pytest.raises(RuntimeError), database.quick_transaction():
        raise RuntimeError
    assert synchronous(database) == full


async def test_durable_returns_when_the_log_was_synced_after_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "quern.sqlite")
    synced: list[int] = []
    real = os.fdatasync

    def fdatasync(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(node.store.database.os, "fdatasync", fdatasync)
    await database.durable()
    assert not synced  # nothing was made without
    put(database, "a")
    size = (tmp_path / "quern.sqlite-wal").stat().st_size
    await database.durable()
    await database.durable()
    assert synced == [size]


async def test_many_wait_for_one_sync_and_a_later_commit_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "quern.sqlite")
    may_end = trio.Event()
    syncs = 0
    real = node.store.database._sync

    def slow(path: Path) -> None:
        nonlocal syncs
        syncs += 1
        trio.from_thread.run(may_end.wait)
        real(path)

    monkeypatch.setattr(node.store.database, "_sync", slow)
    done: list[str] = []

    async def save(key: str) -> None:
        put(database, key)
        await database.durable()
        done.append(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save, "first")
        while syncs < 1:
            await trio.lowlevel.checkpoint()
        for number in range(20):
            nursery.start_soon(save, f"later {number}")
        await trio.testing.wait_all_tasks_blocked()
        assert not done
        may_end.set()
    assert len(done) == 21
    assert syncs == 2


async def test_a_sync_that_fails_is_told_to_its_own_task_and_made_again_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "quern.sqlite")
    real = node.store.database._sync
    may_end = trio.Event()
    failures = 0

    def failing_once(path: Path) -> None:
        nonlocal failures
        if not failures:
            failures += 1
            trio.from_thread.run(may_end.wait)
            raise OSError("the disk is gone")
        real(path)

    monkeypatch.setattr(node.store.database, "_sync", failing_once)
    told: list[str] = []

    async def save(key: str) -> None:
        put(database, key)
        try:
            await database.durable()
            told.append("durable")
        except OSError:
            told.append("failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save, "first")
        while not failures:
            await trio.lowlevel.checkpoint()
        for number in range(5):
            nursery.start_soon(save, f"later {number}")
        await trio.testing.wait_all_tasks_blocked()
        may_end.set()
    assert sorted(told) == ["durable"] * 5 + ["failed"]
