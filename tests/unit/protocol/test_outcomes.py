"""What becomes of batches: fakes are caught, what differs costs, and a file that only a friend gets is not paid for."""

import functools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import outcomes as codes
from node.protocol.findings import NodeFate, NodeOutcome, SampleCount, SampleHistory, ThinWeight
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX, draw_sample
from node.protocol.outcomes import PocFindings, node_outcomes
from node.protocol.penalties import is_batch_of_fakes
from node.protocol.records import PocCommit, PocVote
from node.protocol.validation import SampleRule, judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey
from tests.builders import NODE, SAMPLE_SEED, SOME_CID, TINY, account, bundle_of

RULE = SampleRule(distance_max=100, mismatch_per_million=1000, reject_mismatches=3, sample_size=600)
EPOCH = EpochNumber(4)
RARE = ModelId("rare")
COUNT = 5000


def batch(number: int, count: int = COUNT, *, model_id: ModelId = TINY, node_id: NodeId = NODE) -> PocCommit:
    root = Hash32(f"{number}/{node_id}".encode().ljust(32))
    return PocCommit(EPOCH, account(number), node_id, model_id, count, root, SOME_CID)


@functools.cache
def drawn_of(commit: PocCommit) -> tuple[int, ...]:
    return draw_sample(SAMPLE_SEED, commit.participant, commit.node_id, commit.count, RULE.sample_size)


def vote(commit: PocCommit, mismatches: int = 0, *, first: int = 0, unrelated: int = 0) -> PocVote:
    drawn = drawn_of(commit)
    verdict = judge(len(drawn), mismatches, RULE)
    reason = "" if verdict is Verdict.VALID else "mismatches"
    wrong = drawn[first : first + mismatches]
    return PocVote(commit.participant, commit.node_id, verdict, len(drawn), wrong, reason, unrelated)


def refusal(commit: PocCommit, reason: str = "root-mismatch") -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.INVALID, 0, (), reason)


def absent(commit: PocCommit, reason: str = "no-data") -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.ABSTAIN, 0, (), reason)


def decide(
    batches: list[PocCommit],
    votes: Mapping[int, list[PocVote]],
    weights: Mapping[int, int],
    *,
    histories: tuple[SampleHistory, ...] = (),
    judges: Judges | None = None,
    preserved: Mapping[tuple[Address, ModelId], int] | None = None,
    thin_weights: tuple[ThinWeight, ...] = (),
) -> PocFindings:
    """Decide; by default every member has proven its weight with each of the models."""
    members = {account(number): weight for number, weight in weights.items()}
    commits = {(commit.participant, commit.node_id): commit for commit in batches}
    return node_outcomes(
        EPOCH,
        commits,
        {account(voter): bundle_of(voter, *given, epoch=EPOCH) for voter, given in votes.items()},
        members,
        dict.fromkeys(commits, RULE),
        Judges({commit.model_id: members for commit in batches}) if judges is None else judges,
        histories,
        preserved,
        thin_weights,
    )


def only(found: PocFindings) -> NodeOutcome:
    (outcome,) = found.nodes
    return outcome


def test_a_batch_that_others_find_valid_counts_with_every_nonce() -> None:
    outcome = only(decide([batch(1)], {2: [vote(batch(1))], 3: [vote(batch(1), 2)]}, {1: 1, 2: 1, 3: 1}))
    assert (outcome.fate, outcome.weight, outcome.sampled, outcome.mismatches) == (NodeFate.ACCEPTED, COUNT, 600, 0)


def test_a_nonce_differs_where_most_of_the_weight_that_recomputed_it_says_so() -> None:
    wrong = vote(batch(1), 40)
    outcome = only(decide([batch(1)], {2: [wrong], 3: [wrong], 4: [vote(batch(1))]}, {1: 1, 2: 2, 3: 2, 4: 3}))
    assert (outcome.fate, outcome.mismatches, outcome.reason) == (NodeFate.REJECTED, 40, codes.MISMATCHES)


@given(st.integers(1, BATCH_NONCES_MAX), st.integers(1, 600), st.integers(0, 600))
def test_what_differs_in_an_accepted_sample_takes_twice_its_share_off(count: int, sampled: int, differing: int) -> None:
    sampled = min(sampled, count)
    differing = min(differing, sampled)
    weight = codes.weight_of(count, sampled, differing)
    exact = count - 2 * count * differing / sampled
    assert 0 <= weight <= count
    assert weight <= max(0, exact) <= weight + 1


