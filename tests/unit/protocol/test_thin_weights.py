"""What few can judge: it is kept, it grows slowly, and no handful of nonces decides over the weight of all."""

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.findings import NodeFate, NodeOutcome, ThinWeight
from node.protocol.identifiers import EpochNumber, ModelId, NodeId
from node.protocol.judges import Judges
from node.protocol.nonces import BATCH_NONCES_MAX
from node.protocol.outcomes import PocFindings
from node.protocol.records import PocCommit, PocVote
from node.protocol.slices import finish
from node.protocol.thin_weights import BACKING_PARTS, POOL_PARTS, Granted, Standing, remember, thin_weights_in_slices
from node.protocol.weights import compute_new_weights, participant_weights
from tests.builders import NODE, TINY, account, bundle_of
from tests.unit.protocol.test_outcomes import EPOCH, RARE, batch, decide, vote

COMMON = ModelId("common")
SECOND = NodeId("node-2")
MILLION = BATCH_NONCES_MAX


def by_pairs(number: int) -> ModelId:
    """Six models, each of which two of twelve members have."""
    return ModelId(f"m{(number - 1) // 2}")


def judged(
    batches: list[PocCommit],
    weights: Mapping[int, int],
    able: Mapping[ModelId, set[int]],
    *,
    lacking: frozenset[tuple[int, int]] = frozenset(),
) -> dict[int, int]:
    """Return the weights after all who are able found each batch valid, but for (judge, participant) in `lacking`."""
    votes: dict[int, list[PocVote]] = {
        number: [
            vote(commit)
            for commit in sorted(batches, key=lambda commit: (commit.participant.lower(), commit.node_id))
            if number in able[commit.model_id]
            and commit.participant != account(number)
            and not any((number, other) in lacking and commit.participant == account(other) for other in weights)
        ]
        for number in weights
    }
    proven = {
        model_id: {account(number): weights[number] for number in numbers if weights.get(number)}
        for model_id, numbers in able.items()
    }
    found = decide(batches, votes, weights, judges=Judges(proven))
    return weights_of(found)


def weights_of(found: PocFindings) -> dict[int, int]:
    assert all(outcome.fate is NodeFate.ACCEPTED for outcome in found.nodes)
    weights = participant_weights(compute_new_weights(found.nodes))
    return {number: weights[account(number)] for number in range(1, 30) if account(number) in weights}


PAIRS = {by_pairs(number): {number, number + 1} for number in range(1, 13, 2)}
TWELVE = dict.fromkeys(range(1, 13), MILLION)


def test_where_nothing_is_widely_judged_everybody_keeps_what_it_had() -> None:
    batches = [batch(number, MILLION, model_id=by_pairs(number)) for number in TWELVE]
    assert judged(batches, TWELVE, PAIRS) == TWELVE


@pytest.mark.parametrize("nonces", [8, 900, 100_000])
def test_a_few_nonces_of_a_common_model_take_no_weight_from_anybody(nonces: int) -> None:
    """A newcomer's, of a model of which everybody has some: they were a whole quorum, while thin work shared a ninth
    of what is widely judged at any size of it."""
    batches = [batch(number, MILLION, model_id=by_pairs(number)) for number in TWELVE]
    batches.append(batch(13, nonces, model_id=COMMON))
    weights = judged(batches, {**TWELVE, 13: 0}, {**PAIRS, COMMON: set(TWELVE)})
    assert weights == {**TWELVE, 13: nonces}


def test_who_few_had_the_time_to_judge_keeps_what_it_had() -> None:
    """Ten with one model, each judged by two of the others, and one small batch that all judged."""
    weights = dict.fromkeys(range(1, 11), 5000)
    batches = [batch(number, 90 if number == 1 else 5000, model_id=COMMON) for number in weights]
    in_time = {(number, (number + step - 1) % 10 + 1) for number in weights for step in (1, 2)}
    late = frozenset(
        (judge, other) for judge in weights for other in weights if other != 1 and (other, judge) not in in_time
    )
    assert judged(batches, weights, {COMMON: set(weights)}, lacking=late) == {**weights, 1: 90}


