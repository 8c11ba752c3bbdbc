"""Reading what another validator's votes rest on: no more than its votes call for, and a slice at a time.

*Detail.* Anybody with a vote may make evidence of any size and of any numbers, and many read it. Its votes are known
before, and with them how many nonces it may speak of: so much is fetched, so long its lists may be, and what is read
of it takes hardly more memory than its bytes.
"""

from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import msgpack

from node.protocol.canonical import CanonicalError, CanonicalValue, encode
from node.protocol.codec import SchemaError, from_value
from node.protocol.compiled import UnusualError, read_value
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.records import PocVote, VoteBundle
from node.protocol.slices import Pace, Slices
from node.protocol.tails import TAIL_MAX, has_tails
from node.protocol.validation import mismatches_of, unrelated_among
from node.protocol.weights import NodeKey
from node.services.judging import Judging

EVIDENCE_BYTES_MAX = 64 * 1024 * 1024
"""Ten bytes per nonce: room for 10,000 batches at 600 nonces each."""
NONCE_BYTES_MAX = 20
"""A distance and a tail: nine bytes are the longest number."""
BATCH_BYTES_MAX = 512
"""Names of an account and a node, and of the fields."""
FRAME_BYTES_MAX = 1024
"""What the figures stand in."""
FIELDS_MAX = 64
FIGURES = "figures"
NOT_CANONICAL = "evidence of votes: valid msgpack, but not in canonical form"
ALL_AND_NO_OTHERS = "figures for each vote on recomputed nonces, and no others"


class EvidenceDiffersError(ValueError):
    """Evidence that does not carry the votes."""


def evidence_bytes_max(bundle: VoteBundle) -> int:
    """Return how long the evidence of a bundle's votes can be at most."""
    sampled = [vote.sampled for vote in bundle.votes if vote.sampled]
    needed = FRAME_BYTES_MAX + len(sampled) * BATCH_BYTES_MAX + sum(sampled) * NONCE_BYTES_MAX
    return min(needed, EVIDENCE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class ReadFigures:
    """Distances and tails of one batch, as VoteFigures have them."""

    distances: "array[int]"
    tails: "array[int]"


def read_evidence(data: bytes, bundle: VoteBundle, judging: Judging) -> Slices[dict[NodeKey, ReadFigures]]:
    """Return the figures by batch. Raises EvidenceDiffersError unless they say what the votes say, SchemaError."""
    votes = [vote for vote in bundle.votes if vote.sampled]
    found: dict[NodeKey, ReadFigures] = {}
    pace = Pace()
    for vote, figures in zip(votes, _read(data, bundle, len(votes)), strict=True):
        _check(vote, figures, judging)
        found[_key(vote)] = ReadFigures(array("Q", figures.distances), array("L", figures.tails))
        if pace.is_over(vote.sampled):
            yield
    return found


def _read(data: bytes, bundle: VoteBundle, batches: int) -> Iterator[VoteFigures]:
    """Yield the figures as they come; the rest of the evidence is checked when all came. Raises as read_evidence()."""
    longest = max((vote.sampled for vote in bundle.votes), default=0)
    reader = _Reader(data, max(batches, longest), BATCH_BYTES_MAX + longest * NONCE_BYTES_MAX)
    frame: dict[str, Any] = {}
    last = ""
    for _ in range(reader.map_header()):
        name = reader.value()
        if type(name) is not str or (frame and name.encode() <= last.encode()):
            raise SchemaError("evidence of votes: names of fields are texts, each once and in order")
        last, frame[name] = name, None
        if name != FIGURES:
            frame[name] = reader.value()
            continue
        if reader.array_header() != batches:
            raise EvidenceDiffersError(ALL_AND_NO_OTHERS)
        for _ in range(batches):
            yield reader.figures()
    reader.require_end()
    told = from_value(VoteEvidence, {**frame, FIGURES: []})
    if FIGURES not in frame or told.epoch != bundle.epoch or told.validator != bundle.validator:
        raise EvidenceDiffersError("evidence of another epoch or validator, or without figures")


class _Reader:
    """Canonical MessagePack, a piece at a time. Raises SchemaError."""

    def __init__(self, data: bytes, items_max: int, piece_bytes_max: int) -> None:
        """`items_max`: of a list. A larger piece than `piece_bytes_max` is not looked at further than that."""
        self._data = data
        self._items_max = items_max
        self._piece_bytes_max = piece_bytes_max
        self._place = 0

    def map_header(self) -> int:
        """Return how many fields follow."""
        count, read = self._next(msgpack.Unpacker.read_map_header)
        return self._counted(count, read, msgpack.Packer().pack_map_header(count))

    def array_header(self) -> int:
        """Return how many items follow."""
        count, read = self._next(msgpack.Unpacker.read_array_header)
        return self._counted(count, read, msgpack.Packer().pack_array_header(count))

    def value(self) -> CanonicalValue:
        """Return the next value."""
        return _canonical(*self._next(msgpack.Unpacker.unpack))

    def figures(self) -> VoteFigures:
        """Return the next value as figures, by the codec's fast path where they are as they should be."""
        value, read = self._next(msgpack.Unpacker.unpack)
        with suppress(UnusualError, ValueError, OverflowError):  # as the codec does; nested too deep, say
            if msgpack.packb(value, use_bin_type=True) == read:
                return cast(VoteFigures, read_value(VoteFigures, value))
        return from_value(VoteFigures, _canonical(value, read))

    def require_end(self) -> None:
        """Raise SchemaError if anything follows."""
        if self._place != len(self._data):
            raise SchemaError("evidence of votes: something follows it")

    def _counted(self, count: int, read: bytes, written: bytes) -> int:
        if written != read:
            raise SchemaError(NOT_CANONICAL)
        return count

    def _next(self, read: Callable[[msgpack.Unpacker], Any]) -> tuple[Any, bytes]:
        """Return what `read` reads next, and the bytes of it."""
        unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_buffer_size=self._piece_bytes_max,
            max_array_len=self._items_max,
            max_map_len=FIELDS_MAX,
        )
        piece = self._data[self._place : self._place + self._piece_bytes_max]
        try:
            unpacker.feed(piece)
            value = read(unpacker)
        except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
            raise SchemaError(f"evidence of votes: not msgpack, or too much of it: {error}") from error
        self._place += unpacker.tell()
        return value, piece[: unpacker.tell()]


