"""Less than a third of all the weight decides nothing, however heavy or light those are whose work it is about."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import outcomes as codes
from node.protocol.findings import NodeFate, NodeOutcome, Observations, Sighting
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.judges import Judges
from node.protocol.outcomes import PocFindings
from node.protocol.records import PocCommit, PocVote, VoteBundle
from node.protocol.scores import ABSENCE_FORGIVEN, presences
from node.protocol.slices import finish
from node.protocol.tallies import count_votes_in_slices
from node.protocol.verdicts import Verdict
from tests.builders import account, bundle_of
from tests.unit.protocol.test_outcomes import COUNT, RARE, batch, decide, refusal, vote

LIES = ("fakes", "refused", "no file", "a few", "valid", "silent")


def no_file(commit: PocCommit) -> PocVote:
    return PocVote(commit.participant, commit.node_id, Verdict.ABSTAIN, 0, (), "no-data")


def lie_about(commit: PocCommit, kind: str) -> list[PocVote]:
    return {
        "fakes": [vote(commit, 600, unrelated=600)],
        "refused": [refusal(commit)],
        "no file": [no_file(commit)],
        "a few": [vote(commit, 2)],
        "valid": [vote(commit)],
        "silent": [],
    }[kind]


def of_member(found: PocFindings, number: int) -> NodeOutcome:
    (outcome,) = [outcome for outcome in found.nodes if outcome.participant == account(number)]
    return outcome


@pytest.mark.parametrize("lie", [[vote(batch(1), 600)], [refusal(batch(1))], []], ids=["fakes", "refuses", "silent"])
@pytest.mark.parametrize(
    ("weights", "liars"),
    [
        ({1: 60_000, 4: 15_000, 2: 12_500, 3: 12_500}, {2, 3}),
        ({1: 50_000, 4: 12_000, 5: 12_000, 2: 13_000, 3: 13_000}, {2, 3}),
        ({1: 40_000, 4: 14_000, 5: 14_000, 2: 16_000, 3: 16_000}, {2, 3}),
        ({1: 90_000, 4: 2_000, 5: 2_000, 2: 3_000, 3: 3_000}, {2, 3}),
        ({1: 100_000, 2: 8}, {2}),
        ({1: 100_000, 2: 8, 3: 8}, {2, 3}),
    ],
    ids=["60/15/25", "50/24/26", "40/28/32", "90/4/6", "dust", "two of dust"],
)
def test_a_heavy_honest_member_is_not_thrown_out_by_less_than_a_third(
    weights: dict[int, int], liars: set[int], lie: list[PocVote]
) -> None:
    votes = {number: lie if number in liars else [vote(batch(1))] for number in weights if number != 1}
    outcome = of_member(decide([batch(1)], votes, weights), 1)
    assert (outcome.fate, outcome.weight, outcome.mismatches) == (NodeFate.ACCEPTED, COUNT, 0)


def test_dust_that_got_no_file_in_time_leaves_nobody_unpaid() -> None:
    votes = {2: [no_file(batch(1))], 3: [no_file(batch(1))]}
    assert of_member(decide([batch(1)], votes, {1: 100_000, 2: 8, 3: 8}), 1).weight == COUNT


def test_two_thirds_still_reject_a_faker_of_a_third() -> None:
    weights = {1: 34, 2: 33, 3: 33}
    votes = {2: [vote(batch(1), 600, unrelated=600)], 3: [vote(batch(1), 600, unrelated=600)]}
    outcome = of_member(decide([batch(1)], votes, weights), 1)
    assert (outcome.fate, outcome.reason) == (NodeFate.REJECTED, codes.MISMATCHES)


@pytest.mark.parametrize("other", [[vote(batch(1))], []], ids=["a friend", "silence"])
def test_of_three_equals_one_that_finds_fakes_keeps_them_from_being_paid(other: list[PocVote]) -> None:
    votes = {2: [vote(batch(1), 600)], 3: other}
    assert of_member(decide([batch(1)], votes, {1: 1, 2: 1, 3: 1}), 1).fate is NodeFate.UNDECIDED


def test_a_heavy_member_that_hands_its_file_to_a_friend_of_dust_only_is_not_paid() -> None:
    """It is most that says so: a third of all, which no cartel is."""
    weights = {1: 34_000, 2: 33_000, 3: 33_000, 4: 8}
    votes = {2: [no_file(batch(1))], 3: [no_file(batch(1))], 4: [vote(batch(1))]}
    outcome = of_member(decide([batch(1)], votes, weights), 1)
    assert (outcome.fate, outcome.reason) == (NodeFate.UNDECIDED, codes.FILE_WITHHELD)


def test_a_cartel_that_is_most_of_the_others_makes_nothing_up_that_adds_up() -> None:
    """Two nonces that differ, in each epoch, within what honest machines show: neither weight nor history of it."""
    weights = {1: 40, 2: 28, 3: 16, 4: 16}
    votes = {2: [vote(batch(1))], 3: [vote(batch(1), 2)], 4: [vote(batch(1), 2)]}
    found = decide([batch(1)], votes, weights)
    assert (of_member(found, 1).weight, found.histories) == (COUNT, ())
    honest = {n: [vote(batch(1), 2)] for n in (2, 3, 4)}
    found = decide([batch(1)], honest, weights)  # a third says so
    assert (of_member(found, 1).mismatches, len(found.histories)) == (2, 1)


def test_a_heavy_member_s_rare_model_is_accepted_and_counts_in_full_only_by_a_third_of_the_others() -> None:
    """Who lacks the model abstains: by a friend's word it would have fakes of a model that nobody else runs in full."""
    commit, weights = batch(1, model_id=RARE), {1: 34, 2: 1, 3: 22, 4: 43}
    outcome = of_member(decide([commit], {2: [vote(commit)]}, weights), 1)
    assert (outcome.fate, outcome.weight, outcome.reason) == (NodeFate.ACCEPTED, 34, codes.FEW_JUDGES)
    outcome = of_member(decide([commit], {2: [vote(commit)], 3: [vote(commit)]}, weights), 1)
    assert (outcome.fate, outcome.weight, outcome.reason) == (NodeFate.ACCEPTED, COUNT, "")


