"""What each peer has earned by its conduct: offences add up, fade with time, and end in a ban that expires.

One book for everything a peer does to this node, over gossip, request streams and content: a peer that lies in one of
them is not spoken to in the others. Peers are named by peer id; a content provider without one by `host:port`. An
address that brings ever new peer ids, or what is no peer at all, is named by `address_name` and banned like a peer, for
shorter: it may be shared with the innocent.
"""

import ipaddress
import math
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
ADDRESS_BAN_SECONDS_MAX = 3600
"""Behind one address there may be a whole campus."""
PEERS_MAX = 4096
"""Peers whose conduct is remembered; beyond that the one without offence for longest is forgotten."""
BANS_MAX = 1024
"""Bans in force; beyond that the one that ends first is lifted. New peer ids cost nothing, so this must be bounded."""
CLOCK_BACK_SECONDS_MAX = 3600
"""A ban from further in the future was made by a clock that was wrong, and would last until it is right again."""
REASON_CHARACTERS_MAX = 200
"""Part of a reason may be a peer's own words."""
IPV6_NETWORK_BITS = 64
"""What one customer has: banning a single address of it would be no ban."""


class Offence(Enum):
    """What a peer did, and the points it costs."""

    points: float

    def __new__(cls, points: float) -> "Offence":
        """Give each a value of its own: two of equal value would be one offence with two names."""
        offence = object.__new__(cls)
        offence._value_ = len(cls.__members__)
        offence.points = points
        return offence

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
    HARBOURED = 40.0
    """Of an address: a peer that came from it was banned. The third within minutes bans the address."""


@dataclass(frozen=True, slots=True)
class Ban:
    """A peer or address that is not spoken to."""

    peer: str
    reason: str
    since: int
    """UNIX seconds."""
    until: int
    """UNIX seconds."""
    count: int = 1
    """How often it has been banned, this time included: each ban lasts twice as long."""

    def in_force(self, now: float) -> bool:
        """Whether it holds at `now` (UNIX seconds)."""
        return self.since - CLOCK_BACK_SECONDS_MAX <= now < self.until


@dataclass(slots=True)
class _Conduct:
    points: float = 0.0
    at: float = 0.0
    bans: int = 0


def address_name(ip: str) -> str:
    """Return the name under which an IP address has its conduct: IPv6 addresses of one network share one.

    Raises ValueError if it is no IP address.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped is not None:
        address = mapped
    if isinstance(address, ipaddress.IPv4Address):
        return f"/ip4/{address}"
    network = ipaddress.ip_network(f"{address}/{IPV6_NETWORK_BITS}", strict=False)
    return f"/ip6/{network.network_address}/ipcidr/{IPV6_NETWORK_BITS}"


def decayed(points: float, seconds: float) -> float:
    """Return what is left of `points` after `seconds`; a clock that was set back forgives nothing."""
    return points * math.pow(0.5, max(0.0, seconds) / HALF_LIFE_SECONDS)


def ban_seconds(peer: str, bans_before: int) -> int:
    """Return how long a ban lasts: twice as long as the one before, up to a maximum."""
    longest = ADDRESS_BAN_SECONDS_MAX if peer.startswith("/ip") else BAN_SECONDS_MAX
    # Bounded first: the power of a large count would take for ever to compute.
    return int(min(BAN_SECONDS_MIN * 2 ** min(bans_before, 16), longest))


class Standing:
    """Points and bans by peer. Times are UNIX seconds from `clock`, so that a ban outlives a restart.

    Both tables are bounded: whoever fills them with new names gets the oldest points forgotten and the shortest bans
    lifted, never this node's memory.
    """

    def __init__(self, clock: Callable[[], float], known: Iterable[Ban] = ()) -> None:
        """`known` are bans that were stored."""
        self._clock = clock
        self._conduct: OrderedDict[str, _Conduct] = OrderedDict()
        self._bans: dict[str, Ban] = {}
        self._listeners: list[Callable[[Ban], None]] = []
        self._version = 0
        for ban in known:
            if ban.in_force(clock()):
                self._bans[ban.peer] = ban
                self._conduct_of(ban.peer).bans = ban.count
        self._forget()

    @property
    def version(self) -> int:
        """Grows with each ban and pardon: whoever stores the bans compares it with what was stored."""
        return self._version

    def on_ban(self, listener: Callable[[Ban], None]) -> None:
        """Have `listener` told of each new ban, at once; it must not block."""
        self._listeners.append(listener)

    def blame(self, peer: str, offence: Offence, detail: str) -> None:
        """Count an offence; `detail` is what the operator reads if it leads to a ban."""
        if self.is_banned(peer):
            return  # its last bytes, read after the ban; they must not prolong it
        now = self._clock()
        conduct = self._conduct_of(peer)
        conduct.points = decayed(conduct.points, now - conduct.at) + offence.points
        conduct.at = now
        log.info("a peer offends", peer=peer, offence=offence.name.lower(), detail=detail, points=round(conduct.points))
        if conduct.points >= BAN_POINTS:
            self.ban(peer, f"{offence.name.lower().replace('_', ' ')}: {detail}", ban_seconds(peer, conduct.bans))
        self._forget()

    def points(self, peer: str) -> float:
        """Return the points a peer has now."""
        conduct = self._conduct.get(peer)
        return 0.0 if conduct is None else decayed(conduct.points, self._clock() - conduct.at)

    def ban(self, peer: str, reason: str, seconds: int) -> Ban:
        """Ban for a time, by conduct or by the operator; replaces a ban in force."""
        if seconds <= 0:
            raise ValueError("a ban lasts at least a second")
        conduct = self._conduct_of(peer)
        conduct.bans += 1
        conduct.points = 0.0
        now = int(self._clock())
        ban = Ban(peer, _printable(reason), now, now + seconds, conduct.bans)
        self._bans[peer] = ban
        self._version += 1
        self._forget()
        log.warning("a peer is banned", peer=peer, reason=ban.reason, seconds=seconds)
        for listener in self._listeners:
            listener(ban)
        return ban

    def pardon(self, peer: str) -> bool:
        """Lift a ban and forget all offences; return whether there was a ban."""
        banned = self.is_banned(peer)
        self._conduct.pop(peer, None)
        self._bans.pop(peer, None)
        self._version += 1
        return banned

    def is_banned(self, peer: str) -> bool:
        """Whether the peer is banned now."""
        ban = self._bans.get(peer)
        return ban is not None and ban.in_force(self._clock())

    def bans(self) -> tuple[Ban, ...]:
        """Bans in force, the one that ends last first."""
        now = self._clock()
        return tuple(sorted((b for b in self._bans.values() if b.in_force(now)), key=lambda b: (-b.until, b.peer)))

    def _conduct_of(self, peer: str) -> _Conduct:
        conduct = self._conduct.setdefault(peer, _Conduct(at=self._clock()))
        self._conduct.move_to_end(peer)
        return conduct

    def _forget(self) -> None:
        while len(self._conduct) > PEERS_MAX:
            self._conduct.popitem(last=False)
        if len(self._bans) > BANS_MAX:
            keep = self.bans()[:BANS_MAX]
            self._bans = {ban.peer: ban for ban in keep}


def _printable(text: str) -> str:
    """An operator's terminal shows it: no control characters, no end of lines."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:REASON_CHARACTERS_MAX])
