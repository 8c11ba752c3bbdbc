"""Tails: who votes without computing, or copies who did, is found out by a few of them."""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import tails
from node.protocol.findings import VoteCheck
from node.protocol.identifiers import Address, Hash32, ModelId
from node.protocol.judges import Judges
from node.protocol.nonces import PROMPT_TOKENS, VECTOR_BYTES, VECTOR_DIMENSIONS, nonce_prompt, quantise
from node.protocol.records import PocVote
from node.protocol.tails import (
    CHECKED_TAILS,
    CHECKERS,
    TAIL_DIFFERENCE_MAX,
    TAIL_MAX,
    TAIL_TOKENS,
    VECTOR_TAIL_NOUGHT,
    checkers_of,
    draw_checks,
    has_tails,
    judge_tails,
    makes_vectors,
    tail_of,
    tail_prompt,
    tail_tokens,
    validator_outcomes,
    vector_tail,
)
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SAMPLE_SEED, TINY, account, bundle_of, model

SEED = Hash32(b"\x07" * 32)
VOCABULARY = 3072


def votes(*sampled: int) -> list[PocVote]:
    return [PocVote(account(number), NODE, Verdict.VALID, count, (), "") for number, count in enumerate(sampled, 20)]


def test_every_validator_has_a_continuation_of_its_own_for_every_nonce() -> None:
    def tail(validator: int = 1, participant: int = 2, nonce: int = 3, seed: Hash32 = SAMPLE_SEED) -> tuple[int, ...]:
        return tail_tokens(seed, account(validator), account(participant), NODE, nonce, VOCABULARY)

    others = {tail(validator=9), tail(participant=9), tail(nonce=9), tail(seed=SEED)}
    assert len(others | {tail()}) == 5
    assert len(tail()) == TAIL_TOKENS
    assert all(0 <= token < VOCABULARY for token in tail())


def test_a_tail_is_no_part_of_the_nonce() -> None:
    assert len(nonce_prompt(SEED, account(1), NODE, 0, VOCABULARY)) == PROMPT_TOKENS


def test_a_tail_is_the_mean_in_thousandths() -> None:
    assert tail_of([-1.0] * TAIL_TOKENS) == 1000
    assert tail_of([-1e9] * TAIL_TOKENS) == TAIL_MAX
    assert tail_of([1e-9] * TAIL_TOKENS) == 0
    for wrong in ([-1.0] * 7, [float("nan")] * TAIL_TOKENS, [float("-inf")] * TAIL_TOKENS):
        with pytest.raises(ValueError, match="log-probabilities"):
            tail_of(wrong)


def test_models_that_read_little_have_no_tails_unless_they_make_vectors() -> None:
    assert has_tails(model())
    assert not has_tails(replace(model(), context_length=PROMPT_TOKENS + TAIL_TOKENS))
    for arguments in (("--runner", "pooling"), ("--runner=pooling",)):
        embedding = replace(model(), model_args=arguments)
        assert makes_vectors(embedding)
        assert has_tails(replace(embedding, context_length=PROMPT_TOKENS))
    assert not makes_vectors(model())


unit_vectors = st.lists(st.floats(-1, 1), min_size=VECTOR_DIMENSIONS, max_size=VECTOR_DIMENSIONS).map(quantise)


@given(unit_vectors, st.binary(min_size=32, max_size=32).map(Hash32))
def test_any_vector_has_a_tail_within_limits(vector: bytes, seed: Hash32) -> None:
    assert 0 <= vector_tail(seed, account(1), vector) <= min(TAIL_MAX, 2 * VECTOR_TAIL_NOUGHT)


def test_a_vector_without_direction_has_the_middle_tail_and_its_opposite_lies_opposite() -> None:
    assert vector_tail(SEED, account(1), bytes(VECTOR_BYTES)) == VECTOR_TAIL_NOUGHT
    source = random.Random(4)
    numbers = [source.gauss(0, 1) for _ in range(VECTOR_DIMENSIONS)]
    one, other = (vector_tail(SEED, account(1), quantise([sign * n for n in numbers])) for sign in (1, -1))
    assert abs(one + other - 2 * VECTOR_TAIL_NOUGHT) <= 1
    assert one != vector_tail(SEED, account(2), quantise(numbers))
    with pytest.raises(ValueError, match="bytes"):
        vector_tail(SEED, account(1), bytes(5))