def test_a_heavy_member_that_a_cartel_keeps_from_being_widely_judged_keeps_what_it_had_and_grows() -> None:
    """Of 55, 12 other honest and a cartel of 33 that says nothing, all others being widely judged."""
    weights = {1: 2750, 2: 600, 3: 1650}
    batches = {1: batch(1), 2: batch(2, 600), 3: batch(3, 1650)}
    votes = {1: [vote(batches[2]), vote(batches[3])], 2: [vote(batches[1]), vote(batches[3])]}
    found = decide(list(batches.values()), votes, weights)
    assert [of_member(found, n).weight for n in (2, 3)] == [600, 1650]
    outcome = of_member(found, 1)
    assert (outcome.fate, outcome.reason) == (NodeFate.ACCEPTED, codes.FEW_JUDGES)
    assert 2750 + 600 // 20 < outcome.weight < 2750 + 600 // 9 + 2250 // 9


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[int, int], set[int]]:
    """Weights of up to eight, and those of them that are a cartel with less than a third of all."""
    sizes = st.sampled_from((1, 8, 100, 999, 1000, 5000, 100_000))
    weights = {number: draw(sizes) for number in range(1, draw(st.integers(2, 8)) + 1)}
    cartel = set[int]()
    for number in draw(st.permutations(sorted(weights))):
        if 3 * sum(weights[n] for n in (*cartel, number)) < sum(weights.values()):
            cartel.add(number)
    return weights, cartel


