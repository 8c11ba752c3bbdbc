"""Progress at a terminal is a bar that goes away; what was told stays."""

import io

from rich.console import Console

from node.cli.progress import BarReporter, make_reporter
from node.models.reporting import LineReporter


def test_a_bar_shows_what_is_done_and_lines_stay_as_they_were_told() -> None:
    screen = io.StringIO()
    reporter = BarReporter(Console(file=screen, force_terminal=True, width=100))
    with reporter.step("x: importing", 4 * 2**20) as advance:
        advance(2**20)
        reporter.tell("x has [brackets] and a very long line: " + "y" * 150)
        advance(3 * 2**20)
    with reporter.step("x: downloading", 0) as advance:
        advance(5)
    shown = screen.getvalue()
    assert "x: importing" in shown
    assert "4.2 MB" in shown or "4.0/4.0 MiB" in shown
    assert "[brackets]" in shown
    assert "y" * 150 in shown


def test_where_there_is_no_terminal_there_are_plain_lines() -> None:
    assert isinstance(make_reporter(), LineReporter)
