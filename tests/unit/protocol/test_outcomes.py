"""What becomes of batches: fakes are caught, lacking a model costs nobody anything, and colluders print no weight."""

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
from node.protocol.thin_weights import POOL_PARTS
from node.protocol.validation import SampleRule, judge
from node.protocol.verdicts import Verdict
from node.protocol.weights import NodeKey, compute_new_weights
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


# --- Models that few can judge ---------------------------------------------------------------------------------------

HONEST = dict.fromkeys(range(1, 9), 10)
"""Eight who share a model; 11 and 12 have one of their own."""


def of(*numbers: int) -> dict[Address, int]:
    """These have a model, each with all the weight it has."""
    return {account(number): 10 for number in numbers}


def with_colluders(count: int, *, is_first: bool = False) -> dict[Address, int]:
    """Weights after an epoch in which two vouch for `count` nonces each of a model that nobody else has."""
    honest = [batch(number, 100) for number in HONEST]
    fakes = [batch(number, count, model_id=RARE) for number in (11, 12)]
    votes = {number: [vote(commit) for commit in honest if commit.participant != account(number)] for number in HONEST}
    votes |= {11: [vote(fakes[1])], 12: [vote(fakes[0])]}
    proven = {TINY: of(*HONEST), RARE: of(11, 12)}
    judges = Judges(declared=proven, is_first=True) if is_first else Judges(proven)
    found = decide([*honest, *fakes], votes, {**HONEST, 11: 10, 12: 10}, judges=judges)
    weights = compute_new_weights(found.nodes)
    return {participant: weight for (participant, _), weight in weights.items()}


@given(st.integers(1, BATCH_NONCES_MAX))
def test_two_who_collude_get_a_tenth_of_the_weight_at_most(count: int) -> None:
    weights = with_colluders(count)
    both = weights.get(account(11), 0) + weights.get(account(12), 0)
    assert 10 * both <= sum(weights.values())
    assert all(weights[account(number)] == 100 for number in HONEST)


def test_below_the_tenth_work_that_few_can_judge_counts_in_full() -> None:
    assert with_colluders(40)[account(11)] == 40


def test_cut_weight_has_a_reason() -> None:
    fakes = [batch(number, 10**6, model_id=RARE) for number in (1, 2)]
    votes = {1: [vote(fakes[1])], 2: [vote(fakes[0])]}
    found = decide(fakes, votes, {1: 10, 2: 10, 3: 100})
    assert [(outcome.fate, outcome.reason) for outcome in found.nodes] == [(NodeFate.ACCEPTED, codes.FEW_JUDGES)] * 2
    # Nothing is widely judged: they keep what they had, and grow by no more than a ninth of it.
    assert sum(outcome.weight for outcome in found.nodes) <= 20 + 20 // POOL_PARTS


def test_who_mines_a_model_alone_is_neither_paid_nor_blamed_honest_or_not_however_long() -> None:
    """Nobody can tell the two apart. The remedy is one other member with the model, as the next test has it."""
    commit = batch(1, model_id=RARE)
    histories: tuple[SampleHistory, ...] = ()
    for _ in range(20):
        found = decide([commit], {2: [], 3: []}, {1: 10, 2: 10, 3: 100}, histories=histories)
        outcome = only(found)
        assert (outcome.fate, outcome.weight, outcome.reason) == (NodeFate.UNDECIDED, 0, codes.NOBODY_ABLE)
        histories = found.histories
    assert histories == ()


def test_one_other_member_with_the_model_is_enough_to_be_paid_from_that_epoch_on() -> None:
    """In part: two could vouch for each other. A third of the others' weight is enough for all of it."""
    honest = [batch(number, 100) for number in HONEST]
    lone = batch(11, 100, model_id=RARE)
    votes = {number: [vote(commit) for commit in honest if commit.participant != account(number)] for number in HONEST}

    def of_lone(able: tuple[int, ...], mismatches: int = 0) -> NodeOutcome:
        said = {number: [*votes[number], *([vote(lone, mismatches)] if number in able else [])] for number in HONEST}
        judges = Judges({TINY: of(*HONEST), RARE: of(*able)})
        found = decide([*honest, lone], said, {**HONEST, 11: 0}, judges=judges)
        return next(outcome for outcome in found.nodes if outcome.participant == account(11))

    assert of_lone(()).weight == 0
    alone = of_lone((1,))
    assert (alone.fate, alone.weight, alone.reason) == (
        NodeFate.ACCEPTED,
        800 // POOL_PARTS,
        codes.FEW_JUDGES,
    )
    assert of_lone((1, 2, 3)).weight == 100
    assert of_lone((1, 2), mismatches=drawn_all(lone)).fate is NodeFate.REJECTED
    doubted = of_lone((1,), mismatches=drawn_all(lone))
    assert (doubted.fate, doubted.reason) == (NodeFate.UNDECIDED, codes.TOO_FEW_AGAINST)


