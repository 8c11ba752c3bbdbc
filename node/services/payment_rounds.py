"""One voucher for all answers of an executor that are due: each step of each answer would cost a signature, a write to
the books and a wait for the disk.

A voucher is a total over all answers, and each payment says how much of it is for its own, so one voucher serves any
number of payments. An answer whose step is due opens a *round*, which others that become due join; after a moment one
voucher is signed for all of them. Whatever else is paid to the executor meanwhile (an answer's end, a long prompt)
waits for nothing, and takes the round with it. So nobody is paid later than ROUND_SECONDS after its step was due, and
whoever cannot wait so long ends the round.

The promises of the books stay: a voucher is on the disk before it leaves, and what was signed for is never asked for
again. Who is paid in a round is booked in the moment in which the voucher is signed; if the round's task is cancelled
after that, each answer sends its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.ports import Store
from node.protocol.identifiers import Address, Hash32
from node.services.frames import SignedVoucherFrame
from node.services.payments import PayerBook
from node.services.vouchers import PaymentError

ROUND_SECONDS = 0.1
"""A step is due when half of what an executor gives unpaid was given: the other half lasts an answer of 40 tokens a
second, with the usual allowance, for 0.8 s. A faster one ends the round when half of that is gone too."""


class Debtor(Protocol):
    """An answer that is paid in steps. None of this waits or raises."""

    def missing(self) -> int:
        """What it owes and is not booked yet."""

    def book(self, amount: int) -> int:
        """So much more was signed for; return what was in all."""

    def tell(self, frame: SignedVoucherFrame, paid: int) -> None:
        """The voucher is on the disk: send it, and that the answer was `paid` in all with it."""

    def wake(self) -> None:
        """See to it yourself."""


@dataclass(slots=True, eq=False)
class Round:
    """Those who wait to be paid with one voucher. As many as answers run at the executor, at most."""

    members: dict[Debtor, None] = field(default_factory=dict)
    taken: trio.Event = field(default_factory=trio.Event)
    """Set when it is over, or has to be: whoever opened it waits no longer."""


@dataclass(frozen=True, slots=True)
class SignedPayment:
    """A voucher, and whom it pays besides the one who asked for it."""

    frame: SignedVoucherFrame
    paid: int
    """What the one who asked was paid in all."""
    others: tuple[tuple[Debtor, int], ...]
    """Each with what it was paid in all."""


class PaymentRounds:
    """The rounds of a gateway: at most one is open for each executor."""

    def __init__(self, payer: PayerBook, store: Store) -> None:
        self._payer = payer
        self._store = store
        self._open: dict[Address, Round] = {}

    def join(self, payee: Address, debtor: Debtor) -> Round | None:
        """Have `debtor` paid in the open round. If there is none, open one and return it: `debtor` has to wait
        (`until_over`) and then to pay.
        """
        known = self._open.get(payee)
        opened = known or self._open.setdefault(payee, Round())
        opened.members[debtor] = None
        return opened if known is None else None

    def hurry(self, payee: Address) -> None:
        """Somebody in the open round cannot wait."""
        known = self._open.get(payee)
        if known is not None:
            known.taken.set()

    async def until_over(self, payee: Address, opened: Round) -> bool:
        """Give others time to join; return whether the round is still to be paid."""
        with trio.move_on_after(ROUND_SECONDS):
            await opened.taken.wait()
        return self._open.get(payee) is opened

    def leave(self, payee: Address, debtor: Debtor) -> None:
        """An answer is over. If it would have had to pay for the round, those in it see to themselves."""
        known = self._open.get(payee)
        if known is None or debtor not in known.members:
            return
        is_first = next(iter(known.members)) is debtor
        del known.members[debtor]
        if is_first:
            del self._open[payee]
            _wake(known.members)

    def sign(self, payee: Address, debtor: Debtor, receipts_root: Hash32 | None = None) -> SignedPayment:
        """Sign for what `debtor` owes in this moment and for what all in the open round owe; all are booked. Then
        `publish` it. Raises PaymentError.
        """
        known = self._open.pop(payee, None)
        others: dict[Debtor, int] = {}
        if known is not None:
            known.taken.set()
            others = {other: owed for other in known.members if other is not debtor and (owed := other.missing())}
        amount = debtor.missing()
        try:
            frame = self._payer.pay(payee, amount + sum(others.values()), receipts_root)
        except PaymentError:
            if not others:
                raise
            _wake(others)
            others = {}
            frame = self._payer.pay(payee, amount, receipts_root)
        paid = debtor.book(amount)
        return SignedPayment(frame, paid, tuple((other, other.book(owed)) for other, owed in others.items()))

    async def publish(self, signed: SignedPayment) -> None:
        """Wait until the voucher survives the loss of power, and have the others send it."""
        try:
            await self._store.durable()
        except BaseException:
            _wake(other for other, _ in signed.others)
            raise
        for other, paid in signed.others:
            other.tell(signed.frame, paid)


def _wake(debtors: Iterable[Debtor]) -> None:
    for debtor in debtors:
        debtor.wake()
