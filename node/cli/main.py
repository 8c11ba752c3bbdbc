"""The `quern` command: a thin client of the daemon's control socket."""

import json

import click

from node.cli.ask import ask
from node.cli.chain import chain
from node.cli.content import content
from node.cli.discovery import network
from node.cli.doctor import doctor
from node.cli.init import init
from node.cli.ipfs import ipfs
from node.cli.model import model
from node.cli.network import connect, earnings, epoch, models, status, stop
from node.cli.peers import peers
from node.cli.vault import vault
from node.version import package_version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def quern() -> None:
    """Run a Quern node and use its network.

    \b
    First steps:
      quern init --model tiny       make settings and keys in ~/.quern
      quernd                        start the daemon
      quern doctor                  check that everything works
      quern ask "Hello, network"    ask a question

    Commands speak to the daemon through its control socket; name another daemon with --data-dir or --socket. Exit
    codes: 0 done, 1 failed (or a fault found by doctor), 2 wrong usage.
    """


@quern.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def version(as_json: bool) -> None:
    """Print the version of Quern."""
    click.echo(json.dumps({"version": package_version()}) if as_json else package_version())


COMMANDS = (
    init,
    status,
    peers,
    network,
    models,
    model,
    epoch,
    earnings,
    chain,
    ipfs,
    content,
    vault,
    ask,
    doctor,
    connect,
    stop,
)
for _command in COMMANDS:
    quern.add_command(_command)


def main() -> None:
    """Entry point of the console script."""
    quern(prog_name="quern")