def drawn_all(commit: PocCommit) -> int:
    return min(commit.count, RULE.sample_size)


# --- Who is able to judge is what the group has frozen ----------------------------------------------------------------


def absent(commit: PocCommit, reason: str = "no-data") -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.ABSTAIN, 0, (), reason)


LIES = [vote(batch(1, model_id=RARE), 600), refusal(batch(1, model_id=RARE), "wrong-size")]


@pytest.mark.parametrize("lie", LIES, ids=["differs", "refused"])
def test_who_lacks_the_model_rejects_nothing_however_heavy_it_is(lie: PocVote) -> None:
    """One with 20 of 100 slanders a model of which two have 9 and 10; all others honestly say that they lack it."""
    weights = {1: 10, 2: 9, 3: 20, 4: 31, 5: 30}
    judges = Judges({RARE: {account(1): 10, account(2): 9}})
    without = absent(batch(1, model_id=RARE), "no-model")
    votes = {2: [vote(batch(1, model_id=RARE))], 3: [lie], 4: [without], 5: [without]}
    outcome = only(decide([batch(1, model_id=RARE)], votes, weights, judges=judges))
    assert (outcome.fate, outcome.mismatches, outcome.weight) == (NodeFate.ACCEPTED, 0, 11)  # a thin pool's share


def test_a_judge_weighs_what_it_proved_with_the_model_and_not_what_it_has_otherwise() -> None:
    weights = {1: 10, 2: 30, 3: 500, 4: 500}
    judges = Judges({TINY: {account(1): 10, account(2): 30, account(3): 1, account(4): 1}})
    lie = [vote(batch(1), 600)]
    outcome = only(decide([batch(1)], {2: [vote(batch(1))], 3: lie, 4: lie}, weights, judges=judges))
    assert (outcome.fate, outcome.mismatches) == (NodeFate.ACCEPTED, 0)


@pytest.mark.parametrize("lie", LIES, ids=["differs", "refused"])
@pytest.mark.parametrize("liars", [(2,), (2, 3)], ids=["one", "two of little weight"])
def test_one_judge_or_a_handful_rejects_nothing(lie: PocVote, liars: tuple[int, ...]) -> None:
    votes = {liar: [lie] for liar in liars}
    outcome = only(decide([batch(1, model_id=RARE)], votes, {1: 10, 2: 16, 3: 16, 4: 68}))
    assert (outcome.fate, outcome.reason) == (NodeFate.UNDECIDED, codes.TOO_FEW_AGAINST)
    assert not is_batch_of_fakes(outcome)
    with_a_third = {liar: [lie] for liar in (2, 3)}
    outcome = only(decide([batch(1, model_id=RARE)], with_a_third, {1: 10, 2: 17, 3: 17, 4: 66}))
    assert outcome.fate is NodeFate.REJECTED


def test_who_only_says_that_it_has_a_model_has_batches_paid_and_never_rejected() -> None:
    """So two members of which one missed an epoch are not each other's judge by turns for ever."""
    judges = Judges({RARE: {account(1): 10}}, {RARE: of(1, 2, 3)})
    weights = {1: 10, 2: 10, 3: 10}
    commit = batch(1, model_id=RARE)
    paid = only(decide([commit], {2: [vote(commit)], 3: [vote(commit)]}, weights, judges=judges))
    assert (paid.fate, paid.weight) == (NodeFate.ACCEPTED, COUNT)
    lied = only(decide([commit], {2: [vote(commit, 600)], 3: [vote(commit, 600)]}, weights, judges=judges))
    assert (lied.fate, lied.reason) == (NodeFate.UNDECIDED, codes.TOO_FEW_AGAINST)
    other = batch(2, model_id=RARE)  # of which the first is the only judge that proved anything
    votes = {1: [vote(other)], 3: [vote(other, 600)]}
    assert only(decide([other], votes, weights, judges=judges)).mismatches == 0


def test_what_one_judge_alone_says_is_not_remembered() -> None:
    alone = decide([batch(1)], {2: [vote(batch(1), 4)]}, {1: 1, 2: 1, 3: 1})
    assert (only(alone).fate, only(alone).mismatches, alone.histories) == (NodeFate.ACCEPTED, 4, ())
    both = decide([batch(1)], {2: [vote(batch(1), 4)], 3: [vote(batch(1), 4)]}, {1: 1, 2: 1, 3: 1})
    assert [count.mismatches for history in both.histories for count in history.epochs] == [4]


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


