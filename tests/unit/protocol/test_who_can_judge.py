"""Who can judge a batch is who proved its model: what few can judge counts in part, and they convict nobody."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import outcomes as codes
from node.protocol.findings import NodeFate, NodeOutcome, SampleHistory
from node.protocol.identifiers import Address
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.penalties import is_batch_of_fakes
from node.protocol.records import PocCommit, PocVote
from node.protocol.thin_weights import POOL_PARTS
from node.protocol.weights import compute_new_weights
from tests.builders import TINY, account
from tests.unit.protocol.test_outcomes import COUNT, RARE, RULE, absent, batch, decide, only, refusal, vote

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


def test_founders_are_taken_at_their_word_in_the_first_epoch() -> None:
    assert with_colluders(5000, is_first=True)[account(11)] == 5000


def test_cut_weight_has_a_reason() -> None:
    fakes = [batch(number, 10**6, model_id=RARE) for number in (1, 2)]
    votes = {1: [vote(fakes[1])], 2: [vote(fakes[0])]}
    found = decide(fakes, votes, {1: 10, 2: 10, 3: 100})
    assert [(outcome.fate, outcome.reason) for outcome in found.nodes] == [(NodeFate.ACCEPTED, codes.FEW_JUDGES)] * 2
    # Nothing is widely judged: they keep what they had, and grow by no more than a ninth of it.
    assert sum(outcome.weight for outcome in found.nodes) <= 20 + 20 // POOL_PARTS


def test_a_model_that_a_third_of_the_others_found_valid_counts_in_full() -> None:
    commit = batch(1, model_id=RARE)
    outcome = only(decide([commit], {2: [vote(commit)]}, {1: 10, 2: 10, 3: 20}))
    assert (outcome.weight, outcome.reason) == (COUNT, "")


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


def drawn_all(commit: PocCommit) -> int:
    return min(commit.count, RULE.sample_size)


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


# --- Who is able to judge is what the group has frozen ----------------------------------------------------------------


def bench_of(proven: Mapping[int, int], declared: tuple[int, ...] = ()) -> Judges:
    """Who proved how much of RARE, and who only says that it has it."""
    return Judges({RARE: {account(n): w for n, w in proven.items()}}, {RARE: of(*declared)})


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


def test_the_only_host_of_a_model_is_not_slashed_by_a_cartel_below_a_third_of_all_the_weight() -> None:
    """Not of the others': of the weight but that of a heavy member they would need less."""
    commit = batch(1, model_id=RARE)
    lies = {2: [vote(commit, 600)], 3: [vote(commit, 600)]}
    weights = {1: 10, 2: 15, 3: 15, 4: 20, 5: 20, 6: 20}
    outcome = only(decide([commit], lies, weights, judges=bench_of({1: 1_000_000, 2: 1, 3: 1})))
    assert (outcome.reason, is_batch_of_fakes(outcome)) == (codes.NARROWLY, False)


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
