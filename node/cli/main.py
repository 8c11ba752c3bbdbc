"""The `quern` command: a thin client of the daemon's control socket."""

import difflib
import importlib
import json

import click

from node.version import package_version

COMMANDS = {
    "alerts": "node.cli.alerts",
    "ask": "node.cli.ask",
    "audit": "node.cli.audit",
    "calibrate": "node.cli.calibrate",
    "chain": "node.cli.chain",
    "conformance": "node.cli.conformance",
    "connect": "node.cli.network",
    "content": "node.cli.content",
    "doctor": "node.cli.doctor",
    "earnings": "node.cli.network",
    "epoch": "node.cli.network",
    "init": "node.cli.init",
    "ipfs": "node.cli.ipfs",
    "keys": "node.cli.keys",
    "model": "node.cli.model",
    "models": "node.cli.network",
    "network": "node.cli.discovery",
    "nodes": "node.cli.nodes",
    "peers": "node.cli.peers",
    "poc": "node.cli.poc",
    "prompts": "node.cli.prompts",
    "receipts": "node.cli.receipts",
    "rewards": "node.cli.rewards",
    "score": "node.cli.rewards",
    "status": "node.cli.network",
    "stop": "node.cli.network",
    "vault": "node.cli.vault",
    "verify": "node.cli.verify",
    "why-differ": "node.cli.poc",
    "why-not-paid": "node.cli.rewards",
}
"""Where each command is defined, under its own name. It is imported when it is used: all take a second."""


class LazyGroup(click.Group):
    """A group that imports the commands of COMMANDS when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, sorted."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, if there is one."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]}.{cmd_name} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is typed; name the nearest one where there is none."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            nearest = difflib.get_close_matches(args[0], self.list_commands(ctx), n=2)
            if not nearest:
                raise
            raise click.UsageError(f"{error.message} Did you mean {' or '.join(nearest)}?", error.ctx) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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


def main() -> None:
    """Entry point of the console script."""
    quern(prog_name="quern")
