"""How much one end of a call may send before the other has taken any: counted in bytes, so that it bounds memory.

A chunk may be sent while any credit is left, and may overdraw it: so a small credit still lets the largest chunk pass,
and one call holds at most `CALL_CREDIT_BYTES` and one chunk unread. Pure bookkeeping; the session does the sending.
"""

from dataclasses import dataclass

CALL_CREDIT_BYTES = 256 * 1024
"""Of each direction at the start, and never exceeded."""
CHUNK_COST_BYTES = 64
"""Of each chunk besides its length: empty chunks take memory too."""
GRANT_BYTES = CALL_CREDIT_BYTES // 4
"""Taken before the sender is told: a frame per chunk would cost as much as the chunks."""
SESSION_HELD_BYTES_MAX = 16 * 1024 * 1024
"""Payloads and unread chunks of all calls of one peer's session."""
ALL_HELD_BYTES_MAX = 256 * 1024 * 1024
"""Of all sessions: what strangers together may make this node hold."""


class CreditError(Exception):
    """The other end broke the rule of credits: no honest implementation does."""


def chunk_cost(chunk: bytes) -> int:
    """Return what sending `chunk` costs."""
    return len(chunk) + CHUNK_COST_BYTES


@dataclass(slots=True)
class SendCredit:
    """The sender's side."""

    left: int = CALL_CREDIT_BYTES

    @property
    def may_send(self) -> bool:
        """Whether a chunk, of any size, may be sent now."""
        return self.left > 0

    def spend(self, cost: int) -> None:
        """A chunk is sent. Only while `may_send`."""
        if not self.may_send:
            raise ValueError("there is no credit")
        self.left -= cost

    def add(self, granted: int) -> None:
        """The other end took chunks. Raises CreditError if it grants more than was ever spent."""
        if granted <= 0 or self.left + granted > CALL_CREDIT_BYTES:
            raise CreditError(f"it granted {granted} bytes that were not spent")
        self.left += granted


@dataclass(slots=True)
class ReceiveCredit:
    """The receiver's side: `left` is what the sender has at most, as far as is known here."""

    left: int = CALL_CREDIT_BYTES
    taken: int = 0
    """Since the last grant."""

    def arrive(self, cost: int) -> None:
        """A chunk has arrived. Raises CreditError if it had no credit."""
        if self.left <= 0:
            raise CreditError("it sent a chunk without credit")
        self.left -= cost

    def take(self, cost: int) -> int:
        """A chunk was read; return what is to be granted now, or 0."""
        self.taken += cost
        if self.taken < GRANT_BYTES:
            return 0
        granted, self.taken = self.taken, 0
        self.left += granted
        return granted


class HeldBytes:
    """Bytes held for others, within a bound and within that of the whole it is part of."""

    def __init__(self, bytes_max: int, whole: "HeldBytes | None" = None) -> None:
        self.bytes_max = bytes_max
        self.count = 0
        self._whole = whole

    def hold(self, count: int) -> bool:
        """Hold `count` more, if that is within bounds; return whether it is."""
        if self.count + count > self.bytes_max or (self._whole is not None and not self._whole.hold(count)):
            return False
        self.count += count
        return True

    def release(self, count: int) -> None:
        """Hold `count` less."""
        if not 0 <= count <= self.count:
            raise ValueError(f"{count} bytes are released of {self.count}")
        self.count -= count
        if self._whole is not None:
            self._whole.release(count)
