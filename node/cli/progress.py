"""Progress bars for an owner at a terminal; where that is none, plain lines."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from node.models.reporting import Advance, LineReporter, Reporter


class BarReporter:
    """A bar for each piece of work, with its speed and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def tell(self, line: str) -> None:
        """See `Reporter`."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, what: str, total_bytes: int) -> Iterator[Advance]:
        """See `Reporter`."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what, total=total_bytes or None)
            yield lambda count: progress.advance(task, count)


def make_reporter() -> Reporter:
    """Return what suits the standard output."""
    console = Console()
    return BarReporter(console) if console.is_terminal else LineReporter(click.echo)
