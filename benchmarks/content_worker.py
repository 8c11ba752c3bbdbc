"""The processes of the content benchmark: each does one thing and prints what it took, as a line of JSON."""

import argparse
import json
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog
import trio

from benchmarks import content_bare
from benchmarks.cost import Cost
from node.models.content import open_content
from node.ports import Provider
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.unixfs_export import export

MIB = 1024 * 1024
EXPORT_BYTES_MAX = 1024**4
STRIPES = 2
"""Connections of the bare server: one for each thread that hashes, of which two fill the cores here."""


async def serve(store: Path, model: Path) -> None:
    """Import a model in place and serve it; for each line on stdin tell the cost and bytes since the last."""
    async with open_content(store, host="127.0.0.1", port=0, cache_bytes_max=0) as content:
        memory, begin = _memory(), time.perf_counter()
        cid, size = await content.import_directory(model, in_place=True)
        seconds = time.perf_counter() - begin
        tell(port=content.port, cid=cid, bytes=size, seconds=seconds, memory_growth=_memory() - memory)
        before, served = Cost.so_far(), content.served_bytes
        while await trio.to_thread.run_sync(sys.stdin.readline):
            now, bytes_now = Cost.so_far(), content.served_bytes
            tell(cost=now.since(before).told(), bytes=bytes_now - served)
            before, served = now, bytes_now


async def fetch() -> None:
    """Say that this is ready, then fetch a model for each line on stdin: a store and a destination, both new, a CID,
    ports."""
    tell(ready=True)
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        store, destination, cid, *ports = json.loads(line)
        async with open_content(Path(store), host="127.0.0.1", port=0, cache_bytes_max=0, serve=False) as content:
            memory, begin, before = _memory(), time.perf_counter(), Cost.so_far()
            providers = [Provider("127.0.0.1", port) for port in ports]
            await content.ensure_directory(Cid(cid), providers, Path(destination))
            seconds, cost, growth = time.perf_counter() - begin, Cost.so_far().since(before), _memory() - memory
        tell(seconds=seconds, cost=cost.told(), bytes=sum(content.fetched_bytes.values()), memory_growth=growth)


async def copy_out(store: Path, destination: Path, cid: Cid) -> None:
    """Export a model from a store."""
    async with open_content(store, host="127.0.0.1", port=0, cache_bytes_max=0, serve=False) as content:
        memory, begin = _memory(), time.perf_counter()
        read = content.store.read
        await trio.to_thread.run_sync(
            lambda: export(BlockCid.parse(cid), read, destination, limit_bytes=EXPORT_BYTES_MAX)
        )
        tell(seconds=time.perf_counter() - begin, memory_growth=_memory() - memory)


async def send_raw(mebibytes: int) -> None:
    """Send so many mebibytes to whoever connects, as fast as plain trio can."""
    block = bytes(MIB)

    async def handle(stream: trio.SocketStream) -> None:
        for _ in range(mebibytes):
            await stream.send_all(block)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    tell(port=listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


async def receive_raw() -> None:
    """For each port on stdin, receive everything from there and throw it away."""
    tell(ready=True)
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        async with await trio.open_tcp_stream("127.0.0.1", int(line)) as stream:
            begin, received = time.perf_counter(), 0
            while data := await stream.receive_some(MIB):
                received += len(data)
            tell(seconds=time.perf_counter() - begin, bytes=received)


def serve_bare(path: Path) -> None:
    """For each line on stdin send the file once by bare blocking sendfile and tell what the kernel takes for it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tell(port=listener.getsockname()[1])
        while sys.stdin.readline():
            tell(cost=content_bare.send(listener, path, STRIPES).told(), bytes=path.stat().st_size)


def fetch_bare(port: int, blocks: int) -> None:
    """For each path on stdin receive, hash and write a new file there."""
    tell(ready=True)
    while line := sys.stdin.readline():
        seconds, cost = content_bare.fetch(port, Path(json.loads(line)), blocks, STRIPES)
        tell(seconds=seconds, cost=cost.told(), bytes=blocks * MIB)


def tell(**values: object) -> None:
    """Print a line of JSON."""
    print(json.dumps(values), flush=True)


def _memory() -> int:
    """Return the most memory this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run the named part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part")
    parser.add_argument("arguments", nargs="*")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for `tell`
    values: list[str] = given.arguments
    blocking: dict[str, Callable[[], None]] = {
        "serve-bare": lambda: serve_bare(Path(values[0])),
        "fetch-bare": lambda: fetch_bare(int(values[0]), int(values[1])),
    }
    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "serve": lambda: serve(Path(values[0]), Path(values[1])),
        "fetch": fetch,
        "export": lambda: copy_out(Path(values[0]), Path(values[1]), Cid(values[2])),
        "send-raw": lambda: send_raw(int(values[0])),
        "receive-raw": receive_raw,
    }
    if given.part in blocking:
        blocking[given.part]()
    else:
        trio.run(parts[given.part])


if __name__ == "__main__":
    main()
