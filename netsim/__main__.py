"""The simulator's command line: `python -m netsim run`."""

import logging
import sys
import time

import click
import structlog

from netsim.population import PopulationError, read_population
from netsim.scenario import Outcome, run_scenario
from netsim.trial import SAMPLE_SIZE, Trial, run_trial
from netsim.trial_findings import judge_trial
from netsim.trial_report import report_lines


@click.group()
def main() -> None:
    """Quern's simulator: the daemon's services over simulated chain, network, content and engines."""


@main.command()
@click.option(
    "--nodes", default=20, show_default=True, type=click.IntRange(4, 1000),
    help="Nodes; without --population the last one cheats.",
)  # fmt: skip
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1, 1000), help="Epochs to run through.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0, 2**31), help="Same seed, same run.")
@click.option(
    "--trace-hash", is_flag=True, help="Without --population: print the hash of the whole run as the last line."
)
@click.option("--population", help="A TOML file or a name (docs/simulator.md): who cheats how, and who comes and goes.")
@click.option(
    "--sample", default=SAMPLE_SIZE, show_default=True, type=click.IntRange(4, 512),
    help="With --population: nonces drawn of each batch.",
)  # fmt: skip
@click.option("--hashes", is_flag=True, help="With --population: print every honest node's result of every epoch.")
@click.option("--log", is_flag=True, help="Show what the nodes log (virtual time is not shown).")
def run(
    nodes: int,
    epochs: int,
    seed: int,
    trace_hash: bool,
    population: str | None,
    sample: int,
    hashes: bool,
    log: bool,
) -> None:
    """Run honest nodes and one cheat, or a whole population, through whole epochs, and say who was paid."""
    level = logging.INFO if log else logging.CRITICAL
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if population is not None:
        _run_population(population, nodes, epochs, seed, sample, hashes=hashes)
        return
    started = time.monotonic()
    outcome = run_scenario(nodes=nodes, epochs=epochs, seed=seed, tell=_tell)
    _report(outcome, time.monotonic() - started)
    if trace_hash:
        click.echo(outcome.trace_hash)
    if not all(epoch.posted for epoch in outcome.epochs):
        sys.exit(1)


def _run_population(population: str, nodes: int, epochs: int, seed: int, sample: int, *, hashes: bool) -> None:
    try:
        trial = Trial(
            read_population(population), nodes, epochs, seed, sample_size=sample, nonces_max=sample + sample // 2
        )
        trial.population.strategies(nodes)
    except PopulationError as error:
        raise click.ClickException(str(error)) from error
    outcome = run_trial(trial, _tell)
    findings = judge_trial(outcome)
    for line in report_lines(outcome, findings, hashes=hashes):
        click.echo(line)
    if findings.failures:
        sys.exit(1)


def _tell(line: str) -> None:
    """Progress goes where it does not mix with what a run comes to."""
    click.echo(line, err=True)


def _report(outcome: Outcome, seconds: float) -> None:
    for epoch in outcome.epochs:
        weights = dict(epoch.weights)
        honest = sum(account in weights for account in outcome.honest)
        cheats = sum(account in weights for account in outcome.cheats)
        state = "posted" if epoch.posted else "NOT POSTED"
        click.echo(
            f"epoch {epoch.epoch}: {state}, next group has {honest} of {len(outcome.honest)} honest nodes "
            f"and {cheats} of {len(outcome.cheats)} cheats, reward {epoch.reward_total}"
        )
    click.echo(f"{outcome.answers} answers cost {outcome.answer_price}, vouchers redeemed for {outcome.redeemed}")
    click.echo(f"claimed by {len(outcome.claimed)} accounts, {outcome.minted} minted")
    click.echo(
        f"{outcome.events} events, {outcome.messages} messages, "
        f"{outcome.virtual_seconds:.0f} virtual seconds in {seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
