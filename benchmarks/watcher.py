"""How fast the watcher catches up with 100,000 blocks, against bare eth_getLogs over the same ranges.

.venv/bin/python -m benchmarks.watcher
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from pydantic_core import from_json

from benchmarks.history import CHANNELS
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import JsonRpc
from node.chain.watcher import Watcher
from node.protocol.identifiers import Address, BlockNumber
from node.store.chain_tables import ChainTables
from node.store.database import Database

BLOCKS = 100_000
EVENTS = 1_000
CONFIRMATIONS = 2
ROUNDS = 5
DELAYS_MILLISECONDS = (0, 20, 100)
"""Of each reply: a node on the same machine that answers at once, one that is near, and one that takes
as long over a range as a node with a real past does."""


class NotingRpc(JsonRpc):
    """Notes which ranges of logs are asked for."""

    ranges: list[dict[str, Any]]

    async def call_agreed(self, method: str, *parameters: Any, **options: Any) -> Any:
        """As that of JsonRpc."""
        if method == "eth_getLogs" and "fromBlock" in parameters[0]:
            self.ranges.append(parameters[0])
        return await super().call_agreed(method, *parameters, **options)


async def catch_up(url: str, folder: Path) -> tuple[float, list[dict[str, Any]]]:
    """Return blocks per second from an empty store, and the ranges asked for."""
    async with httpx.AsyncClient() as client:
        rpc = NotingRpc([url], client)
        rpc.ranges = []
        database = Database(folder / f"{time.monotonic_ns()}.sqlite")
        names = {Address(CHANNELS): "PaymentChannels"}
        watcher = Watcher(
            rpc,
            ChainTables(database),
            names,
            EventDecoder(1, Address(CHANNELS)),
            first_block=BlockNumber(1),
            confirmations=CONFIRMATIONS,
            poll_seconds=1.0,
        )
        begin = time.perf_counter()
        await watcher.catch_up()
        seconds = time.perf_counter() - begin
        if watcher.head.number != BLOCKS or len(watcher.state.channels) != EVENTS:
            raise AssertionError(f"read {watcher.head.number} blocks and {len(watcher.state.channels)} channels")
        database.close()
        return BLOCKS / seconds, rpc.ranges


async def bare(url: str, ranges: list[dict[str, Any]]) -> float:
    """Return blocks per second of asking for the same logs, one range after the other, and parsing the JSON."""
    async with httpx.AsyncClient() as client:
        begin = time.perf_counter()
        logs = 0
        for wanted in ranges:
            body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getLogs", "params": [wanted]}
            logs += len(from_json((await client.post(url, json=body)).content)["result"])
        seconds = time.perf_counter() - begin
        if logs != EVENTS:
            raise AssertionError(f"read {logs} logs")
        return BLOCKS / seconds


@contextmanager
def history(delay_milliseconds: int) -> Iterator[str]:
    """Play a past in another process."""
    command = [sys.executable, "-m", "benchmarks.history", str(BLOCKS), str(EVENTS), str(delay_milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise AssertionError("its output is a pipe")
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


async def main() -> None:
    """Measure both in turns and print the medians."""
    for delay in DELAYS_MILLISECONDS:
        with history(delay) as url, tempfile.TemporaryDirectory() as folder:
            rates: dict[str, list[float]] = {"watcher": [], "bare eth_getLogs": []}
            for _ in range(ROUNDS):
                rate, ranges = await catch_up(url, Path(folder))
                rates["watcher"].append(rate)
                rates["bare eth_getLogs"].append(await bare(url, ranges))
        print(f"{BLOCKS} blocks, {EVENTS} events, {len(ranges)} ranges, replies after {delay} ms:")
        for name, values in rates.items():
            print(f"  {name:16} {statistics.median(values):9.0f} blocks/s")
        share = statistics.median(rates["watcher"]) / statistics.median(rates["bare eth_getLogs"])
        print(f"  ratio            {share:.2f}  (aim: 0.70 or more)")


if __name__ == "__main__":
    trio.run(main)
