"""Reading what another validator's votes rest on: no more than its votes call for, and a slice at a time.

*Detail.* Anybody with a vote may make evidence of any size and of any numbers, and many read it. Its votes are known
before, and with them how many nonces it may speak of: so much is fetched, so long its lists may be, and what is read
of it takes hardly more memory than its bytes.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from node.protocol.canonical import CanonicalValue
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import from_value
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
FIGURES = "figures"
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
    reader = CanonicalReader(data, "evidence of votes", BATCH_BYTES_MAX + longest * NONCE_BYTES_MAX)
    frame: dict[str, CanonicalValue] = {}
    for name in reader.fields():
        if name != FIGURES:
            frame[name] = reader.value()
            continue
        if reader.items() != batches:
            raise EvidenceDiffersError(ALL_AND_NO_OTHERS)
        for _ in range(batches):
            yield reader.record(VoteFigures)
        frame[name] = []
    reader.require_end()
    told = from_value(VoteEvidence, frame)
    if told.epoch != bundle.epoch or told.validator != bundle.validator:
        raise EvidenceDiffersError("evidence of another epoch or validator")


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
