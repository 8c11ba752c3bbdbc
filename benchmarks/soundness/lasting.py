"""How long a mild cheat lasts: python -m benchmarks.soundness.lasting

An executor whose every answer differs from the model by a little more than honest machines do is accused after some
epochs, when the evidence of its audited answers has added up, and proven after some more, when everybody has judged
enough of them again. Here its measured answers (data/) are drawn at random, as many in each epoch as audits draw, and
go through the rule of node/protocol/audit_outcomes.py: accused, judged again, overturned, proven. Some show answers in
every second epoch only. How many nodes their receipts name is nothing to the rule. And how often one epoch's audits
find enough against who answers little.
"""

import random
from collections.abc import Sequence
from statistics import fmean, median

import click

from benchmarks.cheats import (
    ANSWER_TOKENS,
    DRAWS_OF_A_BUSY_ENGINE,
    FEES,
    FRAUD_COST,
    VERDICT_EPOCHS,
    book_draws,
)
from benchmarks.soundness.data import read_windows
from benchmarks.soundness.report import honest_band
from benchmarks.soundness.variants import REFERENCE
from node.cli.render import print_table
from node.protocol.audits import (
    CONFIRMED_MICRO_BITS,
    NO_EVIDENCE,
    Gains,
    accumulate_confirmed,
    accumulate_evidence,
    gains,
    is_overturned,
    proven_by,
    total_of,
)
from node.protocol.calibration import HonestBand

RUNS = 50
MIXED = 1_500
"""Answers that runs draw from."""
EPOCHS_MAX = 180
"""Half a year of days: who lasts longer is called never found."""
CHEATS = (("int8", False), ("int8", True), ("fp8", True), ("fp32", False))
SHARES = (0.7, 0.6, 0.55, 0.5, 0.45, 0.4)
"""Of all answers that are by int8 weights, the others by the model's own."""
SHARES_HIDING = (1.0, 0.7, 0.6, 0.5)
"""Likewise, of who shows every second bundle."""
SMALL_BOOKS = (10, 20, 30, 100, 1_000)
"""Answers of an epoch."""
ONE_EPOCH_RUNS = 4_000


def epochs_until_proven(
    gained: Sequence[Gains], per_epoch: int, source: random.Random, *, shown_every: int = 1
) -> int | None:
    """Return in which epoch fraud is proven of who gives answers with such gains; None if not within EPOCHS_MAX."""
    evidence = confirmed = NO_EVIDENCE
    accused: list[Gains] = []
    for epoch in range(1, EPOCHS_MAX + 1):
        if accused:
            confirmed = accumulate_confirmed(confirmed, total_of(accused))
            if proven_by(confirmed, CONFIRMED_MICRO_BITS) is not None:
                return epoch
            if is_overturned(evidence, confirmed):
                evidence = confirmed = NO_EVIDENCE
        drawn = source.choices(gained, k=per_epoch) if epoch % shown_every == 0 else []
        for gain in drawn:
            evidence = accumulate_evidence(evidence, gain)
        accused = drawn if confirmed or proven_by(evidence) is not None else []
    return None


def lasting(
    prover: str,
    band: HonestBand,
    *,
    forged: bool,
    runs: int,
    share: float = 1.0,
    shown_every: int = 1,
) -> list[int | None]:
    """Return how long runs of a busy engine last of whose answers `share` is by `prover`, the rest by the reference.

    It shows answers in one epoch of so many.
    """
    source = random.Random(f"{prover} {share}")
    mixed = []
    for name, part in ((prover, share), (REFERENCE, 1.0 - share)):
        answers = read_windows(REFERENCE, name).of(ANSWER_TOKENS, forged=forged)
        mixed += source.choices([gains(figures, band) for figures in answers], k=round(part * MIXED))
    return [epochs_until_proven(mixed, DRAWS_OF_A_BUSY_ENGINE, source, shown_every=shown_every) for _ in range(runs)]


def proven_within_an_epoch(
    prover: str, band: HonestBand, *, answers: int, tokens: int = ANSWER_TOKENS, runs: int = ONE_EPOCH_RUNS
) -> float:
    """Return in which part of epochs audits find enough against who gave `answers`, of `tokens` each, all by `prover`.

    Log-probabilities are forged. Draws of tokens alone are counted; several on one answer count once.
    """
    source = random.Random(f"{prover} {answers}")
    gained = [gains(figures, band) for figures in read_windows(REFERENCE, prover).of(tokens, forged=True)]
    proven = 0
    for _ in range(runs):
        drawn = {source.randrange(answers) for _ in range(book_draws(1, answers))}
        evidence = NO_EVIDENCE
        for gain in source.choices(gained, k=len(drawn)):
            evidence = accumulate_evidence(evidence, gain)
        proven += proven_by(evidence) is not None
    return proven / runs


def expected_tokens(found: Sequence[int | None], share: float = 1.0) -> float:
    """Return what a busy engine may take for the `share` of its answers that is wrong, until a verdict is executed or
    runs end, less what verdicts cost, in tokens of Quern.
    """
    return fmean(
        share * FEES * EPOCHS_MAX if last is None else share * FEES * (last + VERDICT_EPOCHS) - FRAUD_COST
        for last in found
    )


@click.command(help=__doc__)
def main() -> None:
    """Command line."""
    band = honest_band()
    rows = [_row(prover, band, forged=forged) for prover, forged in CHEATS]
    rows += [_row("int8", band, forged=True, share=share) for share in SHARES]
    rows += [_row("int8", band, forged=True, share=share, shown_every=2) for share in SHARES_HIDING]
    headings = (
        *("PROVER", "OF ALL ANSWERS", "SHOWN EVERY", "LOG-PROBABILITIES", f"PROVEN OF {RUNS}"),
        *("EPOCHS, MEDIAN", "MOST", "EXPECTED, IN TOKENS"),
    )
    print_table(headings, rows, empty="")
    click.echo("\nfp8 with forged log-probabilities, found by the audits of one epoch:")
    print_table(
        ("ANSWERS", "DRAWS", "OF 128 TOKENS", "OF 256 TOKENS"),
        [
            (
                f"{answers:,}",
                str(book_draws(1, answers)),
                *(
                    f"{proven_within_an_epoch('fp8', band, answers=answers, tokens=tokens):.1%}"
                    for tokens in (128, 256)
                ),
            )
            for answers in SMALL_BOOKS
        ],
        empty="",
    )


def _row(prover: str, band: HonestBand, *, forged: bool, share: float = 1.0, shown_every: int = 1) -> tuple[str, ...]:
    found = lasting(prover, band, forged=forged, runs=RUNS, share=share, shown_every=shown_every)
    proven = [last for last in found if last is not None]
    epochs = (f"{median(proven):.0f}", f"{max(proven)}") if proven else ("–", "–")
    figures = (
        f"{share:.0%}",
        str(shown_every),
        "forged" if forged else "as they are",
        str(len(proven)),
        *epochs,
    )
    return prover, *figures, f"{expected_tokens(found, share):+.0f}"


if __name__ == "__main__":
    main()
