"""Who may come in: how many connections, from where and how fast, decided before a byte is read.

A handshake costs milliseconds of processing power and a connection memory, whoever asks for them. So each address gets
a bounded share, and those that are not through their handshake are bounded apart: they cost an attacker least.
Everything here is synchronous, and every table is bounded.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from p2p.standing import Standing, address_name

CONNECTIONS_MAX = 300
"""Each costs some 100 kB and a share of every gossip message."""
CONNECTIONS_INBOUND_MAX = 256
"""The rest is ours to dial with: whoever fills the inbound ones must not cut us off from the peers we choose."""
CONNECTIONS_PER_PEER_MAX = 3
"""One, one more when both sides dial at once, and one while a dead one has not been noticed."""
CONNECTIONS_PER_ADDRESS_MAX = 32
"""Several nodes may share an address, but not the whole room."""
HALF_OPEN_MAX = 64
HALF_OPEN_PER_ADDRESS_MAX = 8
"""Connections in their handshake. An honest one takes a fraction of a second."""
KNOCKS_PER_SECOND = 2.0
KNOCKS_BURST = 16.0
"""Per address: a node that restarts, or several behind one router, stay far below."""
ADDRESSES_MAX = 4096
"""Remembered; beyond that those without a connection are forgotten, the longest unseen first."""
SPARED = frozenset({"/ip4/127.0.0.1", address_name("::1")})
"""Shared by every program of this machine, so never limited or banned as an address; their peer ids are."""


class Refusal(Enum):
    """Why a connection is not let in."""

    BANNED = "its address is banned"
    FULL = "there is no room"
    ADDRESS_FULL = "its address has enough connections"
    TOO_FAST = "its address connects too often"
    HALF_OPEN = "too many are in their handshake"


@dataclass(slots=True)
class _Address:
    knocks_left: float = KNOCKS_BURST
    at: float = 0.0
    connections: int = 0
    half_open: int = 0


@dataclass(slots=True, eq=False)
class Visit:
    """An inbound connection, from its first knock to its end."""

    name: str
    """Of its address, as in the book of conduct; empty if it is not known."""
    half_open: bool = True
    ended: bool = False


@dataclass(slots=True)
class Doorkeeper:
    """Counts inbound connections."""

    standing: Standing
    clock: Callable[[], float]
    """Seconds, monotonic."""
    refused: dict[Refusal, int] = field(default_factory=lambda: dict.fromkeys(Refusal, 0))
    connections: int = 0
    half_open: int = 0
    _addresses: OrderedDict[str, _Address] = field(default_factory=OrderedDict)

    def knock(self, ip: str | None) -> Visit | Refusal:
        """Someone connects from `ip`: return its visit, which must be ended with `leave`, or why it is refused."""
        name = "" if ip is None else address_name(ip)
        refusal = self._refusal(name)
        if refusal is not None:
            self.refused[refusal] += 1
            return refusal
        address = self._address(name)
        for book in (self, address):
            book.connections += 1
            book.half_open += 1
        return Visit(name)

    def entered(self, visit: Visit) -> None:
        """Its handshake is over, well or not."""
        if visit.half_open:
            visit.half_open = False
            for book in (self, self._address(visit.name)):
                book.half_open -= 1

    def leave(self, visit: Visit) -> None:
        """The connection has ended."""
        self.entered(visit)
        if not visit.ended:
            visit.ended = True
            for book in (self, self._address(visit.name)):
                book.connections -= 1

    def _refusal(self, name: str) -> Refusal | None:
        if self.connections >= CONNECTIONS_INBOUND_MAX:
            return Refusal.FULL
        if self.half_open >= HALF_OPEN_MAX:
            return Refusal.HALF_OPEN
        if name in SPARED:
            return None
        if self.standing.is_banned(name):
            return Refusal.BANNED
        address = self._address(name)
        now = self.clock()
        address.knocks_left = min(KNOCKS_BURST, address.knocks_left + (now - address.at) * KNOCKS_PER_SECOND)
        address.at = now
        if address.knocks_left < 1:
            return Refusal.TOO_FAST
        address.knocks_left -= 1
        if address.connections >= CONNECTIONS_PER_ADDRESS_MAX:
            return Refusal.ADDRESS_FULL
        if address.half_open >= HALF_OPEN_PER_ADDRESS_MAX:
            return Refusal.HALF_OPEN
        return None

    def _address(self, name: str) -> _Address:
        address = self._addresses.setdefault(name, _Address(at=self.clock()))
        self._addresses.move_to_end(name)
        while len(self._addresses) > ADDRESSES_MAX:
            # There are at most CONNECTIONS_INBOUND_MAX with a connection, so one without is found soon.
            idle = next(n for n, a in self._addresses.items() if a.connections == 0 and n != name)
            del self._addresses[idle]
        return address
