"""How long a node takes to fold a year of chain: at its start, and when a service asks for the state at a block.

A year of a network of a thousand ML nodes is about a million events: of each epoch one commitment of every node, the
vote bundles of the group, and vouchers redeemed. Blocks are asked for as services do: near the newest, each by several
services, some a stage or two back; and one half a year ago.

.venv/bin/python -m benchmarks.folding [--events 1000000]
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import trio

from node.chain.event_codec import event_to_bytes
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import JsonRpc
from node.chain.watcher import Watcher
from node.protocol.events import ChainEvent, ChannelFunded, EventBody, PocCommitted, VotesCommitted, VoucherRedeemed
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.records import PocCommit
from node.store.chain_tables import ChainTables
from node.store.database import Database

EVENTS = 1_000_000
NODES = 1_000
VALIDATORS = 400
CHANNELS = 20_000
VOUCHERS = 600
"""Redeemed in an epoch."""
EPOCH_BLOCKS = 7_200
SOME_CID = Cid("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
ASKED_BACK = (10, 10, 800, 10, 2_400, 6_400, 10)
"""Blocks before the newest."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "chain.sqlite")
        trio.run(_measure, ChainTables(database), arguments.events)
        database.close()


async def _measure(tables: ChainTables, wanted: int) -> None:
    newest = _fill(tables, wanted)
    began = time.perf_counter()
    async with httpx.AsyncClient() as client:
        watcher = Watcher(
            JsonRpc(["http://127.0.0.1:1"], client),
            tables,
            {},
            EventDecoder(1, Address("0x" + "00" * 20)),
            first_block=BlockNumber(1),
            confirmations=0,
            poll_seconds=1.0,
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{wanted} events: folded at the start in {time.perf_counter() - began:.2f} s, {peak:.0f} MiB at most")
        for back in (*ASKED_BACK, newest // 2):
            began = time.perf_counter()
            await watcher.state_at(BlockNumber(newest - back))
            print(f"state {back:7} blocks back: {1000 * (time.perf_counter() - began):8.1f} ms")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{peak:.0f} MiB at most")


def _fill(tables: ChainTables, wanted: int) -> BlockNumber:
    """Put events into the store, some epochs of them; return the newest block, which is confirmed."""
    waiting = list[tuple[int, int, bytes]]()
    for number, (block, body) in enumerate(_events(), start=1):
        waiting.append((block, number, event_to_bytes(ChainEvent(block, Hash32(bytes(32)), number, body))))
        if len(waiting) == 20_000 or number == wanted:
            tables.add_blocks(block, Hash32(bytes(32)), waiting, block)
            waiting.clear()
        if number == wanted:
            return block
    raise AssertionError("they do not end")


def _events() -> Iterator[tuple[BlockNumber, EventBody]]:
    accounts = [Address(f"0x{number:040x}") for number in range(NODES)]
    channels = [Hash32(number.to_bytes(32)) for number in range(CHANNELS)]
    for number, channel in enumerate(channels):
        payer, payee = accounts[number % NODES], accounts[number // NODES]
        yield BlockNumber(1), ChannelFunded(channel, payer, payee, TokenAmount(10**24))
    epoch = 0
    while True:
        bodies: list[EventBody] = [
            VoucherRedeemed(channels[(epoch * VOUCHERS + number) % CHANNELS], TokenAmount(10**18 * (epoch + 1)))
            for number in range(VOUCHERS)
        ]
        bodies += [
            PocCommitted(
                PocCommit(
                    EpochNumber(epoch),
                    account,
                    NodeId("node-0"),
                    ModelId("some/model"),
                    20_000,
                    Hash32(number.to_bytes(32)),
                    SOME_CID,
                )
            )
            for number, account in enumerate(accounts)
        ]
        bodies += [VotesCommitted(EpochNumber(epoch), account, SOME_CID) for account in accounts[:VALIDATORS]]
        for number, body in enumerate(bodies):
            yield BlockNumber(2 + epoch * EPOCH_BLOCKS + number * EPOCH_BLOCKS // len(bodies)), body
        epoch += 1


if __name__ == "__main__":
    main()