def test_tails_of_honest_vectors_agree_and_guesses_of_alike_ones_do_not() -> None:
    """Honest ones are apart by the widest band measured; vectors of prompts of one kind share most of their length."""
    source = random.Random(6)
    shared = [source.gauss(0, 1) for _ in range(VECTOR_DIMENSIONS)]
    typical = vector_tail(SEED, account(1), quantise(shared))
    missed = 0
    for _ in range(200):
        truth, honest = [], []
        for _ in range(CHECKED_TAILS):
            own = [3 * common + source.gauss(0, 1) for common in shared]  # a cosine of 0.95 with one another's mean
            length = math.sqrt(sum(value * value for value in own))
            far = 0.0122 * length / math.sqrt(VECTOR_DIMENSIONS)  # squared distance 160,857, at the band's edge
            other = [value + source.gauss(0, far) for value in own]
            truth.append(vector_tail(SEED, account(1), quantise(own)))
            honest.append(vector_tail(SEED, account(1), quantise(other)))
        assert judge_tails(account(1), TINY, honest, truth).verdict is Verdict.VALID
        missed += judge_tails(account(1), TINY, [typical] * CHECKED_TAILS, truth).verdict is not Verdict.INVALID
    assert missed == 0


def test_a_validator_s_own_prompt_is_its_own_and_of_a_prompt_s_length() -> None:
    one = tail_prompt(SEED, account(1), account(2), NODE, 7, 1000)
    assert len(one) == PROMPT_TOKENS
    others = {
        tail_prompt(SEED, account(3), account(2), NODE, 7, 1000),
        tail_prompt(SEED, account(1), account(3), NODE, 7, 1000),
        tail_prompt(SEED, account(1), account(2), NODE, 8, 1000),
        tail_prompt(Hash32(bytes(32)), account(1), account(2), NODE, 7, 1000),
    }
    assert len(others | {one}) == 5


@given(st.lists(st.integers(1, 600), max_size=20))
def test_checks_are_drawn_from_all_that_was_recomputed(sampled: list[int]) -> None:
    drawn = draw_checks(SEED, account(1), votes(*sampled))
    assert len(drawn) == min(CHECKED_TAILS, sum(sampled))
    assert list(drawn) == sorted(set(drawn))
    assert all(0 <= place < sampled[index] for index, place in drawn)


def test_large_samples_are_drawn_more_often() -> None:
    counted = Counter(
        index for seed in range(200) for index, _ in draw_checks(Hash32(bytes([seed]) * 32), account(1), votes(10, 990))
    )
    assert counted[1] > 20 * counted[0] > 0


@given(st.lists(st.integers(0, TAIL_MAX), min_size=1, max_size=CHECKED_TAILS), st.integers(0, TAIL_DIFFERENCE_MAX))
def test_honest_tails_pass(recomputed: list[int], noise: int) -> None:
    assert judge_tails(account(1), TINY, [tail + noise for tail in recomputed], recomputed).verdict is Verdict.VALID


def test_who_computed_nothing_and_guesses_well_is_refuted() -> None:
    source = random.Random(3)
    missed = 0
    for _ in range(1000):
        truth = [round(source.gauss(10_075, 640)) for _ in range(CHECKED_TAILS)]  # as measured with the tiny model
        missed += judge_tails(account(1), TINY, [10_075] * CHECKED_TAILS, truth).verdict is not Verdict.INVALID
    assert missed == 0


def test_without_anything_to_compare_nothing_is_said() -> None:
    check = judge_tails(account(1), TINY, [], [])
    assert (check.verdict, check.reason) == (Verdict.ABSTAIN, tails.NOBODY_CHECKED)


def test_in_a_large_group_few_are_drawn_and_nobody_for_itself() -> None:
    members = [account(number) for number in range(1, 101)]
    drawn = checkers_of(SEED, account(1), members)
    assert len(drawn) == CHECKERS
    assert account(1) not in drawn
    assert drawn == checkers_of(SEED, account(1), list(reversed(members)))
    assert drawn != checkers_of(SEED, account(2), members)
    assert checkers_of(SEED, account(1), members[:5]) == frozenset(members[1:5])


NOT_COMPUTED = (Verdict.INVALID, tails.NOT_COMPUTED)
WITHHELD = (Verdict.INVALID, tails.EVIDENCE_WITHHELD)
COMPUTED = (Verdict.VALID, "")
READ_ONLY = (Verdict.ABSTAIN, tails.NOBODY_CHECKED)
Said = tuple[Verdict, str]