def _canonical(value: Any, read: bytes) -> CanonicalValue:
    """Return a value whose canonical bytes were `read`. Raises SchemaError."""
    try:
        written = encode(value)
    except CanonicalError as error:
        raise SchemaError(f"evidence of votes: {error}") from error
    if written != read:
        raise SchemaError(NOT_CANONICAL)
    return cast(CanonicalValue, value)


def _check(vote: PocVote, figures: VoteFigures, judging: Judging) -> None:
    """Raise EvidenceDiffersError unless the figures of a batch say what the vote says."""
    key, name = _key(vote), f"{vote.participant}/{vote.node_id}"
    if (figures.participant, figures.node_id) != key:
        raise EvidenceDiffersError(ALL_AND_NO_OTHERS)
    model = judging.models[judging.commits[key].model_id]
    if len(figures.distances) != vote.sampled or min(figures.distances) < 0:
        raise EvidenceDiffersError(f"{name}: one distance for each nonce")
    if mismatches_of(judging.sample_of(key), figures.distances, judging.rules[key]) != vote.mismatches:
        raise EvidenceDiffersError(f"{name}: other nonces differ than the vote says")
    if unrelated_among(figures.distances, judging.rules[key]) != vote.unrelated:
        raise EvidenceDiffersError(f"{name}: more or fewer nonces are unrelated than the vote says")
    if len(figures.tails) != (vote.sampled if has_tails(model) else 0):
        raise EvidenceDiffersError(f"{name}: one tail for each nonce")
    if any(not 0 <= tail <= TAIL_MAX for tail in figures.tails):
        raise EvidenceDiffersError(f"{name}: a tail is out of range")


def _key(vote: PocVote) -> NodeKey:
    return vote.participant, vote.node_id
