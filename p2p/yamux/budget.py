"""How much all connections of a host may hold unread: beyond it the one that holds most is ended."""

from dataclasses import dataclass, field
from typing import Protocol

HOST_BUFFER_BYTES_MAX = 256 * 1024 * 1024
"""An honest host holds a few MiB: what arrives is read at once."""
CONNECTION_BUFFER_BYTES_MAX = 16 * 1024 * 1024
"""Streams × windows is more, but nobody leaves that much unread by right: its streams are read or reset."""


class Holder(Protocol):
    """A connection with unread data."""

    held_bytes: int

    def shed(self, reason: str) -> None:
        """End it and throw away what is unread; takes effect at once."""


@dataclass(slots=True, eq=False)
class Budget:
    """The unread data of one host."""

    bytes_max: int = HOST_BUFFER_BYTES_MAX
    held_bytes: int = 0
    holders: set[Holder] = field(default_factory=set)

    def add(self, holder: Holder, count: int) -> None:
        """`holder` holds `count` bytes more."""
        holder.held_bytes += count
        self.held_bytes += count
        if holder.held_bytes > CONNECTION_BUFFER_BYTES_MAX:
            holder.shed("too much of what it sent is unread")
        if self.held_bytes > self.bytes_max:
            heaviest = max(self.holders, key=lambda other: other.held_bytes, default=holder)
            heaviest.shed("the host holds too much unread, and this connection most of it")

    def remove(self, holder: Holder, count: int) -> None:
        """`holder` has given `count` bytes to their reader, or thrown them away."""
        holder.held_bytes -= count
        self.held_bytes -= count