def outcome_of(*said: tuple[int, Said], judges: Judges | None = None) -> Said:
    """What is made of account 99, whom accounts 1, 2 and so on, of these weights, say this of."""
    weights = {account(number): weight for number, (weight, _) in enumerate(said, 1)}
    bundles = {
        account(number): replace(bundle_of(number), checks=(VoteCheck(account(99), TINY, verdict, 16, 0, reason),))
        for number, (_, (verdict, reason)) in enumerate(said, 1)
    }
    (found,) = validator_outcomes(bundles, weights, judges or Judges({TINY: {account(99): 1} | weights}))
    return found.fate, found.reason


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ([(3, NOT_COMPUTED), (3, NOT_COMPUTED), (3, COMPUTED)], NOT_COMPUTED),
        ([(3, NOT_COMPUTED), (1, WITHHELD), (2, COMPUTED)], NOT_COMPUTED),
        ([(3, NOT_COMPUTED), (2, NOT_COMPUTED), (3, COMPUTED)], (Verdict.ABSTAIN, tails.CHECKERS_SPLIT)),
        ([(1, NOT_COMPUTED), (4, COMPUTED), (3, WITHHELD)], (Verdict.ABSTAIN, tails.CHECKERS_SPLIT)),
        ([(1, NOT_COMPUTED), (5, COMPUTED), (3, WITHHELD), (50, READ_ONLY)], COMPUTED),
        ([(50, READ_ONLY), (1, (Verdict.ABSTAIN, tails.NO_TIME))], READ_ONLY),
    ],
)
def test_two_thirds_of_all_who_say_anything_of_a_validator_take_its_points(
    said: list[tuple[int, Said]], outcome: Said
) -> None:
    assert outcome_of(*said) == outcome


@pytest.mark.parametrize("accusation", [NOT_COMPUTED, WITHHELD, (Verdict.INVALID, tails.EVIDENCE_DIFFERS)])
@pytest.mark.parametrize("accusers", [1, 2, 8])
def test_where_nobody_honest_can_recompute_a_third_of_the_checkers_proves_nothing(
    accusation: Said, accusers: int
) -> None:
    """In the epoch after a change of weights, or of who alone has a model."""
    said = [(1, accusation)] * accusers + [(1, READ_ONLY)] * (CHECKERS - accusers)
    assert outcome_of(*said) == (Verdict.ABSTAIN, tails.CHECKERS_SPLIT)


def test_one_checker_proves_nothing_whatever_its_weight_and_though_nobody_else_says_anything() -> None:
    assert outcome_of((1000, WITHHELD)) == (Verdict.ABSTAIN, tails.CHECKERS_SPLIT)
    assert outcome_of((1000, WITHHELD), (1, READ_ONLY)) == (Verdict.ABSTAIN, tails.CHECKERS_SPLIT)
    assert outcome_of((1000, WITHHELD), (1, NOT_COMPUTED)) == WITHHELD


def test_who_proved_little_with_a_validator_s_models_weighs_as_little_in_its_checks() -> None:
    """Else one nonce of a rare model would make a heavy member of another the checker of all who serve it."""
    other = ModelId("other")
    proven = {
        TINY: {account(99): 50, account(1): 1, account(2): 1, account(3): 50},
        other: {account(1): 1000, account(2): 1000, account(4): 1000},
    }
    said = [(1001, NOT_COMPUTED), (1001, NOT_COMPUTED), (50, COMPUTED), (1000, NOT_COMPUTED)]
    assert outcome_of(*said) == NOT_COMPUTED
    assert outcome_of(*said, judges=Judges(proven)) == COMPUTED


def test_checkers_are_drawn_for_each_model_of_those_who_have_it() -> None:
    """So that a lazy validator of a rare model is found by as many as one of a common one."""
    members = {account(number): 1 for number in range(1, 101)}
    rare = {account(number): 5 for number in range(1, 31)}
    shared, other = ModelId("shared"), ModelId("other")
    judges = Judges(
        {TINY: rare, shared: {account(1): 3, account(40): 3}, other: dict.fromkeys(list(members)[50:], 7)},
        {other: members},
    )
    assert judges.models_to_check(account(1)) == tuple(sorted((TINY, shared)))
    able = judges.able_to_check(account(1), TINY, members)
    assert able == {account(number): 5 for number in range(2, 31)}
    assert checkers_of(SEED, account(1), able) < able.keys()
    assert judges.able_to_check(account(1), shared, members) == {account(40): 3}
    assert judges.able_to_check(account(1), other, members) == {}
    gone = {member: weight for member, weight in members.items() if member != account(7)}
    assert able.keys() - judges.able_to_check(account(1), TINY, gone) == {account(7)}
    assert judges.models_to_check(account(45)) == ()


def test_before_the_first_result_what_members_are_registered_for_is_taken_as_proven() -> None:
    members = {account(number): number for number in (1, 2)}
    first = Judges(declared={TINY: members}, is_first=True)
    assert first.models_to_check(account(1)) == (TINY,)
    assert first.able_to_check(account(1), TINY, members) == {account(2): 2}
    assert Judges(declared={TINY: members}).models_to_check(account(1)) == ()


COMMON = ModelId("a common one")


