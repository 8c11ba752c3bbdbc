"""Reading what another validator's votes rest on: no more than its votes call for, and a slice at a time.

*Detail.* Anybody with a vote may make evidence of any size and of any numbers, and many read it. Its votes are known
before, and with them how many nonces it may speak of: so much is fetched, so long its lists may be, and what is read
of it takes hardly more memory than its bytes.
"""

from array import array
from dataclasses import dataclass

from node.protocol.canonical_reading import CanonicalReader
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.record_reading import read_record
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
"""What the figures stand in, and what nobody knows yet."""
BATCH_WORK = 16
"""What a batch takes besides, counted in nonces."""
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
    longest = max((vote.sampled for vote in votes), default=0)
    reader = CanonicalReader(data, "evidence of votes", BATCH_BYTES_MAX + longest * NONCE_BYTES_MAX)
    found: dict[NodeKey, ReadFigures] = {}

    def figures(reader: CanonicalReader) -> Slices[tuple[VoteFigures, ...]]:
        """Take the figures as they come, in less memory than their records would need."""
        if reader.items() != len(votes):
            raise EvidenceDiffersError(ALL_AND_NO_OTHERS)
        pace = Pace()
        for vote in votes:
            (told,) = reader.records(VoteFigures, 1)
            _check(vote, told, judging)
            found[_key(vote)] = ReadFigures(array("Q", told.distances), array("L", told.tails))
            if pace.is_over(BATCH_WORK + vote.sampled):
                yield
        return ()

    told = yield from read_record(reader, VoteEvidence, {FIGURES: figures})
    reader.require_end()
    if told.epoch != bundle.epoch or told.validator != bundle.validator:
        raise EvidenceDiffersError("evidence of another epoch or validator")
    return found


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
