"""Calls about content: to the daemon where one runs, else the same work on the same store by this process.

Several processes may share a store, so nothing is lost by that but the network: what is not held cannot be had.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import trio
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from node.cli.calls import how_to_start
from node.cli.options import CommandFailed, Target
from node.control.client import ControlError, DaemonNotRunningError, connect_control
from node.control.content_methods import content_method_table
from node.control.content_views import ContentProgress
from node.control.jsonrpc import RpcError
from node.control.methods import parse_params
from node.control.views import View
from node.operations.content import StoreOperations
from node.settings import SettingsError, load_settings
from p2p.content.blockstore import BlockStore

CONTENT_DIRECTORY_NAME = "content"
WORK_SECONDS_MAX = 7 * 24 * 3600
"""Terabytes may be hashed or fetched; whoever has had enough presses Ctrl-C."""
LINE_SECONDS = 10.0
"""Between two lines of progress where standard error is no terminal."""

Answer = TypeVar("Answer", bound=View)
Arguments = ParamSpec("Arguments")


def offline_option(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Give a command `--offline`."""
    return click.option("--offline", is_flag=True, help="Do not ask a daemon; use only what is held here.")(command)


def call_content(
    target: Target, method: str, answer_type: type[Answer], params: Mapping[str, Any] | None = None, *, offline: bool
) -> Answer:
    """Call a content method and return its answer; shows progress on standard error. Raises CommandFailed."""
    with ProgressReport() as report:

        async def on_event(event: Mapping[str, Any]) -> None:
            report.show(ContentProgress.model_validate(event))

        async def call() -> Answer:
            if not offline:
                try:
                    async with connect_control(target.socket()) as client:
                        return await client.call(
                            method, params or {}, answer_type, deadline_seconds=WORK_SECONDS_MAX, on_event=on_event
                        )
                except DaemonNotRunningError:
                    pass
            return await _call_here(target, method, answer_type, params or {}, report)

        try:
            return trio.run(call)
        except (ControlError, RpcError) as error:
            raise CommandFailed(error.message, error.remedy) from error
        except OSError as error:
            raise CommandFailed(str(error), "Run this command as the user the daemon runs as.") from error


async def _call_here(
    target: Target, method: str, answer_type: type[Answer], params: Mapping[str, Any], report: "ProgressReport"
) -> Answer:
    directory, bytes_max = _store_of(target)
    store = await trio.to_thread.run_sync(lambda: BlockStore(directory, bytes_max=bytes_max))
    with closing(store):
        called = content_method_table(StoreOperations(store, None))[method]

        async def emit(view: View) -> None:
            if isinstance(view, ContentProgress):
                report.show(view)

        answer = await called.run(parse_params(called, params), emit)
        return answer_type.model_validate(answer.model_dump())


def _store_of(target: Target) -> tuple[Path, int]:
    """Return the directory and the limit of the daemon's store; raise CommandFailed."""
    if target.settings_file.exists():
        try:
            settings = load_settings(target.settings_file)
        except SettingsError as error:
            raise CommandFailed(str(error), "Correct the settings.") from error
        return settings.node.data_dir / CONTENT_DIRECTORY_NAME, settings.content.cache_bytes_max
    directory = target.data_dir / CONTENT_DIRECTORY_NAME
    if not directory.is_dir():
        raise CommandFailed(f"there is no content store in {target.data_dir}", how_to_start(target))
    return directory, 0


class ProgressReport:
    """A bar where standard error is a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._told = time.monotonic()

    def __enter__(self) -> "ProgressReport":
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._bar.stop()

    def show(self, progress: ContentProgress) -> None:
        """Show how far it is."""
        if self._console.is_terminal:
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task(progress.what)
            self._bar.update(
                self._task,
                description=progress.what,
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )
        elif time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            of = "" if progress.total_bytes is None else f" of {progress.total_bytes}"
            click.echo(f"{progress.what}: {progress.done_bytes}{of} bytes", err=True)


def size_in_words(size: int) -> str:
    """Return bytes as `1.5 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
