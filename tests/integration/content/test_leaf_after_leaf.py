"""Leaf after leaf on one connection, by the short way: the same answers as for each request alone."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from node.models.content import ContentAdapter, ContentExchange, open_content
from p2p.content.cid import Cid, Codec
from p2p.content.gateway import leaf_run
from p2p.content.gateway.admission import GatewayLimits
from tests.open_files import open_files

MIB = 1024 * 1024
LEAVES = 12
SECONDS_MAX = 30


@dataclass
class Gateway:
    content: ContentAdapter
    weights: Path
    leaves: list[Cid]
    root: Cid

    @property
    def cut(self) -> int:
        assert self.content.server is not None
        return self.content.server.metrics.slow_readers_cut

    @property
    def answers(self) -> int:
        assert self.content.server is not None
        return self.content.server.metrics.answers[200]

    def bytes_of(self, number: int) -> bytes:
        with self.weights.open("rb") as file:
            file.seek(number * MIB)
            return file.read(MIB)


@asynccontextmanager
async def _gateway(directory: Path, limits: GatewayLimits | None = None, token: str = "") -> AsyncIterator[Gateway]:
    model = directory / "model"
    model.mkdir()
    data = os.urandom(LEAVES * MIB)
    (model / "weights").write_bytes(data)
    exchange = ContentExchange(limits=limits or GatewayLimits(), token=token)
    async with open_content(
        directory / "store", host="127.0.0.1", port=0, cache_bytes_max=0, exchange=exchange
    ) as content:
        root, _ = await content.import_directory(model, in_place=True)
        leaves = [Cid.of(Codec.RAW, data[number * MIB : (number + 1) * MIB]) for number in range(LEAVES)]
        yield Gateway(content, model / "weights", leaves, Cid.parse(root))


class Client:
    """Speaks to the gateway byte by byte, as its requests were written."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = bytearray()

    async def ask(self, *requests: str) -> None:
        await self.stream.send_all("".join(f"{request}\r\nHost: a\r\n\r\n" for request in requests).encode())

    async def answer(self, *, body: bool = True) -> tuple[bytes, bytes]:
        """Return a head and its body."""
        while b"\r\n\r\n" not in self._received:
            await self._receive()
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        lengths = [int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")]
        size = lengths[0] if body and lengths else 0
        while len(self._received) < size:
            await self._receive()
        answered = bytes(self._received[:size])
        del self._received[:size]
        return head, answered

    async def _receive(self) -> None:
        data = await self.stream.receive_some(MIB)
        if not data:
            raise EOFError
        self._received += data


@asynccontextmanager
async def _client(gateway: Gateway) -> AsyncIterator[Client]:
    async with await trio.open_tcp_stream("127.0.0.1", gateway.content.port) as stream:
        yield Client(stream)


def _get(cid: Cid) -> str:
    return f"GET /ipfs/{cid}?format=raw HTTP/1.1"


async def test_whoever_asks_ahead_gets_what_each_request_alone_would_have_got(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as one_by_one, _client(gateway) as ahead:
            alone = []
            for cid in gateway.leaves:
                await one_by_one.ask(_get(cid))
                alone.append(await one_by_one.answer())
            await ahead.ask(*map(_get, gateway.leaves))
            assert [await ahead.answer() for _ in gateway.leaves] == alone
            assert [body for _, body in alone] == [gateway.bytes_of(number) for number in range(LEAVES)]
            assert gateway.content.served_bytes == 2 * LEAVES * MIB


async def test_other_requests_among_them_are_answered_in_their_turn(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as client:
            leaves, absent = gateway.leaves, Cid.of(Codec.RAW, b"absent")
            plain = [_get(leaves[0]), _get(leaves[1]), _get(leaves[2])]
            odd = {
                f"HEAD /ipfs/{leaves[3]}?format=raw HTTP/1.1": b"200",
                _get(absent): b"404",
                _get(gateway.root): b"200",
                "GET /ipfs/b?format=raw HTTP/1.1": b"400",
                _get(leaves[4]).replace("GET", "POST"): b"405",
                f"{_get(leaves[4])}\r\nRange: bytes=7-9": b"206",
                f"{_get(leaves[4])}\r\nX-More: of another length": b"200",
            }
            for request, status in odd.items():
                await client.ask(*plain, request, *plain)
                for number in (0, 1, 2):
                    assert (await client.answer())[1] == gateway.bytes_of(number)
                head, _ = await client.answer(body=not request.startswith("HEAD"))
                assert head.split()[1] == status, request
                for number in (0, 1, 2):
                    assert (await client.answer())[1] == gateway.bytes_of(number)


async def test_a_file_that_is_written_to_is_not_given_any_more(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as client:
            await client.ask(*map(_get, gateway.leaves))
            for _ in gateway.leaves:
                await client.answer()
            with gateway.weights.open("r+b") as file:
                file.write(b"changed")
                file.truncate(LEAVES * MIB + 1)
            await client.ask(*map(_get, gateway.leaves))
            for _ in gateway.leaves:
                assert (await client.answer())[0].startswith(b"HTTP/1.1 404 ")


async def test_a_reader_that_stops_among_them_is_cut(tmp_path: Path) -> None:
    limits = GatewayLimits(stall_seconds_max=0.2, reader_bytes_per_second_min=64 * MIB)
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path, limits) as gateway, _client(gateway) as client:
            # More than fits into any buffer between the two.
            await client.ask(*map(_get, gateway.leaves * 8))
            for number in (0, 1, 2):
                assert (await client.answer())[1] == gateway.bytes_of(number)
            while not gateway.cut:
                await trio.sleep(0.01)


async def test_each_of_them_counts_against_the_rate_of_requests(tmp_path: Path) -> None:
    limits = GatewayLimits(requests_per_second=2)
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path, limits) as gateway, _client(gateway) as client:
            await client.ask(*map(_get, gateway.leaves))
            statuses = [(await client.answer())[0].split()[1] for _ in gateway.leaves]
            assert statuses[:4] == [b"200"] * 4
            assert b"429" in statuses


async def test_a_token_once_given_is_asked_for_again(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path, token="sesame") as gateway, _client(gateway) as client:
            known = "\r\nAuthorization: Bearer sesame"
            first, second, third = gateway.leaves[:3]
            await client.ask(_get(first) + known, _get(second) + known, _get(third), _get(third) + known)
            statuses = [(await client.answer())[0].split()[1] for _ in range(4)]
            assert statuses == [b"200", b"200", b"401", b"200"]


async def _ask_for_all(gateway: Gateway, first: int) -> None:
    async with _client(gateway) as client:
        order = [(first + number) % LEAVES for number in range(LEAVES)]
        await client.ask(*(_get(gateway.leaves[number]) for number in order))
        for number in order:
            assert (await client.answer())[1] == gateway.bytes_of(number)


async def test_several_clients_get_what_each_asked_for_and_all_is_counted(tmp_path: Path) -> None:
    clients = 8
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway:
            async with trio.open_nursery() as nursery:
                for number in range(clients):
                    nursery.start_soon(_ask_for_all, gateway, number)
            assert gateway.content.served_bytes == clients * LEAVES * MIB
            assert gateway.answers == clients * LEAVES


async def test_a_leaf_that_must_be_read_from_the_disk_is_left_to_the_connections_own_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    def is_cached(descriptor: int, offset: int, size: int) -> bool:
        looked.append(offset)
        return len(looked) % 3 == 0

    monkeypatch.setattr(leaf_run, "is_cached", is_cached)
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway:
            await _ask_for_all(gateway, 0)
            assert gateway.content.served_bytes == LEAVES * MIB
            assert len(set(looked)) == LEAVES - 1  # all but the first, which nothing was alike to


async def test_a_request_that_comes_in_halves_is_answered_when_it_is_whole(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as client:
            await client.ask(_get(gateway.leaves[0]), _get(gateway.leaves[1]))
            half = f"{_get(gateway.leaves[2])}\r\nHo"
            await client.stream.send_all(half.encode())
            for number in (0, 1):
                assert (await client.answer())[1] == gateway.bytes_of(number)
            await client.stream.send_all(b"st: a\r\n\r\n")
            assert (await client.answer())[1] == gateway.bytes_of(2)


async def test_a_file_is_closed_soon_after_the_last_request(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as client:
            await client.ask(*map(_get, gateway.leaves))
            for _ in gateway.leaves:
                await client.answer()
            gateway.weights.unlink()
            while open_files(gateway.weights.parent):
                await trio.sleep(0.01)
            await client.ask(_get(gateway.leaves[0]))  # the connection is as good as before
            assert (await client.answer())[0].startswith(b"HTTP/1.1 404 ")


async def test_a_file_that_is_cut_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway, _client(gateway) as client:
            await client.ask(*map(_get, gateway.leaves))
            for _ in range(3):
                await client.answer()
            os.truncate(gateway.weights, 0)
            with pytest.raises(EOFError):
                for _ in range(3, LEAVES):
                    head, _ = await client.answer()
                    if not head.startswith(b"HTTP/1.1 200 "):
                        raise EOFError  # it was cut between two leaves


async def test_a_client_that_goes_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway:
            async with _client(gateway) as client:
                await client.ask(*map(_get, gateway.leaves * 4))
                await client.answer()
                await client.answer()
            assert gateway.content.server is not None
            while gateway.content.server.open_connections:
                await trio.sleep(0.01)
            assert not open_files(gateway.weights.parent)
            await _ask_for_all(gateway, 0)


async def test_a_gateway_ends_while_leaves_are_under_way(tmp_path: Path) -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _gateway(tmp_path) as gateway:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.content.port)
            client = Client(stream)
            await client.ask(*map(_get, gateway.leaves * 4))
            await client.answer()
            await client.answer()
        async with stream:
            assert not open_files(gateway.weights.parent)
            with pytest.raises(EOFError):
                for _ in gateway.leaves * 4:
                    await client.answer()
