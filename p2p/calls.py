"""One end of a call: its chunks in order, the credit they need, and how it ends. The session carries them."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
import trio

from p2p.call_errors import CallError
from p2p.credit import CHUNK_COST_BYTES, HeldBytes, ReceiveCredit, SendCredit, chunk_cost
from p2p.frames import Frame, Kind

log = structlog.get_logger(__name__)


class Carrier(Protocol):
    """What a call needs of the session that carries it."""

    held: HeldBytes
    """All that is held for the peer, by this call and the others."""

    async def write(self, frame: Frame) -> None:
        """Send a frame. Raises CallError `lost` if the stream is gone."""

    @property
    def may_write_soon(self) -> bool:
        """Whether a frame can be sent without waiting."""

    def write_soon(self, number: int, data: bytes) -> None:
        """Send a chunk of a call without waiting. Only while `may_write_soon`."""

    def grant(self, number: int, granted: int) -> None:
        """Give credit for what was read."""


@dataclass(eq=False)
class CallEnd:
    """One end of a call."""

    session: Carrier
    number: int
    peer_id: str
    payload: bytes
    sending: SendCredit = field(default_factory=SendCredit)
    receiving: ReceiveCredit = field(default_factory=ReceiveCredit)
    error: CallError | None = None
    ended: bool = False
    """Nothing more comes from the other end."""
    cancel_scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    take_now: Callable[[bytes], bool] | None = None
    """Offered each chunk that comes while `receive` waits: whether it took it. It neither waits nor raises. To wake a
    task for each of many small chunks costs more than they do."""
    _unread: deque[bytes] = field(default_factory=deque)
    _senders: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _receivers: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _is_awaited: bool = False
    """Whether the receiver waits, and so has all that came before. One that a cancellation has woken counts as waiting
    until it runs."""

    async def send(self, data: bytes) -> None:
        """Send a chunk; waits for credit. Raises CallError."""
        while not self.sending.may_send and not self.ended:
            await self._senders.park()
        if self.ended:
            raise self.error or CallError("lost", "the call has ended")
        self.sending.spend(chunk_cost(data))
        await self.session.write(Frame(Kind.DATA, self.number, data))

    @property
    def may_send_now(self) -> bool:
        """Whether a chunk can be sent without waiting."""
        return self.sending.left > 0 and not self.ended and self.session.may_write_soon

    def send_now(self, data: bytes) -> None:
        """Send a chunk without waiting. Only while `may_send_now`; if the connection is lost, the next call tells."""
        self.sending.spend(chunk_cost(data))
        self.session.write_soon(self.number, data)

    async def receive(self) -> bytes:
        """Return the next chunk; trio.EndOfChannel at the normal end, CallError otherwise. For one task."""
        if self._unread or self.ended:
            await trio.lowlevel.checkpoint()  # else it waits below, which is one
        while not self._unread:
            if self.ended:
                raise self.error or trio.EndOfChannel
            self._is_awaited = True
            try:
                await self._receivers.park()
            finally:
                self._is_awaited = False
        data = self._unread.popleft()
        cost = chunk_cost(data)
        self.session.held.release(cost)
        self._give_credit(cost)
        return data

    def add_credit(self, granted: int) -> None:
        """The other end took chunks. Raises CreditError."""
        self.sending.add(granted)
        self._senders.unpark_all()

    def deliver(self, data: bytes) -> bool:
        """A chunk has arrived; return whether it could be held. Raises CreditError if it had no credit."""
        cost = len(data) + CHUNK_COST_BYTES
        self.receiving.arrive(cost)
        if self._is_awaited and self.take_now is not None and self._is_taken(self.take_now, data):
            self._give_credit(cost)
            return True
        if not self.session.held.hold(cost):
            return False
        self._unread.append(data)
        self._is_awaited = False  # the receiver is woken, but has not run yet: what comes now is behind this chunk
        self._receivers.unpark_all()
        return True

    def finish(self, error: CallError | None) -> None:
        """Nothing more will come from the other end."""
        if not self.ended:
            self.ended, self.error = True, error
            self._senders.unpark_all()
            self._receivers.unpark_all()

    def discard(self) -> None:
        """Nobody reads what has arrived."""
        self.session.held.release(sum(chunk_cost(data) for data in self._unread))
        self._unread.clear()

    def _is_taken(self, take_now: Callable[[bytes], bool], data: bytes) -> bool:
        """Whether `take_now` took a chunk. Only while a receiver waits, who so has all chunks before it."""
        try:
            return take_now(data)
        except Exception as error:  # a fault of ours with one call is not to end the others
            log.error("a call failed by a fault of ours", peer=self.peer_id, reason=repr(error), exc_info=error)
            self.take_now = None
            self.finish(CallError("internal", "what came could not be taken"))
            return True

    def _give_credit(self, cost: int) -> None:
        """A chunk was taken; tell the sender once that is worth a frame."""
        granted = self.receiving.take(cost)
        if granted and not self.ended:
            self.session.grant(self.number, granted)


Handler = Callable[[CallEnd], Awaitable[None]]
