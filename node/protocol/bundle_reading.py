"""Reading the vote bundles of others: no more than an epoch allows, and a slice at a time.

*Purpose.* Anybody with a vote may commit any bytes, and everybody reads them while votes are exchanged and a result is
formed. So a bundle may have no more bytes than an honest one of that epoch can need (`limits_of`, by chain data alone:
what is larger is void on every node alike), its lists are counted before they are read, and what is read between two
looks at the rest of the node is PIECE_BYTES_MAX.

*Detail.* What comes out is what the codec makes of the same bytes, but for one thing: entries of lists have no fields
that nobody knows, so that none but the codec's fast path reads thousands of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from node.protocol.audit_sampling import draws_of
from node.protocol.audit_votes import AUDIT_VOTES_MAX, CHALLENGES_MAX
from node.protocol.bundles import CHECKS_MAX, VOTE_BUNDLE_BYTES_MAX
from node.protocol.canonical import CanonicalValue
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import SchemaError, from_value, to_value
from node.protocol.findings import AuditVote, Observations, ServedTokens, Sighting, SpeedMeasure, VoteCheck
from node.protocol.observations import MEASURES_MAX, SERVED_MAX, SIGHTINGS_MAX
from node.protocol.omissions import OMISSIONS_MAX
from node.protocol.records import (
    NOTHING_OBSERVED,
    EpochResult,
    Omission,
    PocCommit,
    PocVote,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.slices import Slices
from node.protocol.validation import SampleRule
from node.protocol.weights import NodeKey

Read = TypeVar("Read")

PIECE_BYTES_MAX = 16 * 1024
"""Read at a time: some 15 ms of the slow path at its worst. No entry is longer, but for votes on large samples."""
FRAME_BYTES_MAX = 16 * 1024
"""What the lists stand in, a receipt book among it, and a few fields that nobody knows yet."""
VOTE_BYTES_MAX = 512
"""One vote but for its mismatches: about 120, with names and a reason as long as they may be 300."""
NONCE_BYTES_MAX = 9
CHECK_BYTES_MAX = 512
AUDIT_BYTES_MAX = 768
SIGHTING_BYTES_MAX = 128
MEASURE_BYTES_MAX = 256
SERVED_BYTES_MAX = 192
RECEIPT_BYTES_MAX = 4096
"""Of a receipt with both signatures: about 1,200."""
OMISSION_BYTES_MAX = RECEIPT_BYTES_MAX + 4 * 1024
"""And of two gaps, each between two rows with 18 siblings: some 3,000."""
NAME = "a vote bundle"


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """What a bundle of an epoch may have."""

    bytes_max: int
    votes_max: int
    vote_bytes_max: int
    """Of one vote, with all of its mismatches."""


def audits_due(previous: EpochResult | None) -> int:
    """Return how many answers one member can have to audit after `previous`: all that are drawn and judged again."""
    if previous is None:
        return 0
    drawn = sum(draws_of(committed.book) for committed in previous.books)
    again = sum(len(outcome.accused) + len(outcome.challenged) for outcome in previous.audits)
    return min(drawn + again, AUDIT_VOTES_MAX)


def limits_of(
    commits: Mapping[NodeKey, PocCommit], rules: Mapping[NodeKey, SampleRule], members: int, audits: int
) -> BundleLimits:
    """Return what a bundle may have in an epoch with these batches, by these rules.

    `members` are those that committed votes the epoch before, each of which may be checked, and `audits` those due.
    """
    sampled = [rule.sampled(commits[key].count) for key, rule in rules.items() if key in commits]
    lists = (
        (len(commits), VOTE_BYTES_MAX),
        (sum(sampled), NONCE_BYTES_MAX),
        (min(members, CHECKS_MAX), CHECK_BYTES_MAX),
        (min(audits, AUDIT_VOTES_MAX), AUDIT_BYTES_MAX),
        (SIGHTINGS_MAX, SIGHTING_BYTES_MAX),
        (MEASURES_MAX, MEASURE_BYTES_MAX),
        (SERVED_MAX, SERVED_BYTES_MAX),
        (OMISSIONS_MAX, OMISSION_BYTES_MAX),
        (CHALLENGES_MAX, RECEIPT_BYTES_MAX),
    )
    needed = FRAME_BYTES_MAX + sum(count * size for count, size in lists)
    longest = VOTE_BYTES_MAX + NONCE_BYTES_MAX * max(sampled, default=0)
    return BundleLimits(min(needed, VOTE_BUNDLE_BYTES_MAX), len(commits), longest)


@dataclass(frozen=True, slots=True)
class _Entries:
    """A list of a record, and how many entries it may have."""

    entry_type: type
    count_max: int


def read_bundle_in_slices(data: bytes, limits: BundleLimits) -> Slices[VoteBundle]:
    """Return the bundle whose canonical bytes are `data`. Raises SchemaError, as well for more than `limits` allow."""
    if len(data) > limits.bytes_max:
        raise SchemaError(f"{NAME}: {len(data)} bytes, at most {limits.bytes_max} in this epoch")
    reader = CanonicalReader(data, NAME, max(PIECE_BYTES_MAX, limits.vote_bytes_max))
    observed = {
        "measures": _Entries(SpeedMeasure, MEASURES_MAX),
        "served": _Entries(ServedTokens, SERVED_MAX),
        "sightings": _Entries(Sighting, SIGHTINGS_MAX),
    }
    lists = {
        "audits": _Entries(AuditVote, AUDIT_VOTES_MAX),
        "challenges": _Entries(SignedReceipt, CHALLENGES_MAX),
        "checks": _Entries(VoteCheck, CHECKS_MAX),
        "omissions": _Entries(Omission, OMISSIONS_MAX),
        "votes": _Entries(PocVote, limits.votes_max),
    }
    bundle = yield from _record(reader, VoteBundle, lists, observed)
    reader.require_end()
    return bundle


def _record(
    reader: CanonicalReader, record_type: type[Read], lists: Mapping[str, _Entries], observed: Mapping[str, _Entries]
) -> Slices[Read]:
    """Return a record whose `lists` are read entry by entry, and with it Observations with lists of `observed`."""
    frame: dict[str, CanonicalValue] = {}
    found: dict[str, Any] = {}
    for name in reader.fields():
        if name in lists:
            found[name] = yield from _entries(reader, name, lists[name])
            frame[name] = []
        elif name == "observations" and observed:
            found[name] = yield from _record(reader, Observations, observed, {})
            frame[name] = to_value(NOTHING_OBSERVED)
        else:
            frame[name] = reader.value()
    record: Any = from_value(record_type, frame)  # tells of what is missing, too
    return cast(Read, replace(record, **found))


def _entries(reader: CanonicalReader, name: str, entries: _Entries) -> Slices[tuple[Any, ...]]:
    left = reader.items()
    if left > entries.count_max:
        raise SchemaError(f"{NAME}: {left} {name}, at most {entries.count_max}")
    found: list[Any] = []
    while left:
        some: Sequence[Any] = reader.records(entries.entry_type, left)
        found += some
        left -= len(some)
        yield
    return tuple(found)