def test_who_proved_most_of_a_small_model_convicts_nobody_against_the_weight_of_the_group() -> None:
    """Two with 1 % of all weight, and most of what was proven with this model, against ten who are right."""
    lying = {n: [vote(batch(1), 600)] for n in (11, 12)}
    honest = {n: [vote(batch(1))] for n in range(2, 11)}
    weights = {**dict.fromkeys(range(1, 11), 1000), 11: 50, 12: 50}
    bench = {account(n): 8 if n < 11 else 50 for n in weights}
    outcome = only(decide([batch(1)], {**honest, **lying}, weights, judges=Judges({TINY: bench})))
    assert (outcome.fate, outcome.reason, outcome.weight) == (NodeFate.ACCEPTED, "", COUNT)
    few = {
        n: [vote(batch(1), 600, unrelated=600)] for n in (2, 3)
    }  # honest judges of fakes whom a third of the others are not
    outcome = only(decide([batch(1)], few, weights, judges=Judges({TINY: {account(n): 8 for n in (1, 2, 3)}})))
    assert (outcome.fate, outcome.reason) == (NodeFate.REJECTED, codes.NARROWLY)
    assert not is_batch_of_fakes(outcome)
    wide = {n: [vote(batch(1), 600, unrelated=600)] for n in range(2, 11)}
    outcome = only(decide([batch(1)], wide, weights))
    assert (outcome.fate, outcome.reason) == (NodeFate.REJECTED, codes.MISMATCHES)
    assert is_batch_of_fakes(outcome)


def bench_of(proven: Mapping[int, int], declared: tuple[int, ...] = ()) -> Judges:
    """Who proved how much of RARE, and who only says that it has it."""
    return Judges({RARE: {account(n): w for n, w in proven.items()}}, {RARE: of(*declared)})


def test_the_only_host_of_a_model_is_not_slashed_by_a_cartel_below_a_third_of_all_the_weight() -> None:
    """Not of the others': of the weight but that of a heavy member they would need less."""
    commit = batch(1, model_id=RARE)
    lies = {2: [vote(commit, 600)], 3: [vote(commit, 600)]}
    weights = {1: 10, 2: 15, 3: 15, 4: 20, 5: 20, 6: 20}
    outcome = only(decide([commit], lies, weights, judges=bench_of({1: 1_000_000, 2: 1, 3: 1})))
    assert (outcome.reason, is_batch_of_fakes(outcome)) == (codes.NARROWLY, False)


def test_honest_votes_that_are_late_make_nobody_a_fraud() -> None:
    """A cartel with 30 % asks first and does not hand on: 31 % get no file, and 29 % find it valid."""
    weights = {1: 10, 2: 15, 3: 15, 4: 15, 5: 14, 6: 16, 7: 15}
    lie, late = [vote(batch(1), 600)], [absent(batch(1))]
    votes = {2: lie, 3: lie, 4: [vote(batch(1))], 5: [vote(batch(1))], 6: late, 7: late}
    assert not is_batch_of_fakes(only(decide([batch(1)], votes, weights)))


