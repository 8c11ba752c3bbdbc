"""docs/economics.md says what its arithmetic gives: a table that is only remembered would deter nobody."""

import json
import random
import re
from pathlib import Path

import pytest

from benchmarks.cheats import (
    BARRED_EPOCHS,
    COLLATERAL,
    FAKED_SHARES,
    FEES,
    FRAUD_BURNS,
    FRAUD_COST,
    HIDDEN_SHARES,
    HIDERS,
    LEFT_OUT,
    MEMBERS,
    MISMATCH_PER_MILLION,
    PADDING_TOKENS,
    PADDINGS,
    REWARD,
    SAMPLE_SIZE,
    SITTING_SHARES,
    UNANSWERED,
    answering,
    best_faking,
    faking,
    held_by_an_honest_member,
    hiding,
    hiding_from_the_weightless,
    hiding_one_epoch,
    lazy_validator,
    leaving_out,
    occasional,
    padding,
    payer_draws_left,
    run_draws,
    withholding,
)
from benchmarks.deterrence import slash_per_gain
from node.protocol.binomial import detection_per_million, reject_from
from node.protocol.history import PARTS
from node.protocol.omissions import OMISSIONS_MAX
from node.services.omission_handing import HANDED_MAX, HOLDERS
from node.services.omission_watch import FOUND_PER_EXECUTOR_MAX

ECONOMICS = Path(__file__).resolve().parents[3] / "docs" / "economics.md"
SOUNDNESS = ECONOMICS.with_name("soundness.md")
OPERATORS = ECONOMICS.with_name("operators.md")


def in_the_text(row: str) -> bool:
    shown = row.replace("%", " %").replace("-", "−").replace("100.00 %", "100 %")
    return shown in ECONOMICS.read_text(encoding="utf-8")


@pytest.mark.parametrize("share", FAKED_SHARES)
def test_the_table_of_fabricated_batches_is_what_the_rule_s_own_tails_give(share: float) -> None:
    f = faking(share)
    chances = f"{f.in_one:.2%} | {f.in_three:.2%} | {f.in_ten:.2%} | {f.in_thirty:.2%}"
    assert in_the_text(f"| {f.share:.2%} | {chances} | {f.gain_per_epoch:+.3%} of R |")


@pytest.mark.parametrize(("sampled", "label"), [(0.001, "0.1 %"), (0.01, "1 %"), (0.05, "5 %"), (0.1, "10 %")])
def test_the_table_of_wrong_answers_is_what_the_formula_gives(sampled: float, label: str) -> None:
    row = f"| {label} | {slash_per_gain(sampled, 0.95):,.1f} gains | {slash_per_gain(sampled, 0.5):,.1f} gains |"
    assert row in ECONOMICS.read_text(encoding="utf-8")


def test_two_percent_of_fakes_are_caught_in_one_epoch_and_one_percent_in_three() -> None:
    assert faking(0.02).in_one >= 0.9
    assert faking(0.01).in_three >= 0.9


@pytest.mark.parametrize("honest", [0, MISMATCH_PER_MILLION])
def test_no_share_of_fakes_pays_by_what_is_taken_off_for_each_that_is_drawn(honest: int) -> None:
    assert best_faking(honest=honest).gain_per_epoch < 0
    assert all(faking(share, honest).gain_per_epoch <= -share for share in FAKED_SHARES)


def test_without_what_is_taken_off_the_smallest_shares_would_pay() -> None:
    """And more to a machine that never differs than to one that differs as much as the calibration allows for."""
    widest, equal = (best_faking(honest=honest, taken_off=0).gain_per_epoch for honest in (MISMATCH_PER_MILLION, 0))
    assert 0 < widest < 0.0003 < equal < 0.0006


@pytest.mark.parametrize(
    ("rate", "one", "ten", "thirty"),
    [
        (281, 0, 0, 0),
        (562, 0, 47, 641),
        (1000, 15, 6487, 145_695),
        (2000, 658, 330_733, 983_854),
        (5000, 45_716, 999_027, 999_999),
    ],
)
def test_an_honest_miner_is_rejected_as_seldom_as_the_table_says(rate: int, one: int, ten: int, thirty: int) -> None:
    for epochs, parts, expected in ((1, PARTS[0], one), (10, PARTS[2], ten), (30, PARTS[3], thirty)):
        drawn = epochs * SAMPLE_SIZE
        assert detection_per_million(drawn, reject_from(drawn, MISMATCH_PER_MILLION, parts), rate, 0) == expected


