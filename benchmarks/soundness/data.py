"""The measurements as they are committed: sums over windows of tokens, and distances of nonces, in short files.

The figures token by token are some hundred megabytes of JSON on the machine that measured; what is kept of them is what
auditors note: sums, here over windows of WINDOW_TOKENS tokens, in steps of UNIT_MICRO so that the files stay small.

Detail: margins were summed up before audits cut them at a tenth of a logit. What the cut leaves of a window follows
from its sum and its mismatches where there is one of these at most, as in most windows of mild provers. Of the others
it is bounded: from above for honest machines, from below for cheats, so that no table flatters the rule.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soundness.judging import TokenFigures
from benchmarks.soundness.variants import PROVERS
from node.protocol.audits import MARGIN_CLIP_MICRO, MILLION, MISMATCH_MICRO_MIN, add_figures
from node.protocol.findings import AuditFigures

DIRECTORY = Path(__file__).parent / "data"
WINDOW_TOKENS = 64
UNIT_MICRO = 100
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)


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
    return AuditFigures(
        figures.tokens,
        figures.mismatches,
        figures.margin_micro,
        figures.claimed,
        0,
        figures.surprise_micro,
        figures.variance_micro,
    )


def as_rows(answers: list[TokenFigures]) -> list[list[list[int]]]:
    """Return the committed form of a prover's answers."""
    rows = []
    for answer in answers:
        windows = []
        for start in range(0, len(answer.margins) - WINDOW_TOKENS + 1, WINDOW_TOKENS):
            sums = answer.sums(start, start + WINDOW_TOKENS)
            margin_micro = sum(answer.margins[start : start + WINDOW_TOKENS])
            numbers = (margin_micro, sums.distance_micro, sums.surprise_micro, sums.variance_micro)
            windows.append([sums.mismatches, *(round(number / UNIT_MICRO) for number in numbers)])
        rows.append(windows)
    return rows


def read_windows(auditor: str, prover: str, directory: Path = DIRECTORY) -> Windows:
    """Read what one auditor found of one prover."""
    rows = json.loads((directory / f"answers-{auditor}.json").read_text())[prover]
    is_honest = PROVERS[prover].is_honest
    return Windows(tuple(tuple(_figures(window, is_honest=is_honest) for window in windows) for windows in rows))


def provers_of(auditor: str, directory: Path = DIRECTORY) -> list[str]:
    """Return whom an auditor judged."""
    return list(json.loads((directory / f"answers-{auditor}.json").read_text()))


def _figures(row: list[int], *, is_honest: bool) -> AuditFigures:
    mismatches, margin, distance, surprise, variance = row
    cut = most_after_cut if is_honest else least_after_cut
    return AuditFigures(
        WINDOW_TOKENS,
        mismatches,
        cut(margin * UNIT_MICRO, mismatches),
        WINDOW_TOKENS,
        distance * UNIT_MICRO,
        surprise * UNIT_MICRO,
        variance * UNIT_MICRO,
    )


def most_after_cut(margin_micro: int, mismatches: int) -> int:
    """Return the most that the cut can leave of a window's sum of margins: spread over all that may have some."""
    ties = WINDOW_TOKENS - mismatches
    return min(margin_micro, mismatches * MARGIN_CLIP_MICRO + ties * MISMATCH_MICRO_MIN)


def least_after_cut(margin_micro: int, mismatches: int) -> int:
    """Return the least that the cut can leave of it: heaped on as few mismatches as can carry it."""
    left, kept = margin_micro, 0
    for others in reversed(range(mismatches)):
        margin = max(0, min(MILLION, left - others * MISMATCH_MICRO_MIN))
        kept += min(MARGIN_CLIP_MICRO, margin)
        left -= margin
    return kept + left


def read_nonces(directory: Path = DIRECTORY) -> dict[str, list[int]]:
    """Read the squared distances of nonces from the reference's, ascending, by who computed them."""
    found: dict[str, list[int]] = json.loads((directory / "nonces.json").read_text())
    return found
