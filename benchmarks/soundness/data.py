"""The measurements as they are committed: sums over windows of tokens, and distances of nonces, in short files.

What is kept of the figures of each token are what auditors note: sums, here over windows of WINDOW_TOKENS tokens, in
steps of UNIT_MICRO so that the files stay small.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.soundness.judging import TokenFigures
from node.protocol.audits import add_figures
from node.protocol.findings import AuditFigures

DIRECTORY = Path(__file__).parent / "data"
WINDOW_TOKENS = 64
UNIT_MICRO = 100

Rows = list[list[list[int]]]
"""Of each answer, of each window: mismatches, margin; both among the likeliest tokens alone; distance, surprise and its
variance."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All answers of one prover, as one auditor judged them."""

    answers: tuple[tuple[AuditFigures, ...], ...]
    """For each answer its windows, in order."""

    def of(self, tokens: int, *, forged: bool = False) -> list[AuditFigures]:
        """Return the figures of all stretches of `tokens`, a multiple of a window; with `forged`, of an executor that
        claimed log-probabilities exactly as the auditor finds them.
        """
        count = tokens // WINDOW_TOKENS
        found = []
        for windows in self.answers:
            for start in range(0, len(windows) - count + 1, count):
                whole = windows[start]
                for window in windows[start + 1 : start + count]:
                    whole = add_figures(whole, window)
                found.append(without_claims(whole) if forged else whole)
        return found


def without_claims(figures: AuditFigures) -> AuditFigures:
    """Return the figures of an answer whose claimed log-probabilities are the auditor's own."""
    return replace(figures, distance_micro=0)


def as_rows(answers: list[TokenFigures]) -> Rows:
    """Return the committed form of a prover's answers."""
    rows = []
    for answer in answers:
        windows = []
        for start in range(0, len(answer.margins) - WINDOW_TOKENS + 1, WINDOW_TOKENS):
            sums, among = (answer.sums(start, start + WINDOW_TOKENS, winners=winners) for winners in (True, False))
            rest = (sums.distance_micro, sums.surprise_micro, sums.variance_micro)
            windows.append(
                [
                    *(sums.mismatches, _units(sums.margin_micro), among.mismatches, _units(among.margin_micro)),
                    *map(_units, rest),
                ]
            )
        rows.append(windows)
    return rows


def _units(micro: int) -> int:
    return round(micro / UNIT_MICRO)


def answers_file(auditor: str, directory: Path = DIRECTORY) -> Path:
    """Where what one auditor found is."""
    return directory / f"answers-{auditor}.json.gz"


def write_rows(rows: Mapping[str, Rows], file: Path) -> None:
    """Write what one auditor found, by prover; the same bytes for the same rows."""
    file.write_bytes(gzip.compress(as_lines(rows).encode(), mtime=0))


def as_lines(document: Mapping[str, object]) -> str:
    """Return JSON with a line for each name."""
    lines = (f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in document.items())
    return "{" + ",\n".join(lines) + "}\n"


@cache
def read_rows(auditor: str, directory: Path = DIRECTORY) -> dict[str, Rows]:
    """Read what one auditor found, by prover."""
    found: dict[str, Rows] = json.loads(gzip.decompress(answers_file(auditor, directory).read_bytes()))
    return found


def read_windows(auditor: str, prover: str, *, winners: bool = True, directory: Path = DIRECTORY) -> Windows:
    """Read what one auditor found of one prover; without `winners` as one that is told of the likeliest tokens only."""
    rows = read_rows(auditor, directory)[prover]
    return Windows(tuple(tuple(_figures(window, winners=winners) for window in windows) for windows in rows))


def provers_of(auditor: str, directory: Path = DIRECTORY) -> list[str]:
    """Return whom an auditor judged."""
    return list(read_rows(auditor, directory))


def _figures(row: list[int], *, winners: bool) -> AuditFigures:
    mismatches, margin, *rest = row[:2] + row[4:] if winners else row[2:]
    distance, surprise, variance = rest
    return AuditFigures(
        WINDOW_TOKENS,
        mismatches,
        margin * UNIT_MICRO,
        WINDOW_TOKENS,
        distance * UNIT_MICRO,
        surprise * UNIT_MICRO,
        variance * UNIT_MICRO,
    )


def read_nonces(directory: Path = DIRECTORY) -> dict[str, list[int]]:
    """Read the squared distances of nonces from the reference's, ascending, by who computed them."""
    found: dict[str, list[int]] = json.loads((directory / "nonces.json").read_text())
    return found