def test_who_came_first_to_a_model_does_not_keep_all_others_out() -> None:
    """Two with 2 of 102 vouched for each other's fakes of a new model, an epoch before all others had it."""
    weights = {1: 20, 2: 20, 3: 20, 4: 20, 5: 20, 6: 1, 7: 1}
    batches = {n: batch(n, model_id=RARE) for n in weights}
    votes = {n: [vote(batches[m], 600 * ((n > 5) is not (m > 5))) for m in weights if m != n] for n in weights}
    found = decide(list(batches.values()), votes, weights, judges=bench_of({6: 1, 7: 1}, tuple(weights)))
    earned = {outcome.participant: (outcome.fate, outcome.weight) for outcome in found.nodes}
    assert all(earned[account(n)] == (NodeFate.ACCEPTED, COUNT) for n in range(1, 6))
    assert all(earned[account(n)][1] <= 1 + 5 * COUNT // POOL_PARTS for n in (6, 7))


def test_who_came_first_and_says_nothing_does_not_keep_others_out_either() -> None:
    commit = batch(1, model_id=RARE)
    weights = {1: 20, 2: 20, 3: 80, 6: 1}
    found = only(decide([commit], {2: [vote(commit)]}, weights, judges=bench_of({6: 1}, (1, 2, 6))))
    assert (found.fate, found.reason) == (NodeFate.ACCEPTED, codes.FEW_JUDGES)
    doubted = only(decide([commit], {2: [vote(commit)], 6: [absent(commit)]}, weights, judges=bench_of({6: 1}, (1, 2))))
    assert (doubted.fate, doubted.reason) == (NodeFate.UNDECIDED, codes.FILE_WITHHELD)


def test_who_moves_to_a_model_together_with_many_is_paid_in_full() -> None:
    weights = {**dict.fromkeys(range(1, 11), 5000), 11: 500}
    movers = range(6, 12)
    batches = {n: batch(n, weights[n], model_id=TINY if n < 6 else RARE) for n in weights}
    votes = {n: [vote(batches[m]) for m in weights if m != n and (n in movers) is (m in movers)] for n in weights}
    judges = Judges({TINY: {account(n): 5000 for n in range(1, 11)}, RARE: {account(11): 500}})
    found = decide(list(batches.values()), votes, weights, judges=judges)
    assert {outcome.participant: outcome.weight for outcome in found.nodes} == {
        account(n): weight for n, weight in weights.items()
    }


def test_a_heavy_member_whose_link_is_down_and_a_liar_keep_nobody_from_being_paid() -> None:
    weights = {1: 5100, 2: 2450, 3: 2449, 4: 1}
    votes = {1: [absent(batch(2))], 3: [vote(batch(2))], 4: [absent(batch(2))]}
    assert only(decide([batch(2)], votes, weights)).fate is NodeFate.ACCEPTED


@pytest.mark.parametrize("epochs", [8])
def test_who_lacks_a_model_makes_up_nothing_that_differs_and_hides_nothing(epochs: int) -> None:
    """Five with RARE, and one with 29 % and without it, whose votes make their batches widely judged."""
    weights = {1: 5, 2: 5, 3: 5, 4: 5, 5: 5, 6: 29, 7: 46}
    bench = bench_of(dict.fromkeys(range(1, 6), 5))
    commit = batch(1, model_id=RARE)
    honest = {n: [vote(commit)] for n in range(2, 6)}
    histories: tuple[SampleHistory, ...] = ()
    for _ in range(epochs):
        made_up = {**honest, 6: [vote(commit, 4)]}
        found = decide([commit], made_up, weights, judges=bench, histories=histories)
        assert (only(found).fate, only(found).mismatches, only(found).weight) == (NodeFate.ACCEPTED, 0, COUNT)
        histories = found.histories
    faking = {n: [vote(commit, 4)] for n in range(2, 6)} | {6: [vote(commit)]}
    found = decide([commit], faking, weights, judges=bench)
    assert (only(found).mismatches, [count.mismatches for h in found.histories for count in h.epochs]) == (4, [4])


def test_what_the_group_accepts_against_those_able_is_in_no_history() -> None:
    """And only those nonces differ of which both say so."""
    commit = batch(1)
    weights = {1: 10, 2: 10, 3: 10, 4: 70}
    votes = {2: [vote(commit, 600)], 3: [vote(commit, 600)], 4: [vote(commit, 2)]}
    judges = Judges({TINY: {account(1): 10, account(2): 10, account(3): 10}})
    found = decide([commit], votes, weights, judges=judges)
    assert (only(found).fate, only(found).mismatches, found.histories) == (NodeFate.ACCEPTED, 2, ())


def test_first_comers_with_dust_reject_nobody_whom_more_of_the_group_find_right() -> None:
    """Five with a quarter of all weight begin with a model that two with one nonce each had before them."""
    weights = {**dict.fromkeys(range(1, 6), 5), 6: 1, 7: 1, 8: 73}
    commit = batch(1, model_id=RARE)
    votes = {n: [vote(commit)] for n in range(2, 6)} | {n: [vote(commit, 600)] for n in (6, 7)}
    outcome = only(decide([commit], votes, weights, judges=bench_of({6: 1, 7: 1}, (1, 2, 3, 4, 5))))
    assert (outcome.fate, outcome.reason) == (NodeFate.UNDECIDED, codes.TOO_FEW_AGAINST)


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


def test_founders_are_taken_at_their_word_in_the_first_epoch() -> None:
    assert with_colluders(5000, is_first=True)[account(11)] == 5000


def test_a_model_that_a_third_of_the_others_found_valid_counts_in_full() -> None:
    commit = batch(1, model_id=RARE)
    outcome = only(decide([commit], {2: [vote(commit)]}, {1: 10, 2: 10, 3: 20}))
    assert (outcome.weight, outcome.reason) == (COUNT, "")


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
