"""Who takes part in a race: the sources that are known, those in reserve, and which are asked for fresh blocks now.

Sources of the lowest rank alive are asked for fresh blocks, except those that rest because the others suffice
(p2p/content/retrieval/breadth.py). Whoever rests keeps a connection, is still asked for blocks that came back from
others, and takes over at once when nobody else is left.
"""

from collections import deque
from collections.abc import Iterable

from p2p.content.retrieval.breadth import CORES, draw, hands, least_with_all_hands, threads_each
from p2p.content.retrieval.peer import Peer
from p2p.content.source import BlockSource
from p2p.standing import Standing

SOURCES_ACTIVE_MAX = 6
"""In a race at once; the rest wait in reserve. This bounds memory: a gateway takes a block for each of its connections,
others up to their window and what waits for the writers."""
SOURCES_MAX = 64
"""Considered in one session."""
WRITERS_MAX = 3
"""Threads that hash and write what comes from sources without threads of their own: one per core that a fetch may fill,
and one that waits for the disk."""


class Roster:
    """Of one session. Whoever is banned is not taken in, and `reasons` says so."""

    def __init__(self, standing: Standing | None, reasons: dict[str, str]) -> None:
        self.known: dict[str, BlockSource] = {}
        self.peers: list[Peer] = []
        """Who takes part or did; `dropped` says."""
        self._standing = standing
        self._reasons = reasons
        self._reserve: deque[BlockSource] = deque()

    def admit(self, sources: Iterable[BlockSource]) -> None:
        """Put sources in reserve, those of a lower rank before others."""
        for source in sources:
            if source.name in self.known or len(self.known) == SOURCES_MAX:
                continue
            self.known[source.name] = source
            if self._standing is not None and self._standing.is_banned(source.name):
                self._reasons[source.name] = "banned"
                continue
            self._reserve.append(source)
        # Stable: within a rank the order of the caller, who knows which ones failed lately.
        self._reserve = deque(sorted(self._reserve, key=lambda source: source.rank))

    def add(self, sources: Iterable[BlockSource]) -> None:
        """Have sources take part, as far as there is place; the others are in reserve."""
        self.admit(sources)
        while self._reserve and len(self.live()) < SOURCES_ACTIVE_MAX:
            self.enlist()

    def enlist(self) -> bool:
        """Have one take part that was in reserve; return whether there was any."""
        if not self._reserve:
            return False
        self.peers.append(Peer(self._reserve.popleft()))
        return True

    def live(self) -> list[Peer]:
        """Return those who take part."""
        return [peer for peer in self.peers if not peer.dropped]

    def able(self) -> list[Peer]:
        """Return those who may be asked for fresh blocks: of the lowest rank alive."""
        live = self.live()
        rank = min((peer.source.rank for peer in live), default=None)
        return [peer for peer in live if peer.source.rank == rank]

    def asked(self) -> list[Peer]:
        """Return those who are asked for fresh blocks."""
        return [peer for peer in self.able() if not peer.is_resting]

    def drop(self, peer: Peer) -> None:
        """Let one take part no more. If nobody is left who is asked, the others rest no more."""
        peer.dropped = True
        if not self.asked():
            self.ask_all()

    def ask_all(self) -> None:
        """Let nobody rest."""
        for peer in self.peers:
            peer.is_resting = False
            peer.given_bytes = 0

    def ask_only(self, count: int) -> None:
        """Let all rest but so many, of the fast ones, by lot."""
        asked = self.asked()
        kept = set(draw([peer.given_bytes for peer in asked], count))
        for place, peer in enumerate(asked):
            peer.is_resting = place not in kept

    def share_threads(self) -> None:
        """Give those who are asked their share of threads."""
        asked = self.asked()
        for peer in self.live():
            if peer.handling is not None:
                peer.have_threads(1 if peer.is_resting else threads_each(len(asked), peer.handling.threads_max))

    def hands(self) -> int:
        """Return how many threads can work at once for those who are asked."""
        return self._hands(len(self.asked()))

    def least(self) -> int:
        """Return how few can have as many threads at work as all."""
        threads_max = self._threads_max()
        able = len(self.able())
        return least_with_all_hands(able, threads_max) if threads_max else min(1, able)

    def _hands(self, count: int) -> int:
        threads_max = self._threads_max()
        return hands(count, threads_max) if threads_max else min(CORES, WRITERS_MAX)

    def _threads_max(self) -> int:
        """Return how many threads of its own a source takes at most, 0 if ours work for some of them."""
        of_each = [0 if peer.handling is None else peer.handling.threads_max for peer in self.able()]
        return min(of_each, default=0)
