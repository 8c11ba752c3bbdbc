"""Fetches to disk: straight into the files, resumed by what is there, and refused before a hostile tree takes disk."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.models.content import ContentAdapter, ContentExchange, open_content
from node.ports import ContentUnavailableError, Provider
from node.protocol.identifiers import Cid as CidText
from p2p.content.blockstore import StoreFullError
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.gateway_source import GatewaySource
from p2p.content.protobuf import encode_integer
from p2p.content.retrieval.staging import OPEN_FILES_MAX, Staging
from p2p.content.source import SourceFailedError
from p2p.content.unixfs import DIRECTORY_DATA, UnixFsError, encode_file_data
from p2p.standing import Standing
from tests.integration.content.hostile import provider_that, reply
from tests.open_files import open_files

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[3]


@asynccontextmanager
async def peer(directory: Path, exchange: ContentExchange | None = None) -> AsyncIterator[ContentAdapter]:
    async with open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0, exchange=exchange) as content:
        yield content


def provider(content: ContentAdapter) -> Provider:
    return Provider("127.0.0.1", content.port)


def make_files(directory: Path, mebibytes: int = 9) -> Path:
    (directory / "sub").mkdir(parents=True)
    (directory / "weights").write_bytes(os.urandom(mebibytes * MIB + 17))
    (directory / "zeros").write_bytes(bytes(3 * MIB))
    (directory / "sub" / "small.json").write_text("{}")
    (directory / "sub" / "empty").write_bytes(b"")
    (directory / "none").mkdir()
    return directory


def assert_same(one: Path, two: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*"))
    for name in names:
        assert (one / name).is_dir() == (two / name).is_dir()
        if (one / name).is_file():
            assert (one / name).read_bytes() == (two / name).read_bytes()


def leftovers(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


async def test_a_fetched_model_takes_its_size_once_and_is_served_from_its_files(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two, peer(tmp_path / "c") as three:
        cid, size = await one.import_directory(model, in_place=True)
        await two.ensure_directory(cid, [provider(one)], tmp_path / "two")
        assert_same(model, tmp_path / "two")
        assert not leftovers(tmp_path)
        assert two.store.usage().block_bytes < 100_000 < size
        assert await two.has(cid)
        await three.ensure_directory(cid, [provider(two)], tmp_path / "three")
        assert_same(model, tmp_path / "three")
        assert two.served_bytes == sum(three.fetched_bytes.values())
        # Equal leaves (the zeros) came once.
        assert two.served_bytes < size - MIB


async def test_a_directory_of_many_small_files_arrives_whole_and_none_of_them_stays_open(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for number in range(3 * OPEN_FILES_MAX):
        (model / f"{number:03}").write_bytes(os.urandom(100 + number))
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, _ = await one.import_directory(model, in_place=True)
        await two.ensure_directory(cid, [provider(one)], tmp_path / "two")
        assert_same(model, tmp_path / "two")
        assert not [name for name in open_files(tmp_path) if not name.startswith(("a/", "b/"))]


async def test_a_model_held_already_is_not_fetched_again(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one:
        cid, _ = await one.import_directory(model, in_place=True)
        await one.ensure_directory(cid, [], tmp_path / "copy")
        assert_same(model, tmp_path / "copy")


async def test_deleted_files_are_forgotten(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, _ = await one.import_directory(model, in_place=True)
        await two.ensure_directory(cid, [provider(one)], tmp_path / "two")
        assert [pin.name for pin in two.store.pins()] == ["fetched"]
        await two.forget_directory(cid, tmp_path / "two")
        assert not await two.has(cid)
        assert not two.store.pins()


async def test_a_fetch_killed_anywhere_goes_on_without_fetching_again(tmp_path: Path) -> None:
    """A child process fetches slowly and is killed by the kernel, twice; then the rest comes."""
    model = make_files(tmp_path / "model", 24)
    async with peer(tmp_path / "a") as one:
        cid, size = await one.import_directory(model, in_place=True)
        destination = tmp_path / "out"
        for part in (1, 2):
            process = start_fetch(tmp_path / "b", cid, provider(one), destination, bytes_per_second=20 * MIB)
            try:
                with trio.fail_after(60):
                    while one.served_bytes < part * size // 3:
                        assert process.poll() is None, process.communicate()
                        await trio.sleep(0.005)
            finally:
                process.send_signal(signal.SIGKILL)
                await trio.to_thread.run_sync(process.wait)
            assert not destination.exists()
            with trio.fail_after(10):
                while one.server is not None and one.server.open_connections:
                    await trio.sleep(0.01)
        (staged,) = tmp_path.glob(".partial-*/content")
        held = leaf_bytes_there(model / "weights", staged / "weights")
        assert held >= 4 * MIB
        async with peer(tmp_path / "b") as two:
            assert not await two.has(cid)
            await two.ensure_directory(cid, [provider(one)], destination)
            assert_same(model, destination)
            assert await two.has(cid)
            # The zeros and the nodes may come again.
            assert sum(two.fetched_bytes.values()) <= (model / "weights").stat().st_size - held + MIB + 10_000
        assert not leftovers(tmp_path)


def leaf_bytes_there(whole: Path, part: Path) -> int:
    wanted, found = whole.read_bytes(), part.read_bytes()
    starts = range(0, len(wanted), MIB)
    return sum(
        len(wanted[start : start + MIB])
        for start in starts
        if wanted[start : start + MIB] == found[start : start + MIB]
    )


def start_fetch(
    store: Path, cid: str, source: Provider, destination: Path, *, bytes_per_second: int
) -> "subprocess.Popen[bytes]":
    program = (
        "import sys, trio; from pathlib import Path\n"
        "from node.models.content import ContentExchange, open_content\n"
        "from node.ports import Provider; from node.protocol.identifiers import Cid\n"
        "async def main(store, cid, port, destination, rate):\n"
        "    exchange = ContentExchange(download_bytes_per_second=int(rate))\n"
        "    async with open_content(Path(store), host='', port=0, cache_bytes_max=0, serve=False, exchange=exchange)"
        " as content:\n"
        "        await content.ensure_directory(Cid(cid), [Provider('127.0.0.1', int(port))], Path(destination))\n"
        "trio.run(main, *sys.argv[1:])\n"
    )
    arguments = [str(store), cid, str(source.port), str(destination), str(bytes_per_second)]
    return subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT, env={**os.environ})


async def test_staged_files_that_were_damaged_are_fetched_again(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, _ = await one.import_directory(model, in_place=True)

        def stop(held: int, _total: int | None) -> None:
            if held > 6 * MIB:
                raise RuntimeError("the process dies here")

        with pytest.raises(RuntimeError):
            await two.ensure_directory(cid, [provider(one)], tmp_path / "out", progress=stop)
        (content,) = tmp_path.glob(".partial-*/content")
        with (content / "weights").open("r+b") as file:
            file.write(b"rot")
        (content / "stranger").write_text("not of this model")
        (content / "link").symlink_to(tmp_path)
        await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        assert_same(model, tmp_path / "out")


async def test_a_crash_between_rename_and_index_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, _ = await one.import_directory(model, in_place=True)

        def crash(*_: object) -> None:
            raise RuntimeError("the process dies here")

        with monkeypatch.context() as patched:
            patched.setattr(two.store, "reference_file", crash)
            with pytest.raises(RuntimeError):
                await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        assert_same(model, tmp_path / "out")
        assert not await two.has(cid)
        await two.ensure_directory(cid, [], tmp_path / "out")
        assert await two.has(cid)
        assert not leftovers(tmp_path)


async def test_two_tasks_and_two_processes_do_not_fetch_the_same_twice(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, size = await one.import_directory(model, in_place=True)
        with (
            Staging(tmp_path / "out", Cid.parse(cid)).locked(),
            pytest.raises(ContentUnavailableError, match="another process"),
        ):
            await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(two.ensure_directory, cid, [provider(one)], tmp_path / "out")
        assert one.served_bytes < size
        assert_same(model, tmp_path / "out")


async def test_a_model_that_is_moved_is_served_from_its_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two, peer(tmp_path / "c") as three:
        cid, _ = await one.import_directory(model, in_place=True)
        await two.ensure_directory(cid, [provider(one)], tmp_path / "staged")
        (tmp_path / "staged").rename(tmp_path / "placed")
        assert not await two.has(cid)
        with monkeypatch.context() as patched:
            patched.setattr(Cid, "matches", only_nodes_are_hashed)
            await two.hold_directory(cid, tmp_path / "placed")
        assert await two.has(cid)
        await three.ensure_directory(cid, [provider(two)], tmp_path / "three")
        assert_same(model, tmp_path / "three")


def only_nodes_are_hashed(cid: Cid, data: bytes | bytearray | memoryview) -> bool:
    assert cid.codec is Codec.DAG_PB
    return hashlib.sha256(data).digest() == cid.digest


async def test_a_copied_model_is_hashed_before_it_is_served(tmp_path: Path) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one:
        cid, _ = await one.import_directory(model, in_place=True)
        shutil.copytree(model, tmp_path / "copy")
        shutil.copytree(model, tmp_path / "changed")
        with (tmp_path / "changed" / "weights").open("r+b") as file:
            file.write(b"other")
        shutil.rmtree(model)
        assert not await one.has(cid)
        with pytest.raises(ContentUnavailableError, match="weights is not the file"):
            await one.hold_directory(cid, tmp_path / "changed")
        assert not await one.has(cid)
        await one.hold_directory(cid, tmp_path / "copy")
        assert await one.has(cid)


# --- Hostile providers ------------------------------------------------------------------------------------------------


async def fetch_beside(tmp_path: Path, converse: Callable[[trio.SocketStream, str], object]) -> Standing:
    """Fetch a model from an honest peer and one that behaves as `converse`; return who stands how."""
    model = make_files(tmp_path / "model")
    standing = Standing(time.time)
    async with peer(tmp_path / "a") as honest, peer(tmp_path / "b", ContentExchange(standing=standing)) as fetcher:
        cid, _ = await honest.import_directory(model, in_place=True)
        async with provider_that(converse) as hostile:  # type: ignore[arg-type]
            with trio.fail_after(25):
                await fetcher.ensure_directory(cid, [hostile, provider(honest)], tmp_path / "out")
        assert_same(model, tmp_path / "out")
        assert f"127.0.0.1:{hostile.port}" not in fetcher.fetched_bytes
    return standing


async def test_garbage_is_never_written_and_its_giver_is_banned(tmp_path: Path) -> None:
    async def garbage(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(reply(200, os.urandom(1000)))

    standing = await fetch_beside(tmp_path, garbage)
    assert "corrupt block" in standing.bans()[0].reason


async def test_a_giver_of_a_byte_a_second_holds_nobody_up(tmp_path: Path) -> None:
    async def drip(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {MIB}\r\n\r\n".encode())
        while True:
            await stream.send_all(b"x")
            await trio.sleep(1)

    await fetch_beside(tmp_path, drip)


async def test_bodies_that_are_too_long_or_cut_off_are_refused(tmp_path: Path) -> None:
    async def cut(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort")
        await stream.aclose()

    async def vast(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")

    for number, converse in enumerate((cut, vast)):
        (tmp_path / str(number)).mkdir()
        await fetch_beside(tmp_path / str(number), converse)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_never_followed(tmp_path: Path, status: int) -> None:
    reached = False

    async def inner(stream: trio.SocketStream, _target: str) -> None:
        nonlocal reached
        reached = True
        await stream.send_all(reply(200, b"secret"))

    async with provider_that(inner) as local:

        async def redirect(stream: trio.SocketStream, target: str) -> None:
            location = f"Location: http://127.0.0.1:{local.port}{target}"
            await stream.send_all(reply(status, b"", location))

        async with provider_that(redirect) as hostile:
            source = GatewaySource(hostile.host, hostile.port)
            with pytest.raises(SourceFailedError, match="never followed"):
                await source.get(Cid.of(Codec.RAW, b"secret"), bytes_max=100)
            await source.aclose()
    assert not reached


async def test_a_busy_gateway_is_asked_again_and_a_closed_connection_is_opened_again(tmp_path: Path) -> None:
    answers = 0

    async def busy(stream: trio.SocketStream, _target: str) -> None:
        nonlocal answers
        answers += 1
        if answers == 1:
            await stream.send_all(reply(429, b"later"))
        elif answers == 2:
            await stream.aclose()
        else:
            await stream.send_all(reply(200, b"here", "Connection: close"))

    async with provider_that(busy) as hostile:
        source = GatewaySource(hostile.host, hostile.port)
        for _ in range(3):
            assert await source.get(Cid.of(Codec.RAW, b"here"), bytes_max=100) == b"here"
        await source.aclose()


async def test_a_cancelled_request_does_not_shift_the_replies_of_others(tmp_path: Path) -> None:
    """Requests share connections; whoever is cancelled must not leave its reply to the next."""
    async with peer(tmp_path / "a") as one:
        bodies = [hashlib.sha256(bytes([number])).digest() * 1000 for number in range(64)]
        cids = [Cid.parse(await one.add_bytes(body)) for body in bodies]
        source = GatewaySource("127.0.0.1", one.port)

        async def get(number: int) -> None:
            if number % 3 == 0:
                with trio.move_on_after(0.001 * (number % 5)):
                    await source.get(cids[number], bytes_max=MIB)
            else:
                assert await source.get(cids[number], bytes_max=MIB) == bodies[number]

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(len(bodies)):
                    nursery.start_soon(get, number)
        await source.aclose()


async def test_a_provider_that_wants_a_token_gets_it(tmp_path: Path) -> None:
    async with peer(tmp_path / "a", ContentExchange(token="secret")) as one:
        cid = await one.add_bytes(b"private")
        known = ContentExchange(provider_tokens={f"127.0.0.1:{one.port}": "secret"})
        async with peer(tmp_path / "b") as stranger, peer(tmp_path / "c", known) as friend:
            with pytest.raises(ContentUnavailableError, match="token"):
                await stranger.read_bytes(cid, [provider(one)], limit_bytes=100)
            assert await friend.read_bytes(cid, [provider(one)], limit_bytes=100) == b"private"


async def test_who_failed_lately_is_asked_last(tmp_path: Path) -> None:
    asked: list[str] = []

    async def broken(stream: trio.SocketStream, target: str) -> None:
        asked.append(target)
        await stream.send_all(reply(500, b"broken"))

    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two, provider_that(broken) as bad:
        cids = [await one.add_bytes(bytes([number])) for number in range(2)]
        with pytest.raises(ContentUnavailableError, match="HTTP 500"):
            await two.read_bytes(cids[0], [bad], limit_bytes=100)
        assert asked
        asked.clear()
        assert await two.read_bytes(cids[1], [bad, provider(one)], limit_bytes=100) == b"\1"
        assert not asked


# --- Hostile trees ----------------------------------------------------------------------------------------------------


def put(content: ContentAdapter, links: list[tuple[Cid, str, int]], data: bytes) -> Cid:
    node = Node(tuple(Link(cid, name.encode(), size) for cid, name, size in links), data)
    return content.store.put(Codec.DAG_PB, encode_node(node))


def lying_size(content: ContentAdapter) -> Cid:
    leaf = content.store.put(Codec.RAW, b"four")
    return put(content, [(leaf, "", 5), (leaf, "", 5)], encode_file_data((5, 5)))


def lying_parent(content: ContentAdapter) -> Cid:
    leaf = content.store.put(Codec.RAW, b"four")
    below = put(content, [(leaf, "", 4), (leaf, "", 4)], encode_file_data((4, 4)))
    return put(content, [(below, "", 9), (below, "", 9)], encode_file_data((9, 9)))


def exbibyte(content: ContentAdapter) -> Cid:
    leaf = content.store.put(Codec.RAW, b"four")
    return put(content, [(leaf, "", 4), (leaf, "", 4)], encode_file_data((2**59, 2**59)))


def file_bomb(content: ContentAdapter) -> Cid:
    cid, size = content.store.put(Codec.RAW, bytes(1)), 1
    for _ in range(8):
        cid, size = put(content, [(cid, "", size)] * 170, encode_file_data((size,) * 170)), size * 170
    return cid


def directory_bomb(content: ContentAdapter) -> Cid:
    cid = content.store.put(Codec.RAW, b"x")
    for _ in range(20):
        cid = put(content, [(cid, f"name{number}", 1) for number in range(100)], DIRECTORY_DATA)
    return cid


def empty_directory_bomb(content: ContentAdapter) -> Cid:
    cid = put(content, [], DIRECTORY_DATA)
    for _ in range(20):
        cid = put(content, [(cid, f"name{number}", 0) for number in range(100)], DIRECTORY_DATA)
    return cid


def abyss(content: ContentAdapter) -> Cid:
    cid = content.store.put(Codec.RAW, b"x")
    for _ in range(150):
        cid = put(content, [(cid, "d", 1)], DIRECTORY_DATA)
    return cid


def shaft(content: ContentAdapter) -> Cid:
    cid = content.store.put(Codec.RAW, b"x")
    for _ in range(150):
        cid = put(content, [(cid, "", 1)], encode_file_data((1,)))
    return cid


def traversal(content: ContentAdapter) -> Cid:
    return put(content, [(content.store.put(Codec.RAW, b"x"), "../escape", 1)], DIRECTORY_DATA)


def absolute(content: ContentAdapter) -> Cid:
    return put(content, [(content.store.put(Codec.RAW, b"x"), "/tmp/escape", 1)], DIRECTORY_DATA)


def twice(content: ContentAdapter) -> Cid:
    leaf = content.store.put(Codec.RAW, b"x")
    return put(content, [(leaf, "a", 1), (leaf, "a", 1)], DIRECTORY_DATA)


def symbolic_link(content: ContentAdapter) -> Cid:
    link = put(content, [], encode_integer(1, 4) + b"\x12\x0b/etc/passwd")
    return put(content, [(link, "link", 1)], DIRECTORY_DATA)


@pytest.mark.parametrize(
    "make",
    [
        lying_size,
        lying_parent,
        exbibyte,
        file_bomb,
        directory_bomb,
        empty_directory_bomb,
        abyss,
        shaft,
        traversal,
        absolute,
        twice,
        symbolic_link,
    ],
)
async def test_a_hostile_tree_is_refused_and_leaves_nothing(
    tmp_path: Path, make: Callable[[ContentAdapter], Cid]
) -> None:
    async with peer(tmp_path / "a") as hostile, peer(tmp_path / "b") as fetcher:
        cid = CidText(str(make(hostile)))
        with trio.fail_after(25), pytest.raises(UnixFsError):
            await fetcher.ensure_directory(cid, [provider(hostile)], tmp_path / "models" / "out")
        assert not list((tmp_path / "models").iterdir())
        assert not fetcher.store.pins()
        assert not (tmp_path / "escape").exists()


# --- Full disks -------------------------------------------------------------------------------------------------------


async def test_a_tree_larger_than_the_disk_is_refused_before_a_leaf_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_files(tmp_path / "model")
    status = os.statvfs(tmp_path)
    fields = list(status)
    fields[4] = 70 * MIB // status.f_frsize  # f_bavail: 6 MiB beyond the reserve
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, _ = await one.import_directory(model, in_place=True)
        with monkeypatch.context() as patched:
            patched.setattr("p2p.content.retrieval.staging.os.statvfs", lambda _path: os.statvfs_result(fields))
            with pytest.raises(StoreFullError, match="free some space") as caught:
                await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        assert caught.value.errno == errno.ENOSPC
        assert sum(two.fetched_bytes.values()) < 10_000
        assert not (tmp_path / "out").exists()


async def test_a_disk_that_fills_up_is_named_and_the_fetch_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_files(tmp_path / "model")
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid, size = await one.import_directory(model, in_place=True)
        written = 0
        real = os.pwrite

        def full(descriptor: int, data: bytes, offset: int) -> int:
            nonlocal written
            if written > 5 * MIB:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            count = real(descriptor, data, offset)
            written += count
            return count

        with monkeypatch.context() as patched:
            patched.setattr("p2p.content.retrieval.staging.os.pwrite", full)
            with pytest.raises(StoreFullError, match="goes on where it stopped"):
                await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        assert not (tmp_path / "out").exists()
        before = sum(two.fetched_bytes.values())
        await two.ensure_directory(cid, [provider(one)], tmp_path / "out")
        assert_same(model, tmp_path / "out")
        assert sum(two.fetched_bytes.values()) - before < size - 4 * MIB