def colluding(claim: int, share: int = 10_000) -> tuple[dict[int, int], list[PocCommit], dict[ModelId, set[int]]]:
    """The twelve, and two with a model of their own who claim 64 batches each."""
    weights = {**TWELVE, 13: share, 14: share}
    batches = [batch(number, MILLION, model_id=by_pairs(number)) for number in TWELVE]
    batches += [
        batch(number, claim, model_id=RARE, node_id=NodeId(f"n{index:02}"))
        for number in (13, 14)
        for index in range(64)
    ]
    return weights, batches, {**PAIRS, RARE: {13, 14}}


@given(st.integers(1000, MILLION))
def test_two_who_collude_grow_by_a_ninth_of_what_they_have_however_much_they_claim(claim: int) -> None:
    weights, batches, able = colluding(claim)
    after = judged(batches, weights, able)
    assert {number: after[number] for number in TWELVE} == TWELVE
    for number in (13, 14):
        assert 10_000 - 64 <= after[number] <= 10_000 + 10_000 // BACKING_PARTS


def test_claims_crowd_nobody_out_of_the_tenth() -> None:
    """Nine tenths are of a common model; two are honest with a rare one, and two claim 64 batches of their own."""
    weights = {1: 3 * MILLION, 2: 3 * MILLION, 3: 3 * MILLION, 5: MILLION // 2, 6: MILLION // 2, 13: 10_000, 14: 10_000}
    common = [batch(number, MILLION, model_id=COMMON) for number in (1, 2, 3)]
    rare = [batch(number, 150_000, model_id=by_pairs(5)) for number in (5, 6)]
    _, fakes, _ = colluding(MILLION)
    able = {COMMON: {1, 2, 3}, by_pairs(5): {5, 6}, RARE: {13, 14}}
    after = judged([*common, *rare, *fakes[12:]], weights, able)
    assert (after[5], after[6]) == (150_000, 150_000)
    assert after[13] + after[14] <= 3 * MILLION // POOL_PARTS - 300_000


def test_a_batch_of_which_so_much_differs_that_nothing_is_left_is_accepted_for_nothing() -> None:
    """Two nonces, of which one differs: accepted with no weight, whatever there is to share."""
    rare = [batch(number, model_id=RARE) for number in (5, 6)]
    bad = batch(9, 2, model_id=RARE)
    weights = {1: 30, 2: 30, 3: 30, 5: 5, 6: 5}
    votes = {5: [vote(rare[1]), vote(bad, 1)], 6: [vote(rare[0]), vote(bad, 1)]}
    judges = Judges({RARE: {account(5): 5, account(6): 5}})
    found = decide([*rare, bad], votes, weights, judges=judges)
    outcome = next(outcome for outcome in found.nodes if outcome.participant == account(9))
    assert (outcome.fate, outcome.weight) == (NodeFate.ACCEPTED, 0)


def test_what_is_widely_judged_is_not_kept_a_second_time() -> None:
    """Else a member's weight would grow by its fakes of a rare model in each epoch, beside its honest work."""
    after = left({1: 1000, 2: 1000, 3: 5000}, {}, {1: MILLION}, {}, wide_of_same={1: 400})
    assert after == {1: 600}


def test_what_was_proven_with_another_model_is_not_kept_but_moves_where_nothing_is_widely_judged() -> None:
    """Else a member's weight would grow by its fakes of a rare model in each epoch, beside its honest work; but who
    turned to another rare model would be left with what its judges back."""
    weights = {1: 1000, 2: 1000, 3: 5000, 4: 5000, 5: 5000}
    honest = [batch(number, 1000, model_id=COMMON) for number in (1, 2)]
    fakes = [batch(number, MILLION, model_id=RARE, node_id=SECOND) for number in (1, 2)]
    members = {account(number): weight for number, weight in weights.items()}
    votes = {n: [vote(b) for b in honest if b.participant != account(n)] for n in weights}
    votes[1].append(vote(fakes[1]))
    votes[2].append(vote(fakes[0]))
    judges = Judges({COMMON: members}, {RARE: {account(n): 1000 for n in (1, 2)}})
    after = weights_of(decide([*honest, *fakes], votes, weights, judges=judges))
    assert after == {1: 1000, 2: 1000}
    votes = {n: given[-1:] if n < 3 else [] for n, given in votes.items()}
    after = weights_of(decide(fakes, votes, weights, judges=judges))
    assert after == dict.fromkeys((1, 2), 1000 + 1000 // BACKING_PARTS)


def test_what_was_widely_judged_does_not_move() -> None:
    """Its machine mines for another account now, which has the weight."""
    weights, had = {1: 600, 2: 600, 3: 600, 4: 5000}, {(1, COMMON): 600}
    assert left(weights, {5: 600}, {1: MILLION}, {}, had=had)[1] < 600 // POOL_PARTS
    assert left(weights, {}, {1: MILLION}, {}, had=had) == {1: 600}


def test_what_moved_counts_only_by_itself_and_has_no_part_of_the_pool() -> None:
    """Where it does not count there is what somebody new has."""

    def weight(wide: int, claim: int = MILLION, had: int = 600) -> int:
        had_before = {(1, by_pairs(1)): had}
        return left({1: 600, 2: 600, 3: 600, 4: 600}, {3: wide}, {1: claim}, {}, had=had_before)[1]

    assert [weight(wide) for wide in (0, 900, 1050, 1200)] == [600, 600, 300 + 58, 133]
    assert weight(1050, had=0) == 58
    assert weight(1200, had=0) == 133
    assert weight(0, claim=250) == 250


AMOUNTS = st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 4)), st.integers(1, 1000), min_size=1)


