"""docs/economics.md says what its arithmetic gives: a table that is only remembered would deter nobody."""

from pathlib import Path

import pytest

from benchmarks.deterrence import REJECT_MISMATCHES, SAMPLE_SIZE, best_cheat, cheat, slash_per_gain, tail

ECONOMICS = Path(__file__).resolve().parents[3] / "docs" / "economics.md"


@pytest.mark.parametrize("share", [0.001, 0.0028, 0.005, 0.01, 0.05, 0.1])
def test_the_table_of_fabricated_batches_is_what_the_binomial_tail_gives(share: float) -> None:
    found = cheat(share)
    gain = f"{found.gain:+.2%}".replace("%", " %") if found.gain < -0.01 else f"{found.gain:+.3%}".replace("%", " %")
    if found.gain < -0.1:
        gain = f"{found.gain:+.1%}".replace("%", " %")
    row = f"| {share:.2%} | {found.rejected:.4%} | {gain} of R |".replace("%", " %").replace("  %", " %")
    assert row.replace("-", "−") in ECONOMICS.read_text(encoding="utf-8")


@pytest.mark.parametrize(("sampled", "label"), [(0.001, "0.1 %"), (0.01, "1 %"), (0.05, "5 %"), (0.1, "10 %")])
def test_the_table_of_wrong_answers_is_what_the_formula_gives(sampled: float, label: str) -> None:
    row = f"| {label} | {slash_per_gain(sampled, 0.95):,.1f} gains | {slash_per_gain(sampled, 0.5):,.1f} gains |"
    assert row in ECONOMICS.read_text(encoding="utf-8")


def test_the_best_cheat_gains_a_fifth_of_a_percent_and_less_with_every_slash() -> None:
    without, mild, severe = best_cheat(0), best_cheat(1), best_cheat(25)
    assert without.gain == pytest.approx(0.0020, abs=0.00005)
    assert without.share == pytest.approx(0.0031, abs=0.00005)
    assert severe.gain == pytest.approx(0.000375, abs=0.000005)
    assert without.gain > mild.gain > severe.gain > 0


def test_an_honest_miner_with_one_mismatch_in_a_thousand_is_rejected_once_in_a_lifetime() -> None:
    days = 1 / tail(SAMPLE_SIZE, 0.001, REJECT_MISMATCHES)
    assert 65 < days / 365 < 75
