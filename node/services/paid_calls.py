"""A gateway's call while it is served: sending with a limit, giving only what is covered, taking payments meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from node.ports import Call, CallFailedError
from node.protocol.codec import SchemaError
from node.protocol.records import SignedReceipt
from node.services.frames import read_payment
from node.services.groups import sole_error
from node.services.tabs import PayeeBook, Tab
from node.services.vouchers import PaymentError

Awaited = TypeVar("Awaited")

PAYMENT_SECONDS_MAX = 30.0
"""How long what is to be given waits for its voucher before the request is given up."""
READ_SECONDS_MAX = 30.0
"""How long a gateway may leave what it is sent unread."""


class GatewayGoneError(Exception):
    """The gateway left before the end: nobody is there to be told anything."""


class PaidCall:
    """One call and its tab."""

    def __init__(self, call: Call, payments: PayeeBook, tab: Tab) -> None:
        self._call = call
        self._payments = payments
        self._tab = tab

    async def send(self, data: bytes) -> None:
        """Send a chunk. Raises CallFailedError `unread` if the gateway does not read for long."""
        if self._call.may_send_now:  # it leaves with what else leaves now, and what follows need not wait for it
            self._call.send_now(data)
            return
        with trio.move_on_after(READ_SECONDS_MAX) as deadline:  # only here, where it has to wait: none per chunk
            await self._call.send(data)
        if deadline.cancelled_caught:
            raise _unread()

    def give_now(self, data: bytes, worth: int, *, allowance: int) -> bool:
        """Charge a chunk and send it if neither takes waiting; return whether it was given."""
        if not self._call.may_send_now or not self._tab.charge_now(worth, allowance=allowance):
            return False
        self._call.send_now(data)
        return True

    async def charge(self, worth: int, *, allowance: int) -> None:
        """Wait until something worth `worth` can be given, and charge it. Raises CallFailedError `unpaid`."""
        if not self._tab.charge_now(worth, allowance=allowance):
            await self._in_time(partial(self._tab.charge, worth, allowance=allowance))

    async def settle(self, receipt: SignedReceipt, data: bytes) -> SignedReceipt:
        """Send the receipt (as `data`), wait for the last voucher and the payer's signature; return it with both."""
        self._tab.close(receipt)
        await self.send(data)
        return await self._in_time(self._tab.until_settled)

    @asynccontextmanager
    async def taking_payments(self) -> AsyncIterator[None]:
        """Take what the gateway pays while the context is open.

        Raises CallFailedError `unpaid` for a payment that is not accepted, GatewayGoneError when nobody is there.
        """
        faults: list[Exception] = []
        with sole_error():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_payments, faults, nursery.cancel_scope)
                yield
                nursery.cancel_scope.cancel()
        if faults:
            raise faults[0]

    async def _take_payments(self, faults: list[Exception], scope: trio.CancelScope) -> None:
        while True:
            try:
                await self._payments.accept(self._tab, read_payment(await self._call.receive()))
            except (trio.EndOfChannel, CallFailedError):
                faults.append(GatewayGoneError())
            except (PaymentError, SchemaError) as error:
                faults.append(CallFailedError("unpaid", str(error)[:200]))
            if faults:
                scope.cancel()
                return

    async def _in_time(self, wait: Callable[[], Awaitable[Awaited]]) -> Awaited:
        with trio.move_on_after(PAYMENT_SECONDS_MAX):
            return await wait()
        raise CallFailedError("unpaid", f"no voucher came within {PAYMENT_SECONDS_MAX:.0f} s")


def _unread() -> CallFailedError:
    return CallFailedError("unread", f"nothing was read for {READ_SECONDS_MAX:.0f} s")
