"""Calls per second of our JSON-RPC client under trio against AsyncWeb3 with its own HTTP provider, on one anvil.

.venv/bin/python -m benchmarks.rpc
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import trio
from web3 import AsyncHTTPProvider, AsyncWeb3

from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.rpc import JsonRpc, quantity

CALLS = 3_000
CONCURRENT = 100
ROUNDS = 5
ROOT = Path(__file__).resolve().parents[1]
ACCOUNT = development_account(0).address


async def ours(url: str, *, batches: bool) -> float:
    """Return our calls per second, as usual or as with an endpoint that takes no batches."""
    async with httpx.AsyncClient() as client:
        rpc = JsonRpc([url], client)
        if not batches:
            for calls in rpc._calls.values():
                calls._batches = False
        left = iter(range(CALLS))

        async def work() -> None:
            for _ in left:
                quantity(await rpc.call("eth_getBalance", ACCOUNT, "latest"))

        begin = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENT):
                nursery.start_soon(work)
        return CALLS / (time.perf_counter() - begin)


async def theirs(url: str) -> float:
    """Return AsyncWeb3's calls per second."""
    web3 = AsyncWeb3(AsyncHTTPProvider(url))
    account = web3.to_checksum_address(ACCOUNT)
    left = iter(range(CALLS))

    async def work() -> None:
        for _ in left:
            await web3.eth.get_balance(account)

    begin = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
    seconds = time.perf_counter() - begin
    await web3.provider.disconnect()
    return CALLS / seconds


async def main() -> None:
    """Measure both in turns and print the medians."""
    rates: dict[str, list[float]] = {"ours": [], "ours, singly": [], "AsyncWeb3": []}
    with tempfile.TemporaryDirectory() as folder:
        async with run_anvil(find_anvil(ROOT), block_seconds=None, log_path=Path(folder) / "anvil.log") as chain:
            for _ in range(ROUNDS):
                rates["ours"].append(await ours(chain.url, batches=True))
                rates["ours, singly"].append(await ours(chain.url, batches=False))
                # asyncio wants a thread of its own beside trio.
                rates["AsyncWeb3"].append(await trio.to_thread.run_sync(asyncio.run, theirs(chain.url)))
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name:12} {median[name]:7.0f} calls/s  ({', '.join(f'{value:.0f}' for value in values)})")
    for name, aim in (("ours", ", aim: 2 or more"), ("ours, singly", ", where an endpoint takes no batches")):
        print(f"ratio of {name}: {median[name] / median['AsyncWeb3']:.2f}  ({CONCURRENT} concurrent{aim})")


if __name__ == "__main__":
    trio.run(main)