@given(AMOUNTS, AMOUNTS, st.integers(0, 4000), st.randoms())
def test_what_is_kept_and_moved_is_no_more_than_was_had_in_whatever_order(
    had: dict[tuple[int, int], int], claims: dict[tuple[int, int], int], wide: int, chance: random.Random
) -> None:
    """By member and model; 4 has widely judged work of another, and nobody backs anybody."""
    weights = {n: sum(weight for (m, _), weight in had.items() if m == n) for n in (1, 2, 3)}

    def after(order: list[tuple[int, int]]) -> Granted:
        thin = [
            NodeOutcome(
                account(n), NodeId(f"n{m}"), ModelId(f"m{m}"), NodeFate.ACCEPTED, claims[n, m], 0, 0, claims[n, m], ""
            )
            for n, m in order
        ]
        standing = Standing(
            {**{account(n): weight for n, weight in weights.items()}, account(4): 2000},
            {(account(n), ModelId(f"m{m}")): weight for (n, m), weight in had.items()},
            {},
            {(account(4), COMMON): wide},
            (),
        )
        return finish(thin_weights_in_slices(thin, standing, {}))

    found = after(sorted(claims))
    assert found == after(chance.sample(sorted(claims), len(claims)))
    assert all(0 <= found.weights[account(n), NodeId(f"n{m}")] <= claims[n, m] for n, m in claims)
    assert sum(found.weights.values()) <= sum(weights.values()) + wide // POOL_PARTS
    for n in (1, 2, 3):
        moved = sum(amount for (participant, _), amount in found.moved.items() if participant == account(n))
        kept = sum(min(had.get(share, 0), amount) for share, amount in claims.items() if share[0] == n)
        assert moved + kept <= weights[n] + 4  # rounded up for each model that it leaves


def test_what_moved_comes_back_to_nobody_where_it_was() -> None:
    one, mate, other = ((account(n), RARE) for n in (1, 2, 3))
    known = (*remember((), {one: 100, mate: 100}, EpochNumber(4)), ThinWeight(*other, 100, 200, EpochNumber(4)))
    after = remember(known, {mate: 100}, EpochNumber(5), {one: 100})
    assert {(entry.participant, entry.weight, entry.of_model) for entry in after} == {
        (mate[0], 100, 100),
        (other[0], 100, 100),
    }
    (part,) = remember(known[:1], {}, EpochNumber(5), {(known[0].participant, RARE): 70})
    assert (part.weight, part.of_model) == (30, 130)


