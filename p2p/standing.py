"""What each peer has earned by its conduct: offences add up, fade with time, and end in a ban that expires.

One book for everything a peer does to this node, over gossip, request streams and content: a peer that lies in one of
them is not spoken to in the others. Peers are named by peer id; a content provider without one by `host:port`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

import structlog

log = structlog.get_logger(__name__)

BAN_POINTS = 100.0
"""An honest peer makes a few small offences an hour, by bugs and by old state; a liar makes this in seconds."""
HALF_LIFE_SECONDS = 600.0
"""After which half of a peer's points are forgiven."""
BAN_SECONDS_MIN = 600
BAN_SECONDS_MAX = 24 * 3600
"""Each ban lasts twice as long as the one before. Never for ever: keys and addresses change hands."""
PEERS_MAX = 4096
"""Peers whose conduct is remembered; beyond that the one without offence for longest is forgotten."""


class Offence(Enum):
    """What a peer did. The value is its points."""

    MALFORMED = 20.0
    """Bytes that no honest implementation sends: frames, messages, records that do not parse."""
    FORGED = 50.0
    """A signature that does not verify."""
    REFUSED = 10.0
    """A well-formed message that the rules refuse; honest peers refuse it too, so they do not forward it."""
    FLOOD = 10.0
    """More than its budget, once per second of flooding."""
    OVERFLOW = 50.0
    """It sent more than it was given credit for."""
    CORRUPT_BLOCK = 100.0
    """Bytes that do not have the hash they were given for: no accident over TCP."""
    STALLED = 5.0
    """It held a request until its deadline."""


@dataclass(frozen=True, slots=True)
class Ban:
    """A peer that is not spoken to."""

    peer: str
    reason: str
    since: int
    """UNIX seconds."""
    until: int
    """UNIX seconds."""


@dataclass(slots=True)
class _Conduct:
    points: float = 0.0
    at: float = 0.0
    bans: int = 0
    ban: Ban | None = None


class Standing:
    """Points and bans by peer. Times are UNIX seconds from `clock`, so that a ban outlives a restart."""

    def __init__(self, clock: Callable[[], float], known: Iterable[Ban] = ()) -> None:
        """`known` are bans that were stored."""
        self._clock = clock
        self._conduct: OrderedDict[str, _Conduct] = OrderedDict()
        self._listeners: list[Callable[[Ban], None]] = []
        for ban in known:
            self._conduct[ban.peer] = _Conduct(at=self._clock(), bans=1, ban=ban)

    def on_ban(self, listener: Callable[[Ban], None]) -> None:
        """Have `listener` told of each new ban, at once; it must not block."""
        self._listeners.append(listener)

    def blame(self, peer: str, offence: Offence, detail: str) -> None:
        """Count an offence; `detail` is what the operator reads if it leads to a ban."""
        conduct = self._conduct.setdefault(peer, _Conduct(at=self._clock()))
        self._conduct.move_to_end(peer)
        now = self._clock()
        conduct.points = conduct.points * 0.5 ** ((now - conduct.at) / HALF_LIFE_SECONDS) + offence.value
        conduct.at = now
        log.info("a peer offends", peer=peer, offence=offence.name.lower(), detail=detail, points=round(conduct.points))
        if conduct.points >= BAN_POINTS and not self.is_banned(peer):
            seconds = min(BAN_SECONDS_MIN * 2**conduct.bans, BAN_SECONDS_MAX)
            self.ban(peer, f"{offence.name.lower().replace('_', ' ')}: {detail}", seconds)
        self._forget()

    def ban(self, peer: str, reason: str, seconds: int) -> None:
        """Ban for a time, by conduct or by the operator."""
        conduct = self._conduct.setdefault(peer, _Conduct(at=self._clock()))
        now = int(self._clock())
        conduct.ban = Ban(peer, reason, now, now + seconds)
        conduct.bans += 1
        conduct.points = 0.0
        log.warning("a peer is banned", peer=peer, reason=reason, seconds=seconds)
        for listener in self._listeners:
            listener(conduct.ban)

    def pardon(self, peer: str) -> bool:
        """Lift a ban and forget all offences; return whether there was a ban."""
        conduct = self._conduct.pop(peer, None)
        return conduct is not None and conduct.ban is not None

    def is_banned(self, peer: str) -> bool:
        """Whether the peer is banned now."""
        conduct = self._conduct.get(peer)
        return conduct is not None and conduct.ban is not None and conduct.ban.until > self._clock()

    def bans(self) -> tuple[Ban, ...]:
        """Bans in force, the one that ends last first."""
        now = self._clock()
        current = [c.ban for c in self._conduct.values() if c.ban is not None and c.ban.until > now]
        return tuple(sorted(current, key=lambda ban: (-ban.until, ban.peer)))

    def _forget(self) -> None:
        while len(self._conduct) > PEERS_MAX:
            harmless = next((peer for peer in self._conduct if not self.is_banned(peer)), next(iter(self._conduct)))
            del self._conduct[harmless]
