"""What a commit survives, and when."""

import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

import node.store.database
from node.store.database import LOG_PAGES_MAX, MOVE_COMMITS, Database


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

    monkeypatch.setattr(os, "fdatasync", fdatasync)
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


async def test_the_log_is_moved_into_the_database_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "quern.sqlite")
    threads: list[int] = []
    commits: list[int] = []
    move = node.store.database._move_log

    def noting(path: Path) -> None:
        threads.append(threading.get_ident())
        commits.append(database._commits)
        move(path)

    monkeypatch.setattr(node.store.database, "_move_log", noting)
    monkeypatch.setattr(node.store.database, "MOVE_SECONDS", 0.01)
    put(database, "early")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.keep_log_short)
        for number in range(MOVE_COMMITS):
            put(database, f"{number}")
        with trio.fail_after(30):
            while not in_the_file_alone(tmp_path / "quern.sqlite", "early"):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert threads
    assert threading.get_ident() not in threads
    assert commits[0] >= MOVE_COMMITS  # fewer are not worth it
    put(database, "late")
    other = sqlite3.connect(tmp_path / "quern.sqlite")
    assert other.execute("SELECT count(*) FROM documents").fetchone() == (MOVE_COMMITS + 2,)


def in_the_file_alone(path: Path, key: str) -> bool:
    """Whether a commit is in the database file itself, without its log."""
    alone = path.with_name("copy.sqlite")
    alone.write_bytes(path.read_bytes())
    try:
        return bool(sqlite3.connect(alone).execute("SELECT 1 FROM documents WHERE key = ?", (key,)).fetchone())
    except sqlite3.Error:
        return False  # read while it was written


def test_a_commit_moves_the_log_itself_only_where_nothing_else_did_for_long(tmp_path: Path) -> None:
    database = Database(tmp_path / "quern.sqlite")
    assert database.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (LOG_PAGES_MAX,)


async def test_a_log_that_cannot_be_moved_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "quern.sqlite")
    tried: list[Path] = []

    def failing(path: Path) -> None:
        tried.append(path)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(node.store.database, "_move_log", failing)
    monkeypatch.setattr(node.store.database, "MOVE_SECONDS", 0.01)
    monkeypatch.setattr(node.store.database, "MOVE_AGAIN_SECONDS", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.keep_log_short)
        with trio.fail_after(30):
            while len(tried) < 2:
                for number in range(MOVE_COMMITS):
                    put(database, f"{number}")
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_log_that_could_not_be_moved_is_moved_without_another_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(tmp_path / "quern.sqlite")
    tried: list[float] = []
    move = node.store.database._move_log

    def failing_once(path: Path) -> None:
        tried.append(time.monotonic())
        if len(tried) == 1:
            raise sqlite3.OperationalError("disk I/O error")
        move(path)

    monkeypatch.setattr(node.store.database, "_move_log", failing_once)
    monkeypatch.setattr(node.store.database, "MOVE_SECONDS", 0.01)
    monkeypatch.setattr(node.store.database, "MOVE_AGAIN_SECONDS", 0.2)
    for number in range(MOVE_COMMITS):
        put(database, f"{number}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.keep_log_short)
        with trio.fail_after(30):
            while not in_the_file_alone(tmp_path / "quern.sqlite", "0"):
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert tried[1] - tried[0] >= 0.2  # not at each look
