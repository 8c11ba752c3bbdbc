"""Follows the chain: every block's events once, in order, over reorganisations, restarts and outages.

Detail: a new block is taken in only if its parent is the block before it; otherwise the newest blocks are forgotten
one by one until it is. Near the head logs are asked by block hash, so that a reorganisation between two questions
cannot mix two chains. Deep history is read in ranges. Cursor and events change in one database transaction. What
services see (`state`) lies `confirmations` blocks behind the head and is never rolled back.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog
import trio

from node.chain.bindings import decode_event
from node.chain.event_codec import event_from_bytes, event_to_bytes
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, hash32, hex_bytes, quantity
from node.ports import Head
from node.protocol.chain_state import ChainState
from node.protocol.events import ChainEvent
from node.protocol.identifiers import Address, BlockNumber, Hash32
from node.store.chain_tables import ChainTables

log = structlog.get_logger(__name__)

RANGE_BLOCKS_MAX = 2_000
"""Blocks per question in deep history; halved whenever an endpoint refuses."""
OUTAGE_SECONDS_MAX = 10.0
"""Longest pause between tries while no endpoint answers."""


class Watcher:
    """The daemon's view of the chain. `run` keeps it current; everything else only reads."""

    def __init__(
        self,
        rpc: JsonRpc,
        tables: ChainTables,
        contracts: Mapping[Address, str],
        *,
        first_block: BlockNumber,
        confirmations: int,
        poll_seconds: float,
    ) -> None:
        self._rpc = rpc
        self._tables = tables
        self._contracts = {address.lower(): name for address, name in contracts.items()}
        self._first_block = first_block
        self._confirmations = confirmations
        self._poll_seconds = poll_seconds
        self._range_blocks = RANGE_BLOCKS_MAX
        self._changed = trio.Event()
        self.state = ChainState()
        self._applied = BlockNumber(first_block - 1)
        tip = tables.tip()
        self.head = self._head_at(BlockNumber(first_block - 1) if tip is None else tip[0])
        self._apply_confirmed()

    async def run(self) -> None:
        """Follow the chain for ever. An outage is waited out and logged once when it begins and once when it ends."""
        pause = self._poll_seconds
        down = False
        while True:
            try:
                await self.catch_up()
            except (RpcUnavailableError, RpcError, ValueError) as error:
                if not down:
                    log.warning("the chain cannot be followed; trying on", reason=str(error))
                down, pause = True, min(2 * pause, OUTAGE_SECONDS_MAX)
            else:
                if down:
                    log.info("the chain can be followed again", block=self.head.number)
                down, pause = False, self._poll_seconds
            await trio.sleep(pause)

    async def catch_up(self) -> None:
        """Take in everything up to the present head."""
        while True:
            newest = await self._rpc.head()
            tip = await self._canonical_tip()
            following = BlockNumber(self._first_block if tip is None else tip[0] + 1)
            if following > newest:
                return
            if newest - following > self._confirmations + self._range_blocks:
                taken = await self._take_range(following, BlockNumber(newest - self._confirmations - 1))
            else:
                taken = await self._take_block(following, None if tip is None else tip[1])
            if taken is not None:
                self._advance(taken)

    async def heads(self) -> AsyncIterator[Head]:
        """Yield the head now and after every change; a slow reader skips to the newest."""
        last = None
        while True:
            changed = self._changed
            if self.head != last:
                last = self.head
                yield last
            else:
                await changed.wait()

    async def until_confirmed(self, block: int) -> None:
        """Wait until `block` is confirmed."""
        while self.head.confirmed < block:
            await self._changed.wait()

    def state_at(self, block: BlockNumber) -> ChainState:
        """Fold all events up to `block`, which must be confirmed."""
        if block > self.head.confirmed:
            raise ValueError(f"block {block} is not confirmed yet (confirmed: {self.head.confirmed})")
        state = ChainState()
        for record in self._tables.events(after=self._first_block - 1, through=block):
            state.apply(event_from_bytes(record))
        return state

    async def _canonical_tip(self) -> tuple[BlockNumber, Hash32] | None:
        """Return the newest block taken in that is still on the chain, forgetting those that are not."""
        while (tip := self._tables.tip()) is not None:
            block = await self._rpc.agreed_block(tip[0])
            if block is not None and block.hash == tip[1]:
                return tip
            if tip[0] <= self.head.confirmed:
                log.error(
                    "a reorganisation reached below the confirmed blocks: raise chain.confirmations for this chain",
                    block=tip[0],
                )
            log.info("a block left the chain", block=tip[0])
            self._tables.roll_back(tip[0])
            below = self._tables.tip()
            self.head = self._head_at(BlockNumber(self._first_block - 1) if below is None else below[0])
        return None

    async def _take_block(self, number: BlockNumber, parent: Hash32 | None) -> BlockNumber | None:
        block = await self._rpc.agreed_block(number)
        if block is None or (parent is not None and block.parent_hash != parent):
            return None  # the chain moved between two questions: ask again
        try:
            logs = await self._logs({"blockHash": "0x" + block.hash.hex()})
        except RpcError:
            return None  # the block was reorganised away before its logs were read
        self._tables.add_blocks(number, block.hash, self._records(logs))
        return number

    async def _take_range(self, first: BlockNumber, last: BlockNumber) -> BlockNumber | None:
        to = BlockNumber(min(last, first + self._range_blocks - 1))
        try:
            logs = await self._logs({"fromBlock": hex(first), "toBlock": hex(to)})
        except RpcError as error:
            if self._range_blocks == 1:
                raise
            self._range_blocks = max(1, self._range_blocks // 2)
            log.info("the endpoint refused a range of logs; halving it", blocks=self._range_blocks, reason=str(error))
            return None
        block = await self._rpc.agreed_block(to)
        if block is None:
            return None
        self._tables.add_blocks(to, block.hash, self._records(logs))
        return to

    async def _logs(self, where: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        result = await self._rpc.call_agreed(
            "eth_getLogs", {**where, "address": list(self._contracts)}, key=_what_logs_say
        )
        if not isinstance(result, list):
            raise ValueError("eth_getLogs: expected a list")
        return result

    def _records(self, logs: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, bytes]]:
        records = []
        for entry in logs:
            number, index = quantity(entry["blockNumber"]), quantity(entry["logIndex"])
            contract = self._contracts.get(str(entry["address"]).lower())
            if contract is None:
                continue
            try:
                body = decode_event(contract, [hex_bytes(topic) for topic in entry["topics"]], hex_bytes(entry["data"]))
                if body is None:
                    continue
                event = ChainEvent(BlockNumber(number), hash32(entry["blockHash"]), index, body)
                records.append((number, index, event_to_bytes(event)))
            except ValueError as error:
                log.error(
                    "a log of our contracts cannot be read; it is skipped", block=number, index=index, reason=str(error)
                )
        return records

    def _advance(self, number: BlockNumber) -> None:
        self.head = self._head_at(number)
        self._apply_confirmed()
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _head_at(self, number: BlockNumber) -> Head:
        return Head(number, BlockNumber(max(self._first_block - 1, number - self._confirmations)))

    def _apply_confirmed(self) -> None:
        for record in self._tables.events(after=self._applied, through=self.head.confirmed):
            self.state.apply(event_from_bytes(record))
        self._applied = BlockNumber(max(self._applied, self.head.confirmed))


def _what_logs_say(result: Any) -> object:
    """Return what must agree of a list of logs; nodes add fields of their own."""
    return [
        (entry["blockHash"], entry["logIndex"], entry["address"].lower(), entry["topics"], entry["data"])
        for entry in result
    ]
