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
from types import GenericAlias
from typing import Any, TypeVar, cast

import msgpack

from node.protocol.audit_sampling import draws_of
from node.protocol.audit_votes import AUDIT_VOTES_MAX, CHALLENGES_MAX
from node.protocol.bundles import CHECKS_MAX, VOTE_BUNDLE_BYTES_MAX
from node.protocol.canonical import CanonicalError, CanonicalValue, encode
from node.protocol.codec import SchemaError, from_value, to_value
from node.protocol.compiled import UnusualError, read_value
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
FIELDS_MAX = 64
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
NOT_CANONICAL = "a vote bundle: valid msgpack, but not in canonical form"


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
        raise SchemaError(f"a vote bundle: {len(data)} bytes, at most {limits.bytes_max} in this epoch")
    reader = _Reader(data, max(PIECE_BYTES_MAX, limits.vote_bytes_max))
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
    reader: "_Reader", record_type: type[Read], lists: Mapping[str, _Entries], observed: Mapping[str, _Entries]
) -> Slices[Read]:
    """Return a record whose `lists` are read entry by entry, and with it Observations with lists of `observed`."""
    frame: dict[str, CanonicalValue] = {}
    found: dict[str, Any] = {}
    last = ""
    for number in range(reader.map_header()):
        name = reader.value()
        if type(name) is not str or (number and name.encode() <= last.encode()):
            raise SchemaError("a vote bundle: names of fields are texts, each once and in order")
        last = name
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


def _entries(reader: "_Reader", name: str, entries: _Entries) -> Slices[tuple[Any, ...]]:
    left = reader.array_header()
    if left > entries.count_max:
        raise SchemaError(f"a vote bundle: {left} {name}, at most {entries.count_max}")
    found: list[Any] = []
    while left:
        some = reader.entries(entries.entry_type, left)
        found += some
        left -= len(some)
        yield
    return tuple(found)


class _Reader:
    """Canonical MessagePack, a piece at a time. Raises SchemaError."""

    def __init__(self, data: bytes, piece_bytes_max: int) -> None:
        """A larger piece than `piece_bytes_max` is not looked at further than that."""
        self._data = data
        self._piece_bytes_max = piece_bytes_max
        self._place = 0

    def map_header(self) -> int:
        """Return how many fields follow."""
        unpacker, piece = self._next()
        count = _unpacked(unpacker.read_map_header)
        if count > FIELDS_MAX:
            raise SchemaError(f"a vote bundle: {count} fields, at most {FIELDS_MAX}")
        return self._counted(count, msgpack.Packer().pack_map_header(count), piece[: unpacker.tell()])

    def array_header(self) -> int:
        """Return how many entries follow."""
        unpacker, piece = self._next()
        count = _unpacked(unpacker.read_array_header)
        return self._counted(count, msgpack.Packer().pack_array_header(count), piece[: unpacker.tell()])

    def value(self) -> CanonicalValue:
        """Return the next value."""
        unpacker, piece = self._next()
        value = _unpacked(unpacker.unpack)
        return _canonical(value, self._taken(piece[: unpacker.tell()]))

    def entries(self, entry_type: type, count_max: int) -> Sequence[Any]:
        """Return the next entries of a list: as many as a piece has, one at least."""
        unpacker, piece = self._next()
        ends: list[int] = []
        try:
            while len(ends) < count_max:
                unpacker.skip()
                ends.append(unpacker.tell())
        except msgpack.exceptions.OutOfData:
            if not ends:
                raise SchemaError("a vote bundle: it ends too soon, or an entry is too long") from None
        except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise SchemaError(f"a vote bundle: not msgpack: {error}") from error
        read = self._taken(piece[: ends[-1]])
        as_list = msgpack.Packer().pack_array_header(len(ends)) + read
        values = _unpacked(
            lambda: msgpack.unpackb(as_list, raw=False, strict_map_key=True, use_list=True, max_map_len=FIELDS_MAX)
        )
        many = cast(type, GenericAlias(tuple, (entry_type, ...)))
        try:
            if msgpack.packb(values, use_bin_type=True) == as_list:
                return cast(tuple[Any, ...], read_value(many, values))
        except (UnusualError, ValueError, OverflowError):
            pass  # as the codec does: the slow path words the error
        _canonical(values, as_list)
        for value in values:
            from_value(entry_type, value)
        raise SchemaError(f"a vote bundle: a {entry_type.__name__} with fields that nobody knows")

    def require_end(self) -> None:
        """Raise SchemaError if anything follows."""
        if self._place != len(self._data):
            raise SchemaError("a vote bundle: something follows it")

    def _next(self) -> tuple[msgpack.Unpacker, bytes]:
        """Return what reads the next piece, and that."""
        piece = self._data[self._place : self._place + self._piece_bytes_max]
        unpacker = msgpack.Unpacker(
            raw=False, strict_map_key=True, use_list=True, max_buffer_size=self._piece_bytes_max
        )
        unpacker.feed(piece)
        return unpacker, piece

    def _taken(self, read: bytes) -> bytes:
        self._place += len(read)
        return read

    def _counted(self, count: int, written: bytes, read: bytes) -> int:
        if self._taken(read) != written:
            raise SchemaError(NOT_CANONICAL)
        return count


def _unpacked(read: Any) -> Any:
    try:
        return read()
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise SchemaError(f"a vote bundle: not msgpack, or too much of it: {error}") from error


def _canonical(value: Any, read: bytes) -> CanonicalValue:
    """Return a value whose canonical bytes were `read`. Raises SchemaError."""
    try:
        written = encode(value)
    except CanonicalError as error:
        raise SchemaError(f"a vote bundle: {error}") from error
    if written != read:
        raise SchemaError(NOT_CANONICAL)
    return cast(CanonicalValue, value)
