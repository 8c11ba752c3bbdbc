"""The arithmetic behind docs/economics.md: .venv/bin/python -m benchmarks.deterrence

Exact sums, no simulation: what a cheat expects to gain, and what slash takes that away.
"""

from dataclasses import dataclass
from math import comb

import click

from node.cli.render import print_table

SAMPLE_SIZE = 64
REJECT_MISMATCHES = 3
"""The plan of docs/operators.md."""
FABRICATED_SHARES = (0.0005, 0.001, 0.0028, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
MISMATCH_RATES = (0.0001, 0.001, 0.002, 0.005, 0.01, 0.02)
SAMPLED = (0.001, 0.01, 0.05, 0.1)
PROVEN = (0.5, 0.95)
SEARCH_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Cheat:
    """A share of fabricated nonces, and what comes of it in units of the batch's reward."""

    share: float
    rejected: float
    """Probability that the batch is rejected."""
    gain: float
    """What it expects beyond computing only the honest share, when a rejection costs the batch's reward alone."""


def tail(trials: int, probability: float, least: int) -> float:
    """Return the probability of at least `least` successes."""
    below = sum(
        comb(trials, count) * probability**count * (1 - probability) ** (trials - count) for count in range(least)
    )
    return max(0.0, 1 - below)


def cheat(share: float, slash: float = 0.0) -> Cheat:
    """Return what fabricating `share` of a batch comes to; `slash` is in units of the batch's reward."""
    rejected = tail(SAMPLE_SIZE, share, REJECT_MISMATCHES)
    return Cheat(share, rejected, share - rejected * (1 + slash))


def best_cheat(slash: float) -> Cheat:
    """Return the share that pays best."""
    return max((cheat(step / SEARCH_STEPS, slash) for step in range(1, SEARCH_STEPS + 1)), key=lambda found: found.gain)


def slash_per_gain(sampled: float, proven: float) -> float:
    """Return (1 − q·p)/(q·p): how many times its gain an offence must cost to be worth nothing."""
    caught = sampled * proven
    return (1 - caught) / caught


@click.command(help=__doc__)
def main() -> None:
    """Command line."""
    click.echo(f"A batch of which a share is fabricated ({SAMPLE_SIZE} sampled, {REJECT_MISMATCHES} reject):")
    print_table(
        ("FABRICATED", "REJECTED", "GAIN, IN REWARDS"),
        [(f"{c.share:.2%}", f"{c.rejected:.4%}", f"{c.gain:+.5f}") for c in map(cheat, FABRICATED_SHARES)],
        empty="",
    )
    click.echo("\nThe share that pays best:")
    print_table(
        ("SLASH, IN REWARDS", "FABRICATED", "GAIN, IN REWARDS"),
        [
            (f"{slash:g}", f"{found.share:.3%}", f"{found.gain:+.6f}")
            for slash in (0, 1, 5, 25)
            for found in (best_cheat(slash),)
        ],
        empty="",
    )
    click.echo("\nAn honest batch whose nonces mismatch now and then:")
    print_table(
        ("MISMATCHES", "REJECTED"),
        [(f"{rate:.2%}", f"{tail(SAMPLE_SIZE, rate, REJECT_MISMATCHES):.5%}") for rate in MISMATCH_RATES],
        empty="",
    )
    click.echo("\nA wrong answer: what it must cost, in gains:")
    print_table(
        ("SAMPLED q", *(f"PROVEN p = {proven:.0%}" for proven in PROVEN)),
        [(f"{sampled:.1%}", *(f"{slash_per_gain(sampled, proven):,.1f}" for proven in PROVEN)) for sampled in SAMPLED],
        empty="",
    )


if __name__ == "__main__":
    main()