@pytest.mark.parametrize("proof", [0.999, 0.5, 0.1, 0.02])
def test_wrong_answers_all_day_lose_more_than_they_take_even_if_an_audit_rarely_proves_them(proof: float) -> None:
    assert answering("any", FEES, proof).expected < 0


@pytest.mark.parametrize("share", [0.0005, 0.001, 0.01, 0.1, 0.5, 1.0])
def test_wrong_answers_now_and_then_lose_more_than_they_take_before_any_verdict(share: float) -> None:
    assert occasional(share) < 0


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_wrong_answers_that_are_not_handed_over_lose_more_than_their_fees(share: float) -> None:
    assert withholding(share) < 0
    assert in_the_text(f"{withholding(1.0):+.1f} tokens an epoch")


@pytest.mark.parametrize("answers", HIDERS)
@pytest.mark.parametrize("share", [*HIDDEN_SHARES, 0.003, 0.03, 0.3])
def test_to_hide_a_bundle_whose_draw_is_bad_loses_more_than_the_wrong_answers_take(share: float, answers: int) -> None:
    assert hiding(share, answers).expected < 0
    assert hiding_one_epoch(share, answers) < 0


def test_to_hide_costs_more_than_to_withhold() -> None:
    assert hiding(1.0).expected < withholding(1.0) < 0


@pytest.mark.parametrize("answers", HIDERS)
@pytest.mark.parametrize("share", HIDDEN_SHARES)
def test_the_table_of_hidden_bundles_is_what_the_draws_give(share: float, answers: int) -> None:
    h = hiding(share, answers)
    chances = " | ".join(f"{chance:.1%}" for chance in (*h.clean, h.hidden)).replace("100.0%", "100%")
    worth = f"{h.expected:+.3f} | {hiding_one_epoch(share, answers):+.3f}"
    shown = f"{share:.2%}".replace("100.00%", "100%")
    assert in_the_text(f"| {answers:,} | {shown} | {h.draws[0]}, {h.draws[1]} | {chances} | {worth} |")


@pytest.mark.parametrize("sitting", SITTING_SHARES)
def test_to_hide_from_payers_without_weight_does_not_pay_where_members_vote_on_what_they_are_handed(
    sitting: float,
) -> None:
    worth = hiding_from_the_weightless(sitting)
    assert worth < 0
    assert in_the_text(f"| {sitting:.0%} | {held_by_an_honest_member(sitting):.1%} | {worth:+.1f} |")


def test_without_anybody_to_hand_proofs_to_it_would_pay() -> None:
    assert f"Without such payers it gained {hiding_from_the_weightless(1.0):.1f}." in ECONOMICS.read_text("utf-8")
    assert hiding_from_the_weightless(0.72) < 0 < hiding_from_the_weightless(0.73)


def test_payers_with_weight_lose_nothing_by_the_others() -> None:
    assert hiding_from_the_weightless(0.0) == pytest.approx(hiding(1.0).expected)


@pytest.mark.parametrize("proofs", LEFT_OUT)
def test_the_table_of_answers_left_out_is_what_the_score_gives(proofs: int) -> None:
    assert in_the_text(f"| {proofs} | {leaving_out(proofs):+.1f} |")


def test_as_many_proofs_as_a_payer_finds_outweigh_a_filled_book() -> None:
    assert leaving_out(FOUND_PER_EXECUTOR_MAX) < 0
    assert leaving_out(232) > 0 > leaving_out(233)
    assert "less than 233 of one epoch" in ECONOMICS.read_text(encoding="utf-8")
    assert FOUND_PER_EXECUTOR_MAX == max(LEFT_OUT) <= HANDED_MAX


