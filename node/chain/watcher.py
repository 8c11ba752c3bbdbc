"""Follows the chain: every block's events once, in order, over reorganisations, restarts and outages.

Detail: a new block is taken in only if its parent is the block before it; otherwise the newest blocks are forgotten
one by one until it is. Near the head logs are asked by block hash, so that a reorganisation between two questions
cannot mix two chains. Deep history is read in ranges, the next while one is stored. Cursor and events change in one
database transaction. What services see (`state`) is confirmed: it is never rolled back, and a chain that contradicts
it stops the daemon.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Literal

import structlog
import trio

from node.chain.contract_logs import ContractLogs
from node.chain.deep_history import DeepHistory, LogRange, first_of
from node.chain.endpoints import WrongChainError
from node.chain.event_decoder import EventDecoder
from node.chain.folds import Folds
from node.chain.rpc import Block, JsonRpc, RpcError, RpcUnavailableError
from node.ports import Head
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, Hash32
from node.store.chain_tables import ChainTables

log = structlog.get_logger(__name__)

Finality = Literal["confirmations", "finalized"]

RANGE_BLOCKS_WORTH = 16
"""For fewer blocks than these the way by block hashes costs little and checks more."""
DECODED_AT_ONCE_MAX = 20
"""Logs, of about half a millisecond each: nothing else runs meanwhile."""
MOVED_TRIES_MAX = 20
MOVED_SECONDS = 0.05
"""Pause when the chain moved between two questions."""
MISFITS_NOTED = 10
"""Looks in a row that ended so, before the operator is told."""
OUTAGE_SECONDS_MAX = 10.0
"""Longest pause between tries while no endpoint answers."""


class DeepReorganisationError(Exception):
    """The chain replaced a block that was confirmed: what was done on its word cannot be taken back."""


class NoFinalityError(Exception):
    """The chain knows no finalized block, which the settings ask for."""


class _BehindError(Exception):
    """The endpoints are behind what was seen already: there is nothing to take in."""


class Watcher:
    """The daemon's view of the chain. `run` keeps it current; everything else only reads."""

    def __init__(
        self,
        rpc: JsonRpc,
        tables: ChainTables,
        contracts: Mapping[Address, str],
        decoder: EventDecoder,
        *,
        first_block: BlockNumber,
        confirmations: int,
        poll_seconds: float,
        finality: Finality = "confirmations",
    ) -> None:
        self._rpc = rpc
        self._tables = tables
        self._logs = ContractLogs(rpc, contracts, decoder)
        self._deep_history = DeepHistory(rpc, self._logs)
        self._first_block = first_block
        self._confirmations = confirmations
        self._finality = finality
        self._poll_seconds = poll_seconds
        self._misfits = 0
        self._changed = trio.Event()
        self._folds = Folds(tables, first_block)
        tip, confirmed = tables.tip(), tables.confirmed()
        before = BlockNumber(first_block - 1)
        self.head = Head(before if tip is None else tip[0], before if confirmed is None else max(before, confirmed))
        self._folds.advance(self.head.confirmed)

    @property
    def state(self) -> ChainState:
        """The fold of all confirmed events."""
        return self._folds.state

    async def run(self) -> None:
        """Follow the chain for ever. An outage is waited out and logged once when it begins and once when it ends.

        Raises DeepReorganisationError, or WrongChainError if no endpoint is left of this chain.
        """
        pause = self._poll_seconds
        down = False
        while True:
            try:
                await self.catch_up()
            except (RpcUnavailableError, RpcError, ValueError) as error:
                if not down:
                    log.warning("the chain cannot be followed; trying on", reason=str(error))
                else:  # an outage may end in another one, which the first reason does not explain
                    log.debug("the chain still cannot be followed", reason=str(error))
                down, pause = True, min(2 * pause, OUTAGE_SECONDS_MAX)
            else:
                if down:
                    log.info("the chain can be followed again", block=self.head.number)
                down, pause = False, self._poll_seconds
            await trio.sleep(pause)

    async def catch_up(self) -> None:
        """Take in everything up to the present head."""
        for _ in range(MOVED_TRIES_MAX):
            try:
                if await self._catch_up_until_moved():
                    self._misfits = 0
                    return
            except _BehindError:
                return
            await trio.sleep(MOVED_SECONDS)
        self._misfits += 1
        if self._misfits == MISFITS_NOTED:
            log.warning(
                "the blocks that the endpoints give do not follow from each other, so no more are taken in: the chain "
                "is reorganised all the time, or its endpoints are broken",
                block=self.head.number,
            )

    async def check_finality(self) -> None:
        """Raise NoFinalityError if the settings ask for finalized blocks and the chain has none."""
        if self._finality == "finalized" and await self._rpc.finalized() is None:
            raise NoFinalityError(
                'the settings say finality = "finalized", but the endpoint names no finalized block: use an endpoint '
                'that does, or set finality = "confirmations" in [chain] with enough confirmations for this chain'
            )

    async def _catch_up_until_moved(self) -> bool:
        """Take in blocks; return False as soon as the chain moved between two questions."""
        while True:
            newest, at_tip = await self._look()
            final = await self._final(newest)
            if at_tip is not None and not self._is_enough(at_tip, newest, final):
                at_tip = None
            tip = await self._canonical_tip(newest, at_tip)
            # On the word of `at_tip`, nothing is confirmed here.
            if at_tip is None and tip is not None and self._confirmed_at(tip[0], final) > self.head.confirmed:
                self._tables.confirm(self._confirmed_at(tip[0], final))
                self._advance(tip[0], final)
            following = BlockNumber(self._first_block if tip is None else tip[0] + 1)
            deep = final - following >= RANGE_BLOCKS_WORTH
            if deep:
                await self._deep_history.take(following, final, partial(self._store_range, final))
                following, tip = BlockNumber(final + 1), self._tables.tip()
            parent = None if tip is None else tip[1]
            for number in range(following, newest + 1):
                parent = await self._take_block(BlockNumber(number), parent, final)
                if parent is None:
                    return False
            if not deep:
                return True  # after deep history, the head has moved on meanwhile

    async def _look(self) -> tuple[BlockNumber, Block | None]:
        """Return the newest block's number, and the block that now stands where the newest one taken in stood: None if
        there is none, or it is to be asked for again. Both are asked at once, for they are asked every second.
        """
        tip, found, failure = self._tables.tip(), None, None
        if tip is None:
            return await self._rpc.head(), None

        async def look_at_tip() -> None:
            nonlocal found
            with suppress(RpcUnavailableError, RpcError, ValueError, WrongChainError):
                found = await self._rpc.agreed_block(tip[0])

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look_at_tip)
                await trio.lowlevel.checkpoint()  # both begin in the same turn, and so travel in one request
                newest = await self._rpc.head()
        except* (RpcUnavailableError, RpcError, ValueError, WrongChainError) as group:
            failure = first_of(group)
        if failure is not None:
            raise failure
        return newest, found

    def _is_enough(self, at_tip: Block, newest: BlockNumber, final: BlockNumber) -> bool:
        """Whether the tip need not be asked for again.

        `at_tip` is older than `final`: its block may have left the chain in between, so its word confirms nothing. It
        is enough if there is nothing to confirm, or if blocks follow that are taken in one by one: the first of them,
        which is asked for after `final`, must name the tip as its parent, and confirms it.
        """
        follows = newest > at_tip.number >= final
        return follows or self._confirmed_at(at_tip.number, final) == self.head.confirmed

    async def _final(self, newest: BlockNumber) -> BlockNumber:
        """Return the newest block that may be acted on, by the rule of the settings."""
        if self._finality == "confirmations":
            return BlockNumber(newest - self._confirmations)
        final = await self._rpc.finalized()
        if final is None:
            raise RpcUnavailableError("no chain endpoint names a finalized block")
        return min(final, newest)

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

    async def state_at(self, block: BlockNumber) -> ChainState:
        """Return the fold of all events up to `block`, which must be confirmed. Read only: all who ask get the same."""
        if block > self.head.confirmed:
            raise ValueError(f"block {block} is not confirmed yet (confirmed: {self.head.confirmed})")
        return await self._folds.at(block)

    async def _canonical_tip(self, newest: BlockNumber, at_tip: Block | None) -> tuple[BlockNumber, Hash32] | None:
        """Return the newest block taken in that is still on the chain, forgetting those that are not. `at_tip` is the
        block that stands in its place now, if that was asked already.

        That endpoints have fewer blocks than were seen says nothing: only another hash at a number they have does.
        """
        while (tip := self._tables.tip()) is not None:
            number, known = tip
            compared = min(number, newest)
            if compared < number:
                remembered = self._tables.hash_at(compared)
                if remembered is None:
                    raise _BehindError
                known = remembered
            is_known = at_tip is not None and at_tip.number == compared
            block = at_tip if is_known else await self._rpc.agreed_block(compared)
            if block is None:
                raise _BehindError
            if block.hash == known:
                if compared < number:
                    raise _BehindError
                return tip
            if compared <= self.head.confirmed:
                self._stop_for_deep_reorganisation(compared)
            log.info("a block left the chain", block=number)
            self._tables.roll_back(number)
            below = self._tables.tip()
            self.head = Head(BlockNumber(self._first_block - 1) if below is None else below[0], self.head.confirmed)
        return None

    def _stop_for_deep_reorganisation(self, block: int) -> None:
        message = (
            f"the chain replaced block {block}, though blocks up to {self.head.confirmed} were confirmed: payments and "
            "commits this node relied on may be gone, so it has stopped and sends nothing more. Check that the "
            "endpoints are sound; if the chain itself did this, raise confirmations in [chain] (or set "
            'finality = "finalized"), keep a copy of quern.sqlite, and start with a fresh one'
        )
        log.error(message, block=block, confirmed=self.head.confirmed)
        raise DeepReorganisationError(message)

    async def _take_block(self, number: BlockNumber, parent: Hash32 | None, final: int) -> Hash32 | None:
        """Take in one block and return its hash, or None if the chain moved between two questions."""
        block = await self._rpc.agreed_block(number)
        if block is None or (parent is not None and block.parent_hash != parent):
            return None
        block_hash = "0x" + block.hash.hex()
        try:
            logs = await self._logs.ask({"blockHash": block_hash})
        except RpcError:
            again = await self._rpc.agreed_block(number)
            if again is None or again.hash != block.hash:
                return None  # the block was reorganised away before its logs were read
            raise
        if any(entry["blockHash"] != block_hash for entry in logs):
            raise ValueError(f"logs of block {number} name another block")
        self._tables.add_blocks(number, block.hash, self._logs.records(logs), self._confirmed_at(number, final))
        self._advance(number, final)
        return block.hash

    async def _store_range(self, final: BlockNumber, found: LogRange) -> None:
        records: list[tuple[int, int, bytes]] = []
        for start in range(0, len(found.logs), DECODED_AT_ONCE_MAX):
            records += self._logs.records(found.logs[start : start + DECODED_AT_ONCE_MAX])
            await trio.lowlevel.checkpoint()  # the next ranges, and all else, go on meanwhile
        self._tables.add_blocks(found.last, found.hash, records, found.last)
        self._advance(found.last, final)

    def _advance(self, number: BlockNumber, final: int) -> None:
        self.head = Head(number, self._confirmed_at(number, final))
        self._folds.advance(self.head.confirmed)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _confirmed_at(self, tip: BlockNumber, final: int) -> BlockNumber:
        """Return the newest confirmed block once `tip` is taken in; it never goes back."""
        return BlockNumber(max(self.head.confirmed, min(tip, final)))
