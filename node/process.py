"""The process that is quernd: one per data directory, ended in order by signals, with errors an operator can act on.

What it takes to read the settings is loaded first, then everything else, while the account's key is unlocked beside it.
"""

import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
import structlog
import trio

from node.collector import loading
from node.keys import KeyFileError, find_passphrase
from node.logs import configure_logs
from node.private_files import PrivateFileError
from node.settings import Settings, SettingsError, load_settings
from node.settings.locations import default_settings_file
from node.stopping import StopRequest
from node.unlocking import Unlocked, unlocking
from node.version import package_version
from p2p.repairs.unused import left_out

log = structlog.get_logger(__name__)

RECURSION_LIMIT = 1000
"""Python's own. A library raises it to 100,000 when it is imported: see docs/decisions/0007."""

EarlyError = (SettingsError, KeyFileError, PrivateFileError, OSError)
"""What an operator can do something about, before everything is loaded; the rest: node/start_errors.py."""

RunDaemon = Callable[[Settings, Unlocked, StopRequest], Awaitable[None]]


class DataDirectoryInUseError(SettingsError):
    """Another daemon runs with this data directory: two would send and sign against each other."""


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process. Raises DataDirectoryInUseError."""
    with (data_dir / "quernd.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataDirectoryInUseError(
                f"another quernd runs with the data directory {data_dir}: stop it first"
            ) from error
        yield


@asynccontextmanager
async def stopped_by_signals(stop: StopRequest) -> AsyncIterator[None]:
    """Ask for the end in order when SIGINT or SIGTERM comes; leave the block at once when nobody heeds that."""

    async def watch(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            if not stop.ask():
                scope.cancel()
                return

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, signals, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()


async def _main(run_daemon: RunDaemon, settings: Settings, key: Unlocked) -> None:
    stop = StopRequest()
    async with stopped_by_signals(stop):
        await run_daemon(settings, key, stop)


def _load() -> RunDaemon:
    """Load the daemon: most of what it takes to start."""
    with loading(), left_out():
        from node.daemon import run_daemon  # noqa: PLC0415 - while the key is unlocked

    sys.setrecursionlimit(RECURSION_LIMIT)
    return run_daemon


def _is_for_the_operator(error: BaseException) -> bool:
    """Whether one line says what to do."""
    if isinstance(error, EarlyError):
        return True
    from node.start_errors import StartError  # noqa: PLC0415 - it loads what raises them

    return isinstance(error, StartError)


def first_error(error: BaseException) -> BaseException:
    """Return the first error within nested groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_settings_file,
    show_default="~/.quern/quern.toml, or $QUERN_DATA_DIR/quern.toml",
    help="Settings file; `quern init` writes one.",
)
@click.version_option(package_version(), prog_name="quernd")
def main(config: Path) -> None:
    """Run a Quern daemon until it is interrupted.

    It serves and proves the models its settings name, takes requests of users, and is paid for it. Operate it with
    `quern`.
    """
    try:
        settings = load_settings(config)
        configure_logs(settings.node.log_level, settings.node.log_format, settings.node.log_file)
        with exclusive(settings.node.data_dir), unlocking(settings.account.keystore, _passphrase(settings)) as key:
            trio.run(_main, _load(), settings, key)
    except BaseException as error:
        reason = first_error(error)
        if isinstance(reason, KeyboardInterrupt):
            sys.exit(130)
        if not _is_for_the_operator(reason):
            raise
        click.echo(f"quernd: {reason}", err=True)
        sys.exit(1)


def _passphrase(settings: Settings) -> str:
    prompt = (lambda: str(click.prompt("Passphrase", hide_input=True))) if os.isatty(0) else None
    return find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, prompt)


if __name__ == "__main__":
    main()