def test_what_serves_instead_of_mining_is_not_kept_a_second_time_either() -> None:
    """Nor does it count as work that few can judge: half of the weight may serve, and the rest be widely judged."""
    rare = [batch(number, MILLION, model_id=RARE) for number in (1, 2)]
    votes = {1: [vote(rare[1])], 2: [vote(rare[0])]}
    weights = {1: 1000, 2: 1000, 3: 9000, 4: 9000}
    serving = {(account(number), RARE): 600 for number in (1, 2)}
    judges = Judges({RARE: {account(1): 1000, account(2): 1000}})
    kept = weights_of(decide(rare, votes, weights, judges=judges, preserved=serving))
    assert kept == dict.fromkeys((1, 2), 400 + 1000 // BACKING_PARTS)
    common = [batch(number, 4500, model_id=COMMON, node_id=SECOND) for number in (3, 4)]
    votes |= {3: [vote(common[1])], 4: [vote(common[0])]}
    serving |= {(account(number), COMMON): 4500 for number in (3, 4)}
    judges = Judges({**judges.proven, COMMON: {account(3): 9000, account(4): 9000}})
    found = weights_of(decide([*rare, *common], votes, weights, judges=judges, preserved=serving))
    assert found[1] + found[2] <= 9000 // POOL_PARTS


def test_nonces_that_the_honest_find_valid_have_them_back_no_fakes() -> None:
    """Each of the two also computes eight nonces of every rare model, which their judges honestly find valid."""
    weights, batches, able = colluding(MILLION)
    for number in (13, 14):
        batches += [batch(number, 8, model_id=model_id, node_id=NodeId(f"x{model_id}")) for model_id in PAIRS]
    after = judged(batches, weights, able)
    assert {number: after[number] for number in TWELVE} == TWELVE
    assert all(after[number] <= 10_000 + 10_000 // BACKING_PARTS + 8 * len(PAIRS) for number in (13, 14))


def test_a_cartel_below_a_third_gets_its_tenth_while_half_of_the_honest_serve() -> None:
    """What serves of a model that is widely judged counts as widely judged."""
    weights = {1: 220, 2: 220, 3: 230, 13: 165, 14: 165}
    common = [batch(number, weights[number] // 2, model_id=COMMON) for number in (1, 2, 3)]
    fakes = [batch(number, MILLION, model_id=RARE) for number in (13, 14)]
    votes = {n: [vote(commit) for commit in common if commit.participant != account(n)] for n in (1, 2, 3)}
    votes |= {13: [vote(fakes[1])], 14: [vote(fakes[0])]}
    serving = {(account(n), COMMON): weights[n] // 2 for n in (1, 2, 3)}
    proven = {COMMON: {account(n): weights[n] for n in (1, 2, 3)}, RARE: {account(13): 165, account(14): 165}}
    after = weights_of(decide([*common, *fakes], votes, weights, judges=Judges(proven), preserved=serving))
    assert 10 * (after[13] + after[14]) <= sum(weights.values())


def test_who_lost_one_epoch_because_its_only_judge_was_away_comes_back_with_what_it_had() -> None:
    """Weights after each epoch of a pair beside a common model; the mate says nothing in the first."""
    weights = {1: MILLION, 2: MILLION, 3: 5 * MILLION, 4: 5 * MILLION}
    remembered: tuple[ThinWeight, ...] = ()
    seen = []
    for epoch in range(6):
        batches = [batch(n, 100_000, model_id=RARE) for n in (1, 2)] + [batch(n, MILLION) for n in (3, 4)]
        votes = {n: [vote(batches[2 - n])] for n in (1, 2) if weights.get(n) and (n, epoch) != (2, 1)}
        votes |= {3: [vote(batches[3])], 4: [vote(batches[2])]}
        able = {n: weights[n] for n in (1, 2) if weights.get(n)}
        proven = {RARE: {account(n): w for n, w in able.items()}, TINY: {account(3): 1, account(4): 1}}
        found = decide(batches, votes, weights, judges=Judges(proven), thin_weights=remembered)
        remembered = tuple(replace(entry, epoch=EPOCH) for entry in found.thin_weights)
        after = participant_weights(compute_new_weights(found.nodes))
        weights = {n: after.get(account(n), 0) for n in weights}
        seen.append((weights[1], weights[2]))
    assert seen[0] == (100_000, 100_000)
    assert seen[1:] == [(0, 100_000), (100_000, 0), (0, 100_000), (100_000, 0), (0, 100_000)]


def test_what_was_had_is_remembered_for_ten_epochs() -> None:
    def of(weight: int, epoch: int, of_model: int | None = None) -> tuple[ThinWeight, ...]:
        return (ThinWeight(account(1), RARE, weight, of_model or weight, EpochNumber(epoch)),)

    one, other = (account(1), RARE), (account(2), RARE)
    first = remember((), {one: 70, other: 0}, EpochNumber(4))
    assert first == of(70, 4)
    assert remember(first, {one: 60}, EpochNumber(5)) == first
    assert remember(first, {one: 63}, EpochNumber(5)) == of(63, 5)
    assert remember(first, {}, EpochNumber(13)) == first
    assert remember(first, {}, EpochNumber(14)) == ()
    assert remember(first, {one: 60}, EpochNumber(14)) == of(60, 14)
    assert remember(of(70, 4, 140), {one: 70}, EpochNumber(5)) == of(70, 4, 140)  # its mate is out, and may come back
    of_both = remember((), {one: 70, other: 50, (account(1), COMMON): 9}, EpochNumber(4))
    assert {(entry.model_id, entry.weight, entry.of_model) for entry in of_both} == {
        (COMMON, 9, 9),
        (RARE, 70, 120),
        (RARE, 50, 120),
    }


def test_accounts_that_take_turns_get_back_no_more_than_they_had_together_in_one_epoch() -> None:
    weights = {1: 500, 2: 500, 13: 100}
    lost = dict.fromkeys(range(14, 20), 100)
    after = left(weights, {}, dict.fromkeys(range(13, 20), 100), {}, remembered=lost, of_model=150)
    assert after[13] == 100
    assert 50 - len(lost) <= sum(after[number] for number in lost) <= 50


def test_what_one_model_lost_comes_back_whatever_was_lost_of_others() -> None:
    """A pair comes back whole; it shared what came back with all others who had lost some."""
    after = left({1: 900, 2: 100}, {}, {2: 100, 3: 100}, {}, remembered={2: 100, 3: 100}, of_model=200)
    assert after == {2: 100, 3: 100}


def test_who_also_has_common_work_gets_back_what_it_lost() -> None:
    """It had 200 by rare and 200 by common batches, lost the former for one epoch, and has both again."""
    after = left({1: 200, 2: 2000}, {1: 200}, {1: 200}, {}, remembered={1: 200}, of_model=200)
    assert after == {1: 200}


def test_work_that_is_widely_judged_backs_nobody() -> None:
    claims, backers = {4: 10_000}, {4: {1, 2}}
    assert left({1: 900, 2: 900, 3: 9000}, {}, claims, backers) == {4: 200}
    had = {(1, COMMON): 900, (2, COMMON): 450, (2, RARE): 450, (3, RARE): 9000}
    assert left({1: 900, 2: 900, 3: 9000}, {1: 900, 2: 450}, claims, backers, had=had) == {4: 50}
    # Nor where its machine mines for another account now, and would back fakes with what it proved for this one.
    assert left({1: 900, 2: 900, 3: 9000}, {5: 1350}, claims, backers, had=had) == {4: 50}


def test_a_few_wide_nonces_of_a_rare_model_do_not_make_wide_what_serves_it() -> None:
    """Three hosts of 12 % each, half of it serving, and a pair beside a common model: somebody adds eight nonces."""
    weights = {1: 225, 2: 225, 3: 120, 4: 120, 5: 120, 6: 95, 7: 95, 9: 0}
    model_of = {1: COMMON, 2: COMMON, 3: RARE, 4: RARE, 5: RARE, 6: by_pairs(6), 7: by_pairs(6), 9: RARE}
    serving = {(account(number), RARE): 60 for number in (3, 4, 5)}
    counts = weights | {3: 60, 4: 60, 5: 60, 9: 8}

    def after(*numbers: int) -> dict[int, int]:
        batches = [batch(number, counts[number], model_id=model_of[number]) for number in numbers]
        able = {m: {n for n in weights if model_of[n] == m and n != 9} for m in set(model_of.values())}
        votes = {
            n: [vote(b) for b in batches if n in able[b.model_id] and b.participant != account(n)] for n in weights
        }
        proven = {m: {account(n): weights[n] for n in judges} for m, judges in able.items()}
        return weights_of(decide(batches, votes, weights, judges=Judges(proven), preserved=serving))

    without, with_eight = after(1, 2, 3, 4, 5, 6, 7), after(1, 2, 3, 4, 5, 6, 7, 9)
    assert all(with_eight[number] >= without[number] - 4 for number in without)


NONCES = st.integers(1, 10_000)
World = tuple[dict[int, int], dict[int, int], dict[int, int], dict[int, set[int]]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Weights, what is widely judged, thin claims, and who backs whom; by member 1 to 6, 7 is new."""
    weights = {number: draw(NONCES) for number in range(1, 7)}
    wide = {number: draw(st.integers(0, 10_000)) for number in range(1, 8)}
    claims = {number: draw(NONCES) for number in draw(st.sets(st.integers(1, 7), min_size=1))}
    backers = {number: draw(st.sets(st.integers(1, 6))) - {number} for number in claims}
    return weights, wide, claims, backers


def left(
    weights: Mapping[int, int],
    wide: Mapping[int, int],
    claims: Mapping[int, int],
    backers: Mapping[int, set[int]],
    *,
    remembered: Mapping[int, int] = MappingProxyType({}),
    of_model: int = 0,
    had: Mapping[tuple[int, ModelId], int] | None = None,
    wide_of_same: Mapping[int, int] = MappingProxyType({}),
) -> dict[int, int]:
    """Return what is left of `claims` of a rare model, `wide` being of a common one.

    Members had, by default, as much with the common model as they have of it now, and the rest with the rare one.
    """
    bundles = {
        account(voter): bundle_of(
            voter,
            *(vote(batch(number, model_id=RARE)) for number in sorted(claims) if voter in backers.get(number, ())),
        )
        for voter in weights
    }
    if had is None:
        had = {(number, RARE): max(0, weight - wide.get(number, 0)) for number, weight in weights.items()}
        had |= {(number, COMMON): min(weight, wide.get(number, 0)) for number, weight in weights.items()}
    found = finish(
        thin_weights_in_slices(
            [
                NodeOutcome(account(number), NODE, RARE, NodeFate.ACCEPTED, amount, 0, 0, amount, "")
                for number, amount in claims.items()
            ],
            Standing(
                {account(number): weight for number, weight in weights.items()},
                {(account(number), model_id): weight for (number, model_id), weight in had.items()},
                {},
                {
                    **{(account(number), COMMON): amount for number, amount in wide.items()},
                    **{(account(number), RARE): amount for number, amount in wide_of_same.items()},
                },
                [ThinWeight(account(number), RARE, one, of_model, EPOCH) for number, one in remembered.items()],
            ),
            bundles,
        )
    )
    return {number: found.weights[account(number), NODE] for number in claims}


@given(worlds())
def test_nobody_gets_more_than_it_claims_nor_all_more_than_the_pool_and_what_counts_by_itself(world: World) -> None:
    """Who has a third of all has what it had in any case, and what is backed; of others it is cut."""
    weights, wide, claims, backers = world
    after = left(weights, wide, claims, backers)
    assert all(0 <= after[number] <= claims[number] for number in claims)
    total, in_all, by_itself, backed_of_heavy = sum(weights.values()), sum(wide.values()), 0, 0
    for number in claims:
        own = weights.get(number, 0)
        others, others_wide = total - own, in_all - wide[number]
        had = min(claims[number], max(0, own - wide[number]))
        if 3 * own >= total:
            by_itself += had
            backed_of_heavy = total // BACKING_PARTS
        else:
            counts = min(others, max(0, 4 * others - 6 * others_wide))
            by_itself += (had + total // BACKING_PARTS) * counts // others
    assert sum(after.values()) <= in_all // POOL_PARTS + by_itself + backed_of_heavy


@given(worlds(), st.integers(1, 7), NONCES)
def test_more_work_of_ones_own_never_weighs_less(world: World, who: int, more: int) -> None:
    """Of either kind. But for what is rounded: less than one for each of the six places where a share is taken."""
    weights, wide, claims, backers = world
    before = wide[who] + left(weights, wide, claims, backers).get(who, 0)
    wider = {**wide, who: wide[who] + more}
    assert wider[who] + left(weights, wider, claims, backers).get(who, 0) >= before - 6
    if who in claims:
        claimed = {**claims, who: claims[who] + more}
        assert wide[who] + left(weights, wide, claimed, backers)[who] >= before - 6


@given(worlds(), st.integers(1, 7), st.integers(1, 50))
def test_a_few_nonces_of_others_take_a_few_and_no_more(world: World, who: int, more: int) -> None:
    """What counts by itself falls from all to nothing between a half and two thirds: six times as fast, at most."""
    weights, wide, claims, backers = world
    before = left(weights, wide, claims, backers)
    after = left(weights, {**wide, who: wide[who] + more}, claims, backers)
    for number in claims.keys() - {who}:
        others = sum(weights.values()) - weights.get(number, 0)
        backed = sum(weights.values()) // BACKING_PARTS
        lost = 6 * more * (weights.get(number, 0) + backed) / others
        crowded = more * 10  # those whose wide work grew keep less, and ask the pool for less or more
        assert after[number] >= before[number] - lost - crowded - 6


def test_a_members_own_backing_is_shared_and_never_doubled() -> None:
    weights = {1: 900, 2: 900, 3: 900}
    claims = {4: 10_000, 5: 10_000, 6: 20_000}
    after = left(weights, dict.fromkeys(range(1, 8), 0), claims, {number: {1} for number in claims})
    assert after == {4: 25, 5: 25, 6: 50}


def test_between_a_half_and_two_thirds_it_counts_in_proportion() -> None:
    def kept(wide: int) -> int:
        return left({1: 600, 2: 600, 3: 600, 4: 600}, {3: wide}, {1: 600}, {1: set()})[1]

    assert [kept(wide) for wide in (0, 900, 1050, 1125, 1200)] == [600, 600, 300 + 116, 150 + 125, 133]


def test_who_has_a_third_keeps_what_it_had_wherever_most_is_widely_judged() -> None:
    def kept(own: int) -> int:
        return left({1: own, 2: 600, 3: 600}, {3: 1200}, {1: MILLION}, {1: {2}})[1]

    assert kept(599) == 133
    assert kept(600) == 600 + 600 // BACKING_PARTS


@given(st.integers(0, 1000), st.dictionaries(st.integers(1, 6), st.integers(1, 1000), min_size=1), st.randoms())
def test_models_share_the_pool_in_equal_parts_and_what_one_does_not_need_goes_to_others(
    pool: int, needs: dict[int, int], chance: random.Random
) -> None:
    """By number of the model. Each is claimed by a newcomer, in any order; of a common one nine times the pool."""
    models = chance.sample(sorted(needs), len(needs))
    found = finish(
        thin_weights_in_slices(
            [
                NodeOutcome(account(n), NODE, ModelId(f"m{n}"), NodeFate.ACCEPTED, needs[n], 0, 0, needs[n], "")
                for n in models
            ],
            Standing({account(8): 1}, {}, {}, {(account(8), COMMON): POOL_PARTS * pool}, ()),
            {},
        )
    ).weights
    given = {n: found[account(n), NODE] for n in needs}
    least = min((given[n] for n in needs if given[n] < needs[n]), default=pool)
    assert all(given[n] <= least for n in needs if given[n] < needs[n])
    assert all(given[n] == needs[n] for n in needs if needs[n] < least)
    assert sum(given.values()) <= pool
    assert sum(given.values()) > min(pool, sum(needs.values())) - len(needs)


@given(worlds(), st.randoms())
def test_the_order_in_which_batches_and_votes_come_changes_nothing(world: World, chance: random.Random) -> None:
    weights, wide, claims, backers = world
    shuffled = dict(chance.sample(sorted(claims.items()), len(claims)))
    voters = dict(chance.sample(sorted(weights.items()), len(weights)))
    assert left(voters, wide, shuffled, backers) == left(weights, wide, claims, backers)


@given(worlds())
def test_what_is_kept_and_backed_counts_in_full_where_the_pool_has_room(world: World) -> None:
    """No dip between a half and two thirds: the pool makes up for what does not count by itself."""
    weights, wide, claims, backers = world
    after = left(weights, wide, claims, backers)
    own = {n: min(amount, max(0, weights.get(n, 0) - wide[n])) for n, amount in claims.items()}
    room = sum(wide.values()) // POOL_PARTS
    if sum(own.values()) + sum(weights.values()) // BACKING_PARTS <= room:
        assert all(after[n] >= own[n] - 1 for n in claims)