def test_an_accepted_batch_weighs_less_for_what_differs_and_says_so() -> None:
    wrong = vote(batch(1), 2)
    outcome = only(decide([batch(1)], {2: [wrong], 3: [wrong]}, {1: 1, 2: 1, 3: 1}))
    assert (outcome.fate, outcome.mismatches, outcome.reason) == (NodeFate.ACCEPTED, 2, codes.DIFFERING)
    assert outcome.weight == COUNT - -(-2 * COUNT * 2 // 600)


@given(st.integers(1, 200))
def test_each_made_up_nonce_of_a_batch_that_is_drawn_as_a_whole_costs_one(fakes: int) -> None:
    """Of a part of a batch that is drawn by lot it does so on average."""
    assert codes.weight_of(600, 600, fakes) == 600 - 2 * fakes


def test_slanders_about_different_nonces_do_not_add_up() -> None:
    commit = batch(1)
    votes = {voter: [vote(commit, 100, first=100 * voter)] for voter in (2, 3, 4)}
    outcome = only(decide([commit], votes, {1: 1, 2: 1, 3: 1, 4: 1}))
    assert (outcome.fate, outcome.mismatches) == (NodeFate.ACCEPTED, 0)


def test_those_who_lack_the_model_say_nothing_against_it() -> None:
    absent = PocVote(account(1), NODE, Verdict.ABSTAIN, 0, (), "no-model")
    outcome = only(decide([batch(1)], {2: [vote(batch(1))], 3: [absent]}, {1: 1, 2: 40, 3: 60}))
    assert outcome.fate is NodeFate.ACCEPTED


@pytest.mark.parametrize(
    "cartel", [[], [vote(batch(1), 600)], [refusal(batch(1))]], ids=["withholds", "lies", "refuses"]
)
def test_a_cartel_of_a_third_changes_nothing_for_an_honest_batch(cartel: list[PocVote]) -> None:
    honest = {voter: [vote(batch(1))] for voter in (2, 3, 4, 5, 6)}
    weights = {1: 10, 2: 10, 3: 10, 4: 10, 5: 10, 6: 17, 7: 33}
    outcome = only(decide([batch(1)], {**honest, 7: cartel}, weights))
    assert (outcome.fate, outcome.weight) == (NodeFate.ACCEPTED, COUNT)


def test_a_cartel_of_a_third_cannot_save_its_own_fakes() -> None:
    honest = {voter: [vote(batch(1), 60)] for voter in (2, 3)}
    outcome = only(decide([batch(1)], {**honest, 4: [vote(batch(1))]}, {1: 3, 2: 33, 3: 34, 4: 30}))
    assert outcome.fate is NodeFate.REJECTED


def test_halves_that_contradict_each_other_decide_nothing() -> None:
    found = decide([batch(1)], {2: [vote(batch(1))], 3: [vote(batch(1), 60)]}, {1: 1, 2: 5, 3: 5})
    assert (only(found).fate, only(found).reason) == (NodeFate.UNDECIDED, codes.SPLIT)


def test_a_file_that_most_refuse_is_rejected_for_their_reason() -> None:
    votes = {2: [refusal(batch(1))], 3: [refusal(batch(1), "wrong-size")], 4: [vote(batch(1))]}
    outcome = only(decide([batch(1)], votes, {1: 1, 2: 3, 3: 2, 4: 4}))
    assert (outcome.fate, outcome.reason, outcome.sampled) == (NodeFate.REJECTED, "root-mismatch", 0)


def test_nobody_votes_for_its_own_batch() -> None:
    """But for who signs results without anybody, and needs none."""
    for own in (10, 50, 66):
        found = decide([batch(1)], {1: [vote(batch(1))]}, {1: own, 2: 99 - own})
        assert (only(found).fate, only(found).reason) == (NodeFate.UNDECIDED, codes.NOBODY_ABLE)
    assert only(decide([batch(1)], {1: [vote(batch(1))]}, {1: 67, 2: 32})).fate is NodeFate.ACCEPTED


def test_votes_of_outsiders_and_on_batches_that_do_not_exist_count_for_nothing() -> None:
    found = decide([batch(1)], {3: [vote(batch(1))], 2: [vote(batch(8))]}, {1: 5, 2: 5})
    assert (len(found.nodes), only(found).fate) == (1, NodeFate.UNDECIDED)


def test_the_small_can_judge_the_great_if_they_are_a_third() -> None:
    """Fewer could be a cartel, and who is most is not."""
    wrong = [vote(batch(1), 60)]
    for great, other in ((34, 33), (60, 20)):
        found = decide([batch(1)], {1: [vote(batch(1))], 2: wrong, 3: wrong}, {1: great, 2: other, 3: other})
        assert only(found).fate is NodeFate.REJECTED
    found = decide([batch(1)], {1: [vote(batch(1))], 2: wrong, 3: wrong}, {1: 90, 2: 5, 3: 5})
    assert only(found).fate is NodeFate.ACCEPTED


def test_the_only_member_is_taken_at_its_word_so_that_a_network_can_begin() -> None:
    found = decide([batch(1), batch(2)], {}, {1: 1}, judges=Judges(is_first=True))
    assert {outcome.participant: outcome.fate for outcome in found.nodes} == {
        account(1): NodeFate.ACCEPTED,
        account(2): NodeFate.UNDECIDED,
    }


def test_a_batch_over_the_limit_is_rejected_whatever_the_votes() -> None:
    huge = batch(2, BATCH_NONCES_MAX + 1)
    outcome = only(decide([huge], {1: [vote(huge)]}, {1: 1, 2: 1}))
    assert (outcome.fate, outcome.reason) == (NodeFate.REJECTED, codes.TOO_MANY)


def test_a_batch_of_nothing_earns_nothing() -> None:
    assert only(decide([batch(2, 0)], {}, {1: 1, 2: 1})).reason == codes.EMPTY


def test_a_model_that_was_not_registered_when_mining_began_is_not_judged() -> None:
    commits = {(account(1), NODE): batch(1)}
    found = node_outcomes(EPOCH, commits, {}, {account(1): 1}, {}, Judges(is_first=True), ())
    assert (only(found).fate, only(found).reason) == (NodeFate.UNDECIDED, codes.UNREGISTERED)


def test_a_sample_too_small_for_proof_is_rejected_without_being_called_a_fraud() -> None:
    tiny = batch(1, 2)
    wrong = [vote(tiny, 2)]
    assert only(decide([tiny], {2: wrong, 3: wrong}, {1: 1, 2: 1, 3: 1})).reason == codes.TOO_SMALL


def test_the_copy_of_a_batch_is_named_one_and_the_original_is_paid() -> None:
    copy = replace(batch(2), root=batch(1).root)
    votes = [vote(batch(1)), vote(copy, 600)]
    found = decide([batch(1), copy], {3: votes, 4: votes}, {1: 1, 2: 1, 3: 1, 4: 1})
    fates = {outcome.participant: (outcome.fate, outcome.reason) for outcome in found.nodes}
    assert fates == {account(1): (NodeFate.ACCEPTED, ""), account(2): (NodeFate.REJECTED, codes.COPIED)}


def test_one_in_a_hundred_made_up_is_beyond_chance_over_three_epochs() -> None:
    counts = (SampleCount(EpochNumber(2), 600, 5, 1000), SampleCount(EpochNumber(3), 600, 6, 1000))
    history = SampleHistory(account(1), TINY, counts)
    votes, weights = {2: [vote(batch(1), 4)], 3: [vote(batch(1), 4)]}, {1: 1, 2: 1, 3: 1}
    before = decide([batch(1)], votes, weights)
    assert only(before).fate is NodeFate.ACCEPTED
    found = decide([batch(1)], votes, weights, histories=(history,))
    assert (only(found).fate, only(found).reason, only(found).weight) == (NodeFate.REJECTED, codes.CUMULATED, 0)
    assert found.histories == ()  # evidence is spent once


def test_a_new_name_for_a_node_is_no_new_beginning() -> None:
    counts = (SampleCount(EpochNumber(3), 1200, 9, 1000),)
    renamed = batch(1, node_id=NodeId("renamed"))
    histories = (SampleHistory(account(1), TINY, counts),)
    votes = {2: [vote(renamed, 5)], 3: [vote(renamed, 5)]}
    found = decide([renamed], votes, {1: 1, 2: 1, 3: 1}, histories=histories)
    assert only(found).reason == codes.CUMULATED


def test_several_nodes_that_each_stay_below_the_line_are_seen_together() -> None:
    nodes = [batch(1, node_id=NodeId(f"n{index}")) for index in range(4)]
    votes = [vote(node, 5) for node in nodes]
    found = decide(nodes, {2: votes, 3: votes}, {1: 1, 2: 1, 3: 1})
    assert {outcome.reason for outcome in found.nodes} == {codes.CUMULATED}


def test_a_history_outlives_a_pause_and_ends_after_thirty_epochs() -> None:
    def kept(epoch: int) -> bool:
        histories = (SampleHistory(account(5), TINY, (SampleCount(EpochNumber(epoch), 600, 3, 1000),)),)
        return bool(
            [h for h in decide([], {}, {1: 1, 2: 1}, histories=histories).histories if h.participant == account(5)]
        )

    assert kept(EPOCH - 1)
    counts = tuple(SampleCount(EpochNumber(epoch), 600, 3, 1000) for epoch in (9, 10, 11))

    def later(epoch: int) -> int:
        known = (SampleHistory(account(5), TINY, counts),)
        found = node_outcomes(EpochNumber(epoch), {}, {}, {}, {}, Judges(), known)
        return sum(count.sampled for history in found.histories for count in history.epochs)

    assert [later(epoch) for epoch in (12, 21, 38, 39, 48, 49)] == [1800, 1800, 1800, 1200, 1200, 0]  # in blocks of ten


def test_what_a_rejection_was_based_on_is_not_counted_again() -> None:
    old = SampleHistory(account(1), TINY, (SampleCount(EpochNumber(3), 600, 1, 1000),))
    wrong = [vote(batch(1), 60)]
    found = decide([batch(1)], {2: wrong, 3: wrong}, {1: 1, 2: 1, 3: 1}, histories=(old,))
    assert only(found).fate is NodeFate.REJECTED
    assert found.histories == (old,)


# --- Files that only a friend gets ------------------------------------------------------------------------------------


def test_fakes_of_a_common_model_whose_file_only_a_friend_gets_are_not_paid() -> None:
    weights = {**dict.fromkeys(range(1, 11), 10), 11: 1, 12: 1}
    fakes = [batch(number, BATCH_NONCES_MAX) for number in (11, 12)]
    votes = {number: [absent(commit) for commit in fakes] for number in range(1, 11)}
    votes |= {11: [vote(fakes[1])], 12: [vote(fakes[0])]}
    found = decide(fakes, votes, weights)
    assert {(node.fate, node.reason, node.weight) for node in found.nodes} == {
        (NodeFate.UNDECIDED, codes.FILE_WITHHELD, 0)
    }
    assert found.handed_out == frozenset()


def test_who_hands_its_fakes_to_a_friend_and_to_just_as_many_others_is_not_paid_either() -> None:
    """A friend with 34 of 100 outweighs the 33 who find it wrong, and the 33 who got nothing, but not both."""
    votes = {2: [vote(batch(1))], 3: [vote(batch(1), 600)], 4: [absent(batch(1))]}
    outcome = only(decide([batch(1)], votes, {1: 1, 2: 34, 3: 33, 4: 33}))
    assert (outcome.fate, outcome.reason) == (NodeFate.UNDECIDED, codes.FILE_WITHHELD)


@given(st.integers(0, 49))
def test_those_who_say_that_they_got_no_file_keep_nobody_from_being_paid_whom_most_found_valid(liars: int) -> None:
    votes = {2: [vote(batch(1))], 3: [absent(batch(1))]}
    outcome = only(decide([batch(1)], votes, {1: 10, 2: 100 - liars, 3: liars}))
    assert (outcome.fate, outcome.weight) == (NodeFate.ACCEPTED, COUNT)


@pytest.mark.parametrize(("liar", "other"), [(34, 33), (90, 1)])
def test_one_member_that_got_no_file_keeps_nobody_from_being_paid(liar: int, other: int) -> None:
    """Of a network of three: its own link may be down, and the heaviest would be alone in the next group."""
    outcome = only(decide([batch(1)], {2: [absent(batch(1))], 3: [vote(batch(1))]}, {1: 33, 2: liar, 3: other}))
    assert (outcome.fate, outcome.reason) != (NodeFate.UNDECIDED, codes.FILE_WITHHELD)


def test_honest_votes_that_are_late_make_nobody_a_fraud() -> None:
    """A cartel with 30 % asks first and does not hand on: 31 % get no file, and 29 % find it valid."""
    weights = {1: 10, 2: 15, 3: 15, 4: 15, 5: 14, 6: 16, 7: 15}
    lie, late = [vote(batch(1), 600)], [absent(batch(1))]
    votes = {2: lie, 3: lie, 4: [vote(batch(1))], 5: [vote(batch(1))], 6: late, 7: late}
    assert not is_batch_of_fakes(only(decide([batch(1)], votes, weights)))


def test_a_heavy_member_whose_link_is_down_and_a_liar_keep_nobody_from_being_paid() -> None:
    weights = {1: 5100, 2: 2450, 3: 2449, 4: 1}
    votes = {1: [absent(batch(2))], 3: [vote(batch(2))], 4: [absent(batch(2))]}
    assert only(decide([batch(2)], votes, weights)).fate is NodeFate.ACCEPTED


def test_a_batch_that_only_the_owner_s_band_rejects_is_no_fraud() -> None:
    weights = dict.fromkeys(range(1, 6), 10)
    outcome = only(decide([batch(1)], {n: [vote(batch(1), 600)] for n in range(2, 6)}, weights))
    assert (outcome.fate, outcome.mismatches, outcome.unrelated) == (NodeFate.REJECTED, 600, 0)
    assert not is_batch_of_fakes(outcome)


@given(st.integers(0, 600), st.integers(0, 600), st.integers(1, 100))
def test_how_many_are_unrelated_less_than_half_of_the_weight_cannot_shift(honest: int, lie: int, others: int) -> None:
    """The middle by weight: a slanderer below half makes no fraud of a rejection, and a friend takes none away."""
    votes = {2: [vote(batch(1), 600, unrelated=honest)], 3: [vote(batch(1), 600, unrelated=lie)]}
    outcome = only(decide([batch(1)], votes, {1: 1, 2: others + 1, 3: others}))
    assert (outcome.fate, outcome.unrelated) == (NodeFate.REJECTED, honest)


def test_an_accepted_batch_says_of_nothing_that_it_is_unrelated() -> None:
    outcome = only(decide([batch(1)], {n: [vote(batch(1), 2, unrelated=2)] for n in (2, 3)}, {1: 1, 2: 1, 3: 1}))
    assert (outcome.fate, outcome.mismatches, outcome.unrelated) == (NodeFate.ACCEPTED, 2, 0)


def test_a_file_that_nobody_gets_is_called_withheld() -> None:
    found = decide([batch(1)], {2: [absent(batch(1))], 3: []}, {1: 1, 2: 1, 3: 1})
    assert (only(found).fate, only(found).reason) == (NodeFate.UNDECIDED, codes.FILE_WITHHELD)


def test_a_file_is_handed_out_once_most_of_those_able_have_seen_it() -> None:
    refused = {2: [refusal(batch(1))], 3: [vote(batch(1))], 4: [absent(batch(1))]}
    assert decide([batch(1)], refused, {1: 5, 2: 2, 3: 3, 4: 4}).handed_out
    assert not decide([batch(1)], refused, {1: 5, 2: 2, 3: 2, 4: 4}).handed_out


@given(st.integers(0, 600), st.integers(0, 600))
def test_more_mismatches_never_earn_more(one: int, other: int) -> None:
    few, many = sorted((one, other))
    earned = [only(decide([batch(1)], {2: [vote(batch(1), n)]}, {1: 1, 2: 1})).weight for n in (few, many)]
    assert earned[0] >= earned[1]


@given(st.permutations(range(1, 7)))
def test_the_order_in_which_bundles_arrive_changes_nothing(order: list[int]) -> None:
    batches = [batch(number) for number in range(1, 7)]
    votes = {n: [vote(b, (b.count * n) % 9) for b in batches if b.participant != account(n)] for n in order}
    again = {n: votes[n] for n in sorted(votes)}
    weights = {n: n for n in order}
    assert decide(batches, votes, weights) == decide(list(reversed(batches)), again, weights)


def keys_of(found: PocFindings) -> list[NodeKey]:
    return [(outcome.participant, outcome.node_id) for outcome in found.nodes]


def test_outcomes_ascend_by_participant_and_node() -> None:
    found = decide([batch(n, node_id=NodeId(name)) for n in (3, 1, 2) for name in ("b", "a")], {}, {9: 1, 8: 1})
    assert keys_of(found) == sorted(keys_of(found), key=lambda key: (key[0].lower(), key[1]))
