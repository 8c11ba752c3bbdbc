"""Reads confirmed blocks far behind the head in ranges: the next while one is stored, smaller ones where an endpoint
refuses, in halves where it must be."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from node.chain.contract_logs import ContractLogs
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, quantity
from node.protocol.identifiers import BlockNumber, Hash32

log = structlog.get_logger(__name__)

RANGE_BLOCKS_FIRST = 2_000
RANGE_BLOCKS_MAX = 10_000
"""Blocks per question in deep history; larger ranges are refused by most public endpoints."""
RANGES_AT_ONCE_MAX = 3
"""Ranges under way or not yet stored: enough to hide an endpoint's delay; more would fill memory."""
CALM_RANGES = 8
"""After a refusal, so many ranges must succeed before a larger one is tried."""


@dataclass(frozen=True, slots=True)
class LogRange:
    """Logs of a stretch of confirmed blocks, with the hash of the last block."""

    last: BlockNumber
    hash: Hash32
    logs: Sequence[Mapping[str, Any]]


class _RangeUnderWay:
    """A range that is being read."""

    def __init__(self) -> None:
        self._ready = trio.Event()
        self._found: LogRange | None = None

    def put(self, found: LogRange) -> None:
        """It was read."""
        self._found = found
        self._ready.set()

    async def found(self) -> LogRange:
        """Wait until it is read."""
        await self._ready.wait()
        if self._found is None:
            raise AssertionError("ready means found")
        return self._found


class DeepHistory:
    """Remembers from one call to the next how large a range the endpoints bear."""

    def __init__(self, rpc: JsonRpc, logs: ContractLogs) -> None:
        self._rpc = rpc
        self._logs = logs
        self._range_blocks = RANGE_BLOCKS_FIRST
        self._calm_ranges = CALM_RANGES

    async def take(self, first: BlockNumber, final: BlockNumber, store: Callable[[LogRange], Awaitable[None]]) -> None:
        """Have `store` take blocks in up to `final`, range after range; while it does the next ones are on their way.

        Raises RpcError, RpcUnavailableError, ValueError.
        """
        failure: Exception | None = None
        try:
            async with trio.open_nursery() as nursery:
                under_way: deque[_RangeUnderWay] = deque()
                while first <= final or under_way:
                    while first <= final and len(under_way) < RANGES_AT_ONCE_MAX:
                        last = BlockNumber(min(final, first + self._range_blocks - 1))
                        under_way.append(_RangeUnderWay())
                        nursery.start_soon(self._fetch, under_way[-1], first, last)
                        first = BlockNumber(last + 1)
                    await store(await under_way.popleft().found())
        except* (RpcUnavailableError, RpcError, ValueError) as group:
            failure = first_of(group)
        if failure is not None:
            raise failure

    async def _fetch(self, under_way: _RangeUnderWay, first: BlockNumber, last: BlockNumber) -> None:
        under_way.put(await self._read_in_parts(first, last))

    async def _read_in_parts(self, first: BlockNumber, last: BlockNumber) -> LogRange:
        """Read a range, in halves wherever an endpoint refuses it whole."""
        size = last - first + 1
        try:
            found = await self._read_range(first, last)
        except RpcUnavailableError as error:
            self._shrink_ranges(size, str(error))  # it may be the size that an endpoint cannot bear
            raise
        except RpcError as error:
            if size == 1:
                raise
            self._shrink_ranges(size, str(error))
            middle = BlockNumber(first + size // 2 - 1)
            left = await self._read_in_parts(first, middle)
            right = await self._read_in_parts(BlockNumber(middle + 1), last)
            return LogRange(last, right.hash, [*left.logs, *right.logs])
        self._calm_ranges += 1
        if self._calm_ranges >= CALM_RANGES and size >= self._range_blocks:
            self._range_blocks = min(2 * size, RANGE_BLOCKS_MAX)
        return found

    async def _read_range(self, first: BlockNumber, last: BlockNumber) -> LogRange:
        """Ask for a range's logs and its last block side by side."""
        hashes: list[Hash32] = []
        failure: Exception | None = None
        logs: Sequence[Mapping[str, Any]] = ()

        async def read_hash() -> None:
            block = await self._rpc.agreed_block(last)
            if block is None:
                raise RpcUnavailableError(f"the endpoints do not have block {last}, which they had")
            hashes.append(block.hash)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_hash)
                logs = await self._logs.ask({"fromBlock": hex(first), "toBlock": hex(last)})
        except* (RpcUnavailableError, RpcError, ValueError) as group:
            failure = first_of(group)
        if failure is not None:
            raise failure
        if any(not first <= quantity(entry["blockNumber"]) <= last for entry in logs):
            raise ValueError(f"logs of blocks {first} to {last} name another block")
        return LogRange(last, hashes[0], logs)

    def _shrink_ranges(self, refused_blocks: int, reason: str) -> None:
        self._calm_ranges = 0
        smaller = max(1, refused_blocks // 2)
        if smaller < self._range_blocks:  # others under way may be refused for the same reason: once is enough
            self._range_blocks = smaller
            log.info("a range of logs was not to be had; asking for smaller ones", blocks=smaller, reason=reason)


def first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    """Return the first failure of what ran side by side."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    if not isinstance(first, Exception):
        raise first
    return first