def test_members_bundles_have_room_for_as_many() -> None:
    """Each with the holders that a lot gives it, where bundles carry OMISSIONS_MAX and a third does not vote."""
    source, runs = random.Random(0), 20
    voted = 0
    for _ in range(runs):
        handed: dict[int, list[int]] = {}
        for number in range(FOUND_PER_EXECUTOR_MAX):
            for member in source.sample(range(MEMBERS), HOLDERS):
                handed.setdefault(member, []).append(number)
        honest = (numbers for member, numbers in handed.items() if member >= MEMBERS // 3)
        voted += len({number for numbers in honest for number in numbers[:OMISSIONS_MAX]})
    expected = held_by_an_honest_member(1 / 3) * FOUND_PER_EXECUTOR_MAX
    assert 0.95 * expected < voted / runs <= expected * 1.01


def test_what_soundness_says_of_omissions_is_what_the_program_gives() -> None:
    text = SOUNDNESS.read_text(encoding="utf-8").replace("−", "-")
    assert f"{hiding(1.0).expected:+.1f} an epoch; {hiding_from_the_weightless():+.1f} where no payer has" in text
    assert f"{leaving_out(320):+.1f} an epoch with so many proofs; **{leaving_out(16):+.1f} with 16" in text


@pytest.mark.parametrize("made_up", PADDINGS)
def test_the_table_of_filled_books_is_what_is_drawn_of_them(made_up: int) -> None:
    p = padding(made_up, PADDING_TOKENS)
    assert in_the_text(f"| {p.answers:,} | {p.draws} | {p.of_members:.2f} | {p.of_others:.2f} |")


@pytest.mark.parametrize("made_up", [1, 10, 100, 1_000, 10_000, 260_000])
@pytest.mark.parametrize("tokens", [1, 256, 32_000])
def test_filling_its_book_never_halves_what_is_drawn_of_what_members_paid_for(made_up: int, tokens: int) -> None:
    assert padding(made_up, tokens).of_members >= padding(0, tokens).of_members / 2


def test_a_batch_of_fakes_costs_thirty_times_what_it_would_earn_even_if_its_owner_comes_back_at_once() -> None:
    assert FRAUD_COST > 30 * REWARD
    assert FRAUD_COST == COLLATERAL * FRAUD_BURNS + REWARD + FEES


def test_the_cost_of_fraud_is_that_of_the_guide_s_plan() -> None:
    plan = json.loads(re.findall(r"```json\n(.*?)```", OPERATORS.read_text("utf-8"), re.DOTALL)[0])
    assert float(plan["min_collateral"]) == COLLATERAL
    assert plan["fraud_penalty"] == {"per_mille": round(1000 * FRAUD_BURNS), "barred_epochs": BARRED_EPOCHS}
    assert f"F = {FRAUD_COST:.0f} tokens" in SOUNDNESS.read_text("utf-8")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("| all answers by another model, fewer layers, a small one scored", answering("", FEES, 0.999).expected),
        ("| answers that an audit proves once in a hundred |", answering("", FEES, 0.01).expected),
        ("| the same in one answer of a hundred |", occasional(0.01)),
        ("| all nonces made up, copied", -FRAUD_COST),
        ("| nonces by another model", -FRAUD_COST),
    ],
)
def test_the_table_of_cheats_says_what_the_arithmetic_gives(row: str, expected: float) -> None:
    (line,) = [line for line in SOUNDNESS.read_text("utf-8").splitlines() if line.startswith(row)]
    assert line.endswith(f"| {expected:+.0f} |".replace("-", "−"))


def test_a_lazy_validator_saves_less_than_it_loses() -> None:
    (_, saved), (_, lost) = lazy_validator()
    assert saved < lost


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05])
def test_real_draws_reject_as_often_as_the_tails_say(share: float) -> None:
    runs = 150
    expected = faking(share).in_one
    error = (expected * (1 - expected) / runs) ** 0.5
    assert abs(run_draws(share, runs) - expected) <= 4 * error + 0.02  # p0 is counted in the tails, not drawn


def test_what_requests_that_were_never_answered_take_from_a_member_s_draws_is_what_the_formula_gives() -> None:
    shares = "; ".join(f"{share:.0%}: {payer_draws_left(share):.0%}".replace("%", " %") for share in UNANSWERED)
    assert shares in ECONOMICS.read_text(encoding="utf-8")
