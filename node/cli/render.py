"""How answers look at a terminal: tables and lists of facts, or JSON for programs."""

import sys
from collections.abc import Iterable, Sequence

import click
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200
"""Columns where the output is no terminal: tables must not be cut for programs and tests."""


def console() -> Console:
    """Return a console on standard output; plain where that is no terminal."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else PLAIN_WIDTH, highlight=False)


def print_json(answer: BaseModel) -> None:
    """Print an answer as indented JSON."""
    click.echo(answer.model_dump_json(indent=2))


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), Text(value))
    console().print(table)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print rows under headings, or `empty` where there are none."""
    if not rows:
        click.echo(empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def duration(seconds: int) -> str:
    """Return seconds as `3 d 4 h`, `5 min 6 s`: the two largest units."""
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def listed(items: Iterable[str]) -> str:
    """Return items separated by commas, or a dash."""
    return ", ".join(items) or "–"
