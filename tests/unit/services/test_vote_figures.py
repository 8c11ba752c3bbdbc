"""Evidence of votes: its figures must say what the votes say, for the votes are what counts."""

from dataclasses import replace

import pytest

from node.protocol.codec import to_bytes
from node.protocol.findings import VoteEvidence, VoteFigures
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.judges import Judges
from node.protocol.records import PocVote
from node.protocol.slices import finish
from node.protocol.validation import UNRELATED_DISTANCE, SampleRule
from node.protocol.verdicts import Verdict
from node.services.judging import Judging
from node.services.vote_evidence import EvidenceDiffersError, read_evidence
from tests.builders import NODE, SAMPLE_SEED, TINY, account, bundle_of, commit, model

KEY = (account(2), NODE)
RULE = SampleRule(distance_max=100, mismatch_per_million=1000, reject_mismatches=3, sample_size=8)
JUDGING = Judging(
    EpochNumber(0),
    {KEY: commit(2, 8).commit},
    {TINY: model()},
    {KEY: RULE},
    Judges(),
    {},
    Hash32(bytes(32)),
    SAMPLE_SEED,
    None,
    frozenset(),
)
DISTANCES = (0, 100, 101, 5_000, UNRELATED_DISTANCE, UNRELATED_DISTANCE + 1, 2 * UNRELATED_DISTANCE, 0)
VOTE = PocVote(*KEY, Verdict.INVALID, 8, (2, 3, 4, 5, 6), "mismatches", unrelated=2)
EVIDENCE = VoteEvidence(EpochNumber(0), account(1), (VoteFigures(*KEY, DISTANCES, (0,) * 8),))


def read(vote: PocVote) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the evidence says of the batch, held against a vote."""
    told = finish(read_evidence(to_bytes(EVIDENCE), bundle_of(1, vote), JUDGING))[KEY]
    return tuple(told.distances), tuple(told.tails)


def test_figures_that_say_what_the_vote_says_are_taken() -> None:
    assert read(VOTE) == (DISTANCES, (0,) * 8)


@pytest.mark.parametrize("unrelated", [0, 1, 3, 5])
def test_a_vote_that_calls_other_numbers_of_nonces_unrelated_than_its_figures_is_found(unrelated: int) -> None:
    with pytest.raises(EvidenceDiffersError, match="unrelated"):
        read(replace(VOTE, unrelated=unrelated))


def test_a_vote_on_other_nonces_than_its_figures_is_found() -> None:
    with pytest.raises(EvidenceDiffersError, match="other nonces"):
        read(replace(VOTE, mismatches=(1, 3, 4, 5, 6)))
