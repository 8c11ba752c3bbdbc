"""Options that every command shares, and what follows from them: which daemon is meant, and how to print."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from node.settings import SETTINGS_FILE_NAME, SettingsError, load_settings
from node.settings.locations import DATA_DIR_VARIABLE, default_data_dir

DEFAULT_SOCKET_NAME = "control.sock"

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")


class CommandFailed(click.ClickException):
    """A command failed for a reason the operator can act on: one message on standard error, exit code 1."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: object = None) -> None:
        """Print what happened and what to do."""
        click.echo(f"error: {self.message}", err=True)
        if self.remedy:
            click.echo(f"       {self.remedy}", err=True)


@dataclass(frozen=True, slots=True)
class Target:
    """The daemon a command is about."""

    data_dir: Path
    given_socket: Path | None
    as_json: bool

    @property
    def settings_file(self) -> Path:
        """Where its settings are."""
        return self.data_dir / SETTINGS_FILE_NAME

    def socket(self) -> Path:
        """Return the daemon's control socket: as given, else as its settings say; raise CommandFailed."""
        if self.given_socket is not None:
            return self.given_socket
        if not self.settings_file.exists():
            return self.data_dir / DEFAULT_SOCKET_NAME
        try:
            return load_settings(self.settings_file).control.socket
        except SettingsError as error:
            raise CommandFailed(str(error), "Correct the settings, or name the socket with --socket.") from error


def target_options(
    command: Callable[Concatenate[Target, Arguments], Outcome],
) -> Callable[Arguments, Outcome]:
    """Give a command `--data-dir`, `--socket` and `--json`; it gets them as a Target, first."""

    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        envvar=DATA_DIR_VARIABLE,
        help=f"Data directory of the daemon.  [default: ~/.quern, or ${DATA_DIR_VARIABLE}]",
    )
    @click.option(
        "--socket",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="Control socket of the daemon.  [default: as its settings say]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
    @functools.wraps(command)
    def with_target(
        data_dir: Path | None,
        socket: Path | None,
        as_json: bool,
        *arguments: Arguments.args,
        **options: Arguments.kwargs,
    ) -> Outcome:
        target = Target(data_dir or default_data_dir(), socket, as_json)
        return command(target, *arguments, **options)

    return with_target  # type: ignore[return-value] # click calls it by keywords