@given(networks(), st.data())
def test_a_cartel_below_a_third_takes_nothing_from_the_honest_and_has_no_fakes_widely_judged(
    network: tuple[dict[int, int], set[int]], data: st.DataObject
) -> None:
    """Whatever it says of anybody, and whatever it proved with the model, while all others tell the truth in time."""
    weights, cartel = network
    batches = {number: batch(number, model_id=RARE) for number in weights}
    proven = (
        {n: data.draw(st.integers(0, weights[n])) for n in sorted(weights)} if data.draw(st.booleans()) else weights
    )
    judges = Judges({RARE: {account(n): weight for n, weight in proven.items() if weight}})
    votes: dict[int, list[PocVote]] = {}
    for voter in weights:
        others = sorted((n for n in weights if n != voter), key=lambda n: account(n).lower())
        if voter in cartel:
            votes[voter] = [v for n in others for v in lie_about(batches[n], data.draw(st.sampled_from(LIES)))]
        else:
            votes[voter] = [vote(batches[n], 600 if n in cartel else 0) for n in others]
    found = decide(list(batches.values()), votes, weights, judges=judges)
    for number in weights:
        outcome = of_member(found, number)
        if number in cartel:
            # Of a model of which it proved most it has fakes accepted, thinly: for members that had nothing, nothing.
            assert outcome.fate is not NodeFate.ACCEPTED or (proven is not weights and outcome.weight < COUNT)
        elif len(weights) - len(cartel) > 1 or 3 * weights[number] > 2 * sum(weights.values()):
            assert outcome.fate is NodeFate.ACCEPTED
            # But for a few nonces that differ, which those who proved most of the model may make up (0069); and a heavy
            # member keeps what it had, and grows slowly, where less than a third of the others is honest (0093).
            total, own = sum(weights.values()), weights[number]
            honest_others = total - own - sum(weights[n] for n in cartel)
            is_kept = 3 * own >= total and 3 * honest_others < total - own
            is_kept = is_kept and outcome.weight >= min(COUNT, proven[number])
            assert (
                outcome.weight == COUNT
                or (is_kept and outcome.reason == codes.FEW_JUDGES)
                or (proven is not weights and outcome.reason == codes.DIFFERING)
            )


@given(networks(), st.data())
def test_no_fakes_of_a_cartel_s_own_model_are_widely_judged_either(
    network: tuple[dict[int, int], set[int]], data: st.DataObject
) -> None:
    """Nobody else has it, so nobody tells the truth of them."""
    weights, cartel = network
    fakes = {number: batch(number, model_id=RARE) for number in cartel}
    members = {account(number): weight for number, weight in weights.items()}
    bundles = {
        account(voter): bundle_of(
            voter, *(v for n in cartel if n != voter for v in lie_about(fakes[n], data.draw(st.sampled_from(LIES))))
        )
        for voter in sorted(cartel)
    }
    commits = {(commit.participant, commit.node_id): commit for commit in fakes.values()}
    judges = Judges({RARE: {account(n): weights[n] for n in cartel}})
    for votes in finish(count_votes_in_slices(commits, bundles, members, judges)).values():
        assert not votes.is_wide()


def seen(weights: Mapping[int, int], saying: Mapping[int, int]) -> int:
    """Return the presence of member 1, of whom others say that they saw so many thousandths."""
    members = {account(number): weight for number, weight in weights.items()}
    bundles: dict[Address, VoteBundle] = {}
    for number, per_mille in saying.items():
        observed = Observations(sightings=(Sighting(account(1), per_mille),))
        bundle = bundle_of(number, epoch=EpochNumber(0))
        bundles[account(number)] = VoteBundle(bundle.epoch, bundle.validator, (), observations=observed)
    return presences([account(1)], members, bundles)[account(1)]


@pytest.mark.parametrize("weights", [{1: 40, 2: 16, 3: 16, 4: 28}, {1: 100_000, 2: 8, 3: 8}])
def test_nobody_s_presence_falls_by_the_word_of_less_than_a_third_of_all(weights: dict[int, int]) -> None:
    assert seen(weights, {2: 0, 3: 0}) == 1000


@given(networks(), st.integers(0, 1000), st.data())
def test_a_cartel_below_a_third_takes_no_presence_and_gives_none(
    network: tuple[dict[int, int], set[int]], truth: int, data: st.DataObject
) -> None:
    """Of a member that the honest saw as long as it was there; who has so much that these are no third of all is one
    of the honest itself."""
    weights, cartel = network
    honest = weights.keys() - cartel - {1}
    lies = {n: data.draw(st.integers(0, 1000)) for n in sorted(cartel - {1})}
    presence = seen(weights, {**dict.fromkeys(honest, truth), **lies})
    total = sum(weights.values())
    if 3 * sum(weights[n] for n in honest) >= total:
        assert presence == min(1000, truth + ABSENCE_FORGIVEN)
    else:
        assert presence >= min(1000, truth + ABSENCE_FORGIVEN)
