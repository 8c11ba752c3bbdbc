"""The process that is quernd: one per data directory, ended in order by signals, with errors an operator can act on."""

import fcntl
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import click
import structlog
import trio

from node.api.server import ApiPortError
from node.chain.account_lock import AccountInUseError
from node.chain.adapter import WrongChainError
from node.chain.addresses import DeploymentFileError
from node.chain.rpc import RpcError, RpcUnavailableError
from node.chain.watcher import DeepReorganisationError, NoFinalityError
from node.control.server import ControlSocketError
from node.daemon import run_daemon
from node.engine.arguments import EngineArgumentsError
from node.keys import KeyFileError, find_passphrase
from node.logs import configure_logs
from node.private_files import PrivateFileError
from node.settings import Settings, SettingsError, load_settings
from node.settings.locations import default_settings_file
from node.stopping import StopRequest
from node.store.migrations import SchemaTooNewError
from node.supervisor import ServiceGaveUpError
from node.version import package_version
from p2p.content.gateway.server import GatewayPortError
from p2p.host import PortInUseError

log = structlog.get_logger(__name__)

RECURSION_LIMIT = 1000
"""Python's own. A library raises it to 100,000 when it is imported: see docs/decisions/0007."""

StartError = (
    SettingsError,
    KeyFileError,
    PrivateFileError,
    DeploymentFileError,
    WrongChainError,
    NoFinalityError,
    AccountInUseError,
    DeepReorganisationError,
    RpcUnavailableError,
    RpcError,
    PortInUseError,
    GatewayPortError,
    ApiPortError,
    ControlSocketError,
    SchemaTooNewError,
    EngineArgumentsError,
    ServiceGaveUpError,
)
"""What an operator can do something about: one line, no traceback."""


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


async def _main(settings: Settings, passphrase: str) -> None:
    stop = StopRequest()
    async with stopped_by_signals(stop):
        await run_daemon(settings, passphrase, stop)


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
    sys.setrecursionlimit(RECURSION_LIMIT)
    try:
        settings = load_settings(config)
        configure_logs(settings.node.log_level, settings.node.log_format, settings.node.log_file)
        with exclusive(settings.node.data_dir):
            trio.run(_main, settings, _passphrase(settings))
    except BaseException as error:
        reason = first_error(error)
        if isinstance(reason, KeyboardInterrupt):
            sys.exit(130)
        if not isinstance(reason, (*StartError, OSError)):
            raise
        click.echo(f"quernd: {reason}", err=True)
        sys.exit(1)


def _passphrase(settings: Settings) -> str:
    prompt = (lambda: str(click.prompt("Passphrase", hide_input=True))) if os.isatty(0) else None
    return find_passphrase(settings.account.passphrase_file, settings.account.passphrase_env, prompt)


if __name__ == "__main__":
    main()
