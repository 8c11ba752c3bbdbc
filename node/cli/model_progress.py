"""How far the daemon is with the files of a model, for whoever waits at a terminal."""

import sys
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class ModelProgressBar:
    """A bar on standard error, for as long as the context lasts; lines of text where that is no terminal."""

    def __init__(self, title: str, *, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not (shown and sys.stderr.isatty()),
        )
        self._task = self._progress.add_task(title, total=None)
        self._lines = shown and not sys.stderr.isatty()
        self._told = ""

    def __enter__(self) -> "ModelProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    async def on_event(self, event: Mapping[str, Any]) -> None:
        """Show how far it is."""
        done, total, message = int(event["bytes_done"]), int(event["bytes_total"]), str(event.get("message", ""))
        self._progress.update(self._task, completed=done, total=total or None, description=message[:60] or None)
        if self._lines and message and message != self._told:
            self._told = message
            click.echo(message, err=True)
