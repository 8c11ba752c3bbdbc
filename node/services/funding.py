"""Whether a payer's channel holds what its next request may cost: looked up before an engine works for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from node.ports import CallFailedError, Chain
from node.protocol.eip712 import channel_id
from node.protocol.identifiers import Address

CONFIRM_SECONDS_MAX = 20.0
"""How long a payee waits for a deposit that the payer has seen confirmed and it has not."""
WAITING_MAX = 16
"""Requests that may wait for a deposit at once: anyone may ask without a channel, and is not to fill the house."""


class Funding:
    """What channels still hold for running requests."""

    def __init__(self, chain: Chain, covered: Callable[[Address], int]) -> None:
        """`covered` tells what the newest voucher of a payer promises in all."""
        self._chain = chain
        self._covered = covered
        self._held: dict[Address, int] = {}
        """What running requests may still cost, by payer."""
        self._waiting = 0

    @asynccontextmanager
    async def held(self, payer: Address, amount: int) -> AsyncIterator[None]:
        """Set `amount` of the payer's channel aside for a request; wait for a deposit that is on its way.

        Raises CallFailedError `unpaid`. What costs nothing needs no channel.
        """
        if amount > 0 and not self._holds(payer, amount):
            await self._until_deposited(payer, amount)
        self._held[payer] = self._held.get(payer, 0) + amount
        try:
            yield
        finally:
            self._held[payer] -= amount
            if not self._held[payer]:
                del self._held[payer]

    def free(self, payer: Address) -> int:
        """What the payer's channel holds beyond its vouchers and its running requests; 0 if it is being emptied."""
        identity = channel_id(self._chain.chain_id, self._chain.payment_channels, payer, self._chain.account)
        channel = self._chain.state.channels.get(identity)
        if channel is None or channel.unlock_time is not None:
            return 0
        return channel.deposited - self._covered(payer) - self._held.get(payer, 0)

    def _holds(self, payer: Address, amount: int) -> bool:
        return self.free(payer) >= amount

    async def _until_deposited(self, payer: Address, amount: int) -> None:
        if self._waiting >= WAITING_MAX:
            raise CallFailedError("unpaid", f"the channel has {self.free(payer)} left, and this takes {amount}")
        self._waiting += 1
        try:
            with trio.move_on_after(CONFIRM_SECONDS_MAX):
                async for _ in self._chain.heads():
                    if self._holds(payer, amount):
                        return
        finally:
            self._waiting -= 1
        raise CallFailedError(
            "unpaid",
            f"the channel has {self.free(payer)} left, and this request takes {amount}: deposit more, or ask for less",
        )