def found_of_two_models(
    rare: int, common: int, say: Callable[[Address, ModelId], Said], *, draws: int = 200
) -> dict[Verdict, int]:
    """What is made of account 1, which so many others of one or the other model check, in so many draws."""
    benches = {
        TINY: [account(1), *(account(number) for number in range(2, 2 + rare))],
        COMMON: [account(1), *(account(number) for number in range(1000, 1000 + common))],
    }
    judges = Judges({model_id: dict.fromkeys(bench, 1000) for model_id, bench in benches.items()})
    weights = {member: 1000 for bench in benches.values() for member in bench}
    found = dict.fromkeys(Verdict, 0)
    for number in range(draws):
        checks: dict[Address, list[VoteCheck]] = {}
        for model_id in benches:
            able = judges.able_to_check(account(1), model_id, weights)
            for checker in checkers_of(Hash32(number.to_bytes(32)), account(1), able):
                verdict, reason = say(checker, model_id)
                checks.setdefault(checker, []).append(VoteCheck(account(1), model_id, verdict, 16, 0, reason))
        bundles = {
            checker: replace(bundle_of(1), validator=checker, checks=tuple(said)) for checker, said in checks.items()
        }
        (outcome,) = validator_outcomes(bundles, weights, judges)
        found[outcome.fate] += 1
    return found


@pytest.mark.parametrize(("rare", "common"), [(24, 216), (8, 216), (30, 60), (3, 40)])
def test_who_voted_on_a_rare_model_alone_is_not_left_to_liars_of_a_common_one(rare: int, common: int) -> None:
    """Those who find no votes to check abstain: a cartel of a fifth, all of it with the common model, has no say."""
    liars = {account(1000 + number) for number in range((rare + common) // 5)}

    def say(checker: Address, model_id: ModelId) -> Said:
        if checker in liars:
            return WITHHELD
        return COMPUTED if model_id == TINY else READ_ONLY

    found = found_of_two_models(rare, common, say)
    assert found[Verdict.INVALID] <= 1


@pytest.mark.parametrize(("rare", "common"), [(30, 10), (30, 20), (30, 60), (3, 200)])
def test_votes_made_up_on_one_model_are_found_whatever_is_found_of_another(rare: int, common: int) -> None:
    found = found_of_two_models(rare, common, lambda _, model_id: NOT_COMPUTED if model_id == TINY else COMPUTED)
    assert found[Verdict.INVALID] == sum(found.values())


@pytest.mark.parametrize(
    ("rare", "common", "outcome"),
    [
        (COMPUTED, READ_ONLY, COMPUTED),
        (READ_ONLY, COMPUTED, COMPUTED),
        (READ_ONLY, READ_ONLY, READ_ONLY),
        (NOT_COMPUTED, COMPUTED, NOT_COMPUTED),
        (READ_ONLY, WITHHELD, WITHHELD),
    ],
)
def test_the_gravest_that_is_found_of_any_model_is_the_outcome(rare: Said, common: Said, outcome: Said) -> None:
    found = found_of_two_models(5, 5, lambda _, model_id: rare if model_id == TINY else common, draws=1)
    assert found[outcome[0]] == 1


def test_a_cartel_of_a_third_seldom_has_the_two_thirds_of_checkers_that_take_participation_away() -> None:
    """A plain majority it would have in one draw of forty. Of a model that fewer than 49 have, it never has them."""

    def has(members: int, at_least: int) -> float:
        cartel, others = -(-members // 3) - 1, members - 1
        drawn = range(at_least, CHECKERS + 1)
        ways = sum(comb(cartel, n) * comb(others - cartel, CHECKERS - n) for n in drawn)
        return ways / comb(others, CHECKERS)

    least = next(n for n in range(CHECKERS + 1) if n >= tails.OUTWEIGHS_TIMES * (CHECKERS - n))
    assert has(512, CHECKERS // 2 + 1) > 0.02
    assert max(has(members, least) for members in (49, 100, 512, 5000, 50_000)) < 0.001
    assert has(48, least) == 0 < has(49, least)


def test_what_is_said_of_validators_does_not_follow_the_order_in_which_bundles_came() -> None:
    named = replace(bundle_of(1), checks=(VoteCheck(account(9), TINY, Verdict.VALID, 16, 0, ""),))
    lower = VoteCheck(Address(account(9).lower()), TINY, Verdict.VALID, 16, 0, "")
    bundles = {account(1): named, account(2): replace(bundle_of(2), checks=(lower,))}
    turned = dict(reversed(bundles.items()))
    weights = dict.fromkeys(bundles, 1)
    judges = Judges({TINY: {account(9): 1, lower.validator: 1} | weights})
    found = validator_outcomes(bundles, weights, judges)
    assert len(found) == 2
    assert found == validator_outcomes(turned, weights, judges)
