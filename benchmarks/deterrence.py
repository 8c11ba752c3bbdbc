"""The arithmetic behind docs/economics.md: .venv/bin/python -m benchmarks.deterrence

Exact sums, no simulation: what slash takes away the gain of an offence that is found now and then. What each cheat is
worth under the example plan is in benchmarks/cheats.py.
"""

import click

from node.cli.render import print_table

SAMPLED = (0.001, 0.01, 0.05, 0.1)
PROVEN = (0.5, 0.95)


def slash_per_gain(sampled: float, proven: float) -> float:
    """Return (1 − q·p)/(q·p): how many times its gain an offence must cost to be worth nothing."""
    caught = sampled * proven
    return (1 - caught) / caught


@click.command(help=__doc__)
def main() -> None:
    """Command line."""
    click.echo("A wrong answer: what it must cost, in gains:")
    print_table(
        ("SAMPLED q", *(f"PROVEN p = {proven:.0%}" for proven in PROVEN)),
        [(f"{sampled:.1%}", *(f"{slash_per_gain(sampled, proven):,.1f}" for proven in PROVEN)) for sampled in SAMPLED],
        empty="",
    )


if __name__ == "__main__":
    main()
