"""Fails unless each finding of slither has an answer in contracts/SLITHER.md, and each answer a finding.

Run by contracts/check. A finding is known by its detector and by what it is about, not by its line: moving code needs
no new answer.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.tools.toolchain import CONTRACTS, ToolFailedError, run_slither

ANSWERS = CONTRACTS / "SLITHER.md"
HEADING = re.compile(r"## (?P<detector>[a-z0-9-]+)\s*$")
ANSWER = re.compile(r"- `(?P<subject>[^`]+)`: *(?P<answer>.*)$")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What slither complains of."""

    detector: str
    subject: str
    """The function, variable or contract, such as `PaymentChannels.withdraw(address)`."""


def parse_findings(report: Mapping[str, Any]) -> Mapping[Finding, str]:
    """Return the findings of a report and what slither says of each. Raises ToolFailedError for a failed run."""
    if not report.get("success"):
        raise ToolFailedError(f"slither did not finish: {report.get('error')}")
    found: dict[Finding, str] = {}
    for result in report["results"].get("detectors", ()):
        elements = result["elements"]
        subject = _subject(elements[0]) if elements else "the project"
        finding = Finding(result["check"], subject)
        said = f"{result['impact']}: {' '.join(result['description'].split())}"
        found[finding] = f"{found[finding]}\n  {said}" if finding in found else said
    return found


def _subject(element: Mapping[str, Any]) -> str:
    fields = element.get("type_specific_fields", {})
    name = str(fields.get("signature", element["name"]))
    parent = fields.get("parent")
    return f"{_subject(parent)}.{name}" if parent else name


def parse_answers(text: str) -> Sequence[Finding]:
    """Return what is answered: below a heading that names the detector, a list of subjects with an answer each."""
    answers: list[Finding] = []
    detector = ""
    for line in text.splitlines():
        if heading := HEADING.match(line):
            detector = heading["detector"]
        elif line.startswith("#"):
            detector = ""
        elif detector and (item := ANSWER.match(line)) and item["answer"]:
            answers.append(Finding(detector, item["subject"]))
    return answers


def complaints(findings: Mapping[Finding, str], answers: Sequence[Finding]) -> Sequence[str]:
    """Return a line for each finding without an answer, and for each answer without a finding or given twice."""
    lines = [
        f"{finding.detector}: `{finding.subject}` is not answered in SLITHER.md\n  {said}"
        for finding, said in sorted(findings.items())
        if finding not in answers
    ]
    lines += [
        f"{answer.detector}: `{answer.subject}` is answered in SLITHER.md, but slither does not find it: remove it"
        for answer in sorted(set(answers) - findings.keys())
    ]
    lines += [
        f"{answer.detector}: `{answer.subject}` is answered {times} times in SLITHER.md: leave one"
        for answer, times in sorted(Counter(answers).items())
        if times > 1
    ]
    return lines


def main() -> int:
    """Run the gate; return its exit status."""
    try:
        report = run_slither(["--config-file", "slither.config.json", "--fail-none", "--json", "-"])
        findings = parse_findings(json.loads(report))
    except (ToolFailedError, json.JSONDecodeError) as error:
        sys.stderr.write(f"The contracts were not analysed: {error}\n")
        return 1
    answers = parse_answers(ANSWERS.read_text(encoding="utf-8")) if ANSWERS.is_file() else ()
    lines = complaints(findings, answers)
    for line in lines:
        sys.stderr.write(f"{line}\n")
    if lines:
        sys.stderr.write("Repair each finding, or say in contracts/SLITHER.md why it is none.\n")
        return 1
    sys.stdout.write(f"slither: {len(findings)} findings, all answered\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
