"""Verdicts and outcomes: majorities by weight, abstentions not counted, nobody judges itself."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.records import PocCommit
from node.protocol.validation import BatchOutcome, judge, tally
from node.protocol.verdicts import Verdict
from node.protocol.weights import batch_outcomes
from tests.builders import NODE, SOME_CID, TINY, account, bundle_of, vote_on

DISTANCE_MAX = 100
ACCOUNTS = [account(number) for number in range(1, 7)]
VERDICTS = st.dictionaries(st.sampled_from(ACCOUNTS), st.sampled_from(Verdict))
WEIGHTS = st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(0, 2**63))


def batch(number: int, count: int = 100) -> PocCommit:
    return PocCommit(EpochNumber(0), account(number), NODE, TINY, count, Hash32(bytes(32)), SOME_CID)


def test_mismatches_decide_from_the_limit_on() -> None:
    near, far = DISTANCE_MAX, DISTANCE_MAX + 1
    assert judge([far] * 2 + [near] * 62, DISTANCE_MAX, 3) is Verdict.VALID
    assert judge([far] * 3 + [near] * 61, DISTANCE_MAX, 3) is Verdict.INVALID


@given(st.integers(1, 10))
def test_a_tiny_batch_cannot_be_all_wrong_and_pass(count: int) -> None:
    assert judge([DISTANCE_MAX + 1] * count, DISTANCE_MAX, 3) is Verdict.INVALID
    assert judge([DISTANCE_MAX] * count, DISTANCE_MAX, 3) is Verdict.VALID


def test_no_evidence_is_no_verdict() -> None:
    assert judge([], DISTANCE_MAX, 3) is Verdict.ABSTAIN


@given(VERDICTS, WEIGHTS)
def test_an_outcome_needs_more_than_half_of_those_able_to_judge(votes: dict, weights: dict) -> None:
    outcome = tally(votes, weights)
    sums = {v: sum(weights.get(a, 0) for a, given in votes.items() if given is v) for v in Verdict}
    able = sums[Verdict.VALID] + sums[Verdict.INVALID]
    assert (outcome is BatchOutcome.ACCEPTED) == (2 * sums[Verdict.VALID] > able)
    assert (outcome is BatchOutcome.REJECTED) == (2 * sums[Verdict.INVALID] > able)


@given(VERDICTS, WEIGHTS)
def test_swapping_valid_and_invalid_swaps_the_outcome(votes: dict, weights: dict) -> None:
    swap = {Verdict.VALID: Verdict.INVALID, Verdict.INVALID: Verdict.VALID, Verdict.ABSTAIN: Verdict.ABSTAIN}
    mirror = {
        BatchOutcome.ACCEPTED: BatchOutcome.REJECTED,
        BatchOutcome.REJECTED: BatchOutcome.ACCEPTED,
        BatchOutcome.UNDECIDED: BatchOutcome.UNDECIDED,
    }
    assert tally({a: swap[v] for a, v in votes.items()}, weights) is mirror[tally(votes, weights)]


def test_a_tie_and_silence_decide_nothing() -> None:
    weights = {account(1): 5, account(2): 5}
    assert tally({account(1): Verdict.VALID, account(2): Verdict.INVALID}, weights) is BatchOutcome.UNDECIDED
    assert tally({account(1): Verdict.ABSTAIN}, weights) is BatchOutcome.UNDECIDED
    assert tally({account(3): Verdict.VALID}, weights) is BatchOutcome.UNDECIDED


def test_nobody_votes_for_its_own_batch() -> None:
    own = batch(1)
    bundles = {account(1): bundle_of(1, vote_on(own, Verdict.VALID))}
    outcomes = batch_outcomes({(account(1), NODE): own}, bundles, {account(1): 90, account(2): 10})
    assert outcomes == {(account(1), NODE): BatchOutcome.UNDECIDED}


def test_the_small_can_judge_the_great() -> None:
    great = batch(1)
    bundles = {
        account(1): bundle_of(1, vote_on(great, Verdict.VALID)),
        account(2): bundle_of(2, vote_on(great, Verdict.INVALID)),
    }
    outcomes = batch_outcomes({(account(1), NODE): great}, bundles, {account(1): 90, account(2): 10})
    assert outcomes == {(account(1), NODE): BatchOutcome.REJECTED}


def test_the_only_member_is_taken_at_its_word_so_that_a_network_can_begin() -> None:
    own = batch(1)
    stranger = batch(2)
    commits = {(account(1), NODE): own, (account(2), NODE): stranger}
    outcomes = batch_outcomes(commits, {}, {account(1): 1})
    assert outcomes == {(account(1), NODE): BatchOutcome.ACCEPTED, (account(2), NODE): BatchOutcome.UNDECIDED}


def test_a_batch_over_the_limit_is_rejected_whatever_the_votes() -> None:
    huge = batch(2, BATCH_NONCES_MAX + 1)
    bundles = {account(1): bundle_of(1, vote_on(huge, Verdict.VALID))}
    outcomes = batch_outcomes({(account(2), NODE): huge}, bundles, {account(1): 1, account(2): 1})
    assert outcomes == {(account(2), NODE): BatchOutcome.REJECTED}
