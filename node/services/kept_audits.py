"""This node's audits of one epoch, as they are kept on the disk: a page is written anew, never all of them.

An epoch of a large network has a thousand votes, and each is written down up to three times while it comes about. One
document of all of them would be written as often: a gigabyte, and most of the time that an audit takes.
"""

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass

import structlog

from node.ports import Store
from node.protocol.audit_votes import audit_order
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.findings import AuditVote
from node.protocol.identifiers import EpochNumber
from node.protocol.slices import Slices

log = structlog.get_logger(__name__)

VOTES_PER_PAGE = 16
"""Some 4 kB: as much as a disk writes at once anyway."""
PAGES_PER_SLICE = 8
"""Written before others get their turn, in one transaction: some milliseconds."""

Place = tuple[str, int, bytes]
"""What a vote is about, as `audit_order` says it."""


@dataclass(frozen=True, slots=True)
class _Page:
    """Some votes, as they are stored."""

    votes: tuple[AuditVote, ...]


class KeptAudits(MutableMapping[Place, AuditVote]):
    """The votes by what they are about. What changes is on the disk once `write` was called.

    A vote stays on the page on which it was noted first. Pages that cannot be read hold nothing: those answers are
    audited again. Bounded by what was drawn.
    """

    def __init__(self, store: Store, epoch: EpochNumber) -> None:
        """Read what is stored."""
        self.epoch = epoch
        self._store = store
        self._pages: list[dict[Place, AuditVote]] = []
        self._page_of: dict[Place, int] = {}
        self._changed: set[int] = set()
        while (data := store.get_document(self._document(len(self._pages)))) is not None:
            page = self._read(data)
            votes = () if page is None else page.votes
            self._page_of.update({audit_order(vote): len(self._pages) for vote in votes})
            self._pages.append({audit_order(vote): vote for vote in votes})

    def _read(self, data: bytes) -> _Page | None:
        try:
            return from_bytes(_Page, data)
        except SchemaError as error:
            log.error("stored audits of an epoch cannot be read; none are voted", epoch=self.epoch, reason=str(error))
            return None

    def _document(self, part: int) -> str:
        return f"audits/{self.epoch}/{part}"

    @property
    def votes(self) -> tuple[AuditVote, ...]:
        """All votes, in a bundle's order."""
        return tuple(self[place] for place in sorted(self._page_of))

    def __getitem__(self, place: Place) -> AuditVote:
        return self._pages[self._page_of[place]][place]

    def __setitem__(self, place: Place, vote: AuditVote) -> None:
        number = self._page_of.get(place)
        if number is None:
            if not self._pages or len(self._pages[-1]) >= VOTES_PER_PAGE:
                self._pages.append({})
            number = self._page_of[place] = len(self._pages) - 1
        self._pages[number][place] = vote
        self._changed.add(number)

    def __delitem__(self, place: Place) -> None:
        number = self._page_of.pop(place)
        del self._pages[number][place]
        self._changed.add(number)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._page_of)

    def __len__(self) -> int:
        return len(self._page_of)

    def write(self) -> None:
        """Have all that has changed on the disk, all or nothing of it. Does not wait for the disk: votes have an effect
        elsewhere only in a bundle, which is synced before, and what the loss of power takes is audited again."""
        self._write(sorted(self._changed))

    def write_in_slices(self) -> Slices[None]:
        """Do the same in slices: hundreds of votes take tens of milliseconds. A slice is written or not."""
        while self._changed:
            self._write(sorted(self._changed)[:PAGES_PER_SLICE])
            yield

    def _write(self, numbers: Sequence[int]) -> None:
        pages = {self._document(number): _Page(tuple(self._pages[number].values())) for number in numbers}
        if pages:
            self._store.put_documents({name: to_bytes(page) for name, page in pages.items()})
            self._changed.difference_update(numbers)
