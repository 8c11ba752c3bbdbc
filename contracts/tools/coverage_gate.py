"""Fails unless the tests run nearly all lines of the contracts. Prints the share of each file.

Run by contracts/check.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.tools.thresholds import COVERAGE_OPTIONS, LINE_COVERAGE_PERCENT_MIN
from contracts.tools.toolchain import ToolFailedError, run_forge

SOURCES = "src/"


@dataclass(frozen=True, slots=True)
class FileCoverage:
    """Which lines of a file the tests ran."""

    path: str
    hits: tuple[tuple[int, int], ...]
    """Line and how often it was run, for each line that holds code."""

    @property
    def lines(self) -> int:
        """Lines that hold code."""
        return len(self.hits)

    @property
    def missed(self) -> tuple[int, ...]:
        """Lines that no test runs."""
        return tuple(line for line, count in self.hits if count == 0)


def parse_lcov(text: str) -> tuple[FileCoverage, ...]:
    """Return the contracts' own files in a report; a line that is named twice counts once, as run if it ever was."""
    files: dict[str, dict[int, int]] = {}
    current: dict[int, int] = {}
    for record in text.splitlines():
        key, _, value = record.partition(":")
        if key == "SF":
            current = files.setdefault(value.replace("\\", "/"), {})
        elif key == "DA":
            line, count = (int(number) for number in value.split(",")[:2])
            current[line] = max(count, current.get(line, 0))
    return tuple(
        FileCoverage(path, tuple(sorted(lines.items())))
        for path, lines in sorted(files.items())
        if path.startswith(SOURCES) and lines
    )


def total_percent(files: Sequence[FileCoverage]) -> float:
    """Return the share of all lines together; 0 for no lines, so that an empty report does not pass."""
    lines = sum(file.lines for file in files)
    missed = sum(len(file.missed) for file in files)
    return 100 * (lines - missed) / lines if lines else 0.0


def table(files: Sequence[FileCoverage]) -> str:
    """Return what a person reads: each file, its share and the lines that no test runs."""
    rows = [f"{'lines':>6} {'run':>6}  file (lines that no test runs)"]
    for file in files:
        missed = f" ({_ranges(file.missed)})" if file.missed else ""
        rows.append(f"{file.lines:6} {total_percent([file]):5.1f}%  {file.path}{missed}")
    rows.append(f"{sum(file.lines for file in files):6} {total_percent(files):5.1f}%  in all")
    return "\n".join(rows)


def _ranges(lines: Sequence[int]) -> str:
    groups: list[list[int]] = []
    for line in lines:
        if groups and line == groups[-1][-1] + 1:
            groups[-1].append(line)
        else:
            groups.append([line])
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}–{group[-1]}" for group in groups)


def main() -> int:
    """Run the gate; return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "lcov.info"
        try:
            run_forge(["coverage", "--report", "lcov", "--report-file", str(report), *COVERAGE_OPTIONS])
        except ToolFailedError as error:
            sys.stderr.write(f"Coverage was not measured: {error}\n")
            return 1
        if not report.exists():  # forge ends well even where it could not compile without the optimizer
            sys.stderr.write("Coverage was not measured: run `forge coverage` in contracts/ to see why\n")
            return 1
        files = parse_lcov(report.read_text(encoding="utf-8"))
    sys.stdout.write(table(files) + "\n")
    if total_percent(files) < LINE_COVERAGE_PERCENT_MIN:
        sys.stderr.write(
            f"The tests run {total_percent(files):.1f} % of the contracts' lines, {LINE_COVERAGE_PERCENT_MIN} % are "
            "wanted: write tests for the lines named above.\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
