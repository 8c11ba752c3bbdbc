"""Finds out which transaction used a nonce: reads the blocks in which it can be, a few at a time."""

from typing import Any

import structlog
import trio

from node.chain.rpc import JsonRpc, RpcUnavailableError, hash32, quantity
from node.protocol.identifiers import Address, Hash32

log = structlog.get_logger(__name__)

SCAN_BLOCKS_MAX = 64
"""Blocks with all transactions read in one step, when it must be found out who used a nonce."""
SCAN_AGAIN_SECONDS = 60.0
"""After all blocks were read in vain: an endpoint may have lied, but another look at once would read the same."""


class NonceSearch:
    """Searches for transactions of one account. What it notes of a nonce is as bounded as the searches, and lost
    without harm."""

    def __init__(self, rpc: JsonRpc, account: Address) -> None:
        self._rpc = rpc
        self._account = account.lower()
        self._scanned_through: dict[int, int] = {}
        self._scan_again_at: dict[int, float] = {}

    async def user_of(self, nonce: int, unused_through: int, confirmed: int, intent: str) -> Hash32 | None:
        """Read on after block `unused_through`, up to `confirmed`; return the transaction that used the nonce, None if
        it is not found yet. `intent` is for the log. Raises RpcError, RpcUnavailableError, ValueError."""
        if trio.current_time() < self._scan_again_at.get(nonce, 0.0):
            return None
        first = self._scanned_through.get(nonce, unused_through) + 1
        for number in range(first, min(first + SCAN_BLOCKS_MAX, confirmed + 1)):
            user = await self._who_used(nonce, number)
            if user is not None:
                return user
            self._scanned_through[nonce] = number
        if self._scanned_through.get(nonce, 0) >= confirmed:
            log.warning(
                "a nonce is used, but its transaction is in no block read: an endpoint may be broken; looking again",
                nonce=nonce,
                intent=intent,
            )
            self._scanned_through.pop(nonce, None)
            self._scan_again_at[nonce] = trio.current_time() + SCAN_AGAIN_SECONDS
        return None

    def forget(self, nonce: int) -> None:
        """Note that nobody asks for it any more."""
        self._scanned_through.pop(nonce, None)
        self._scan_again_at.pop(nonce, None)

    async def _who_used(self, nonce: int, number: int) -> Hash32 | None:
        """Return the transaction of this account with `nonce` in block `number`, if it is there."""

        def ours(block: Any) -> list[Hash32]:
            return [
                hash32(entry["hash"])
                for entry in block["transactions"]
                if entry["from"].lower() == self._account and quantity(entry["nonce"]) == nonce
            ]

        block = await self._rpc.call_agreed(
            "eth_getBlockByNumber", hex(number), True, key=lambda block: (block["hash"], ours(block))
        )
        if block is None:
            raise RpcUnavailableError(f"the endpoints do not have block {number}, which is confirmed")
        found = ours(block)
        return found[0] if found else None
