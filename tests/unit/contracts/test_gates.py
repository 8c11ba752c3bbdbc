"""The gates let nothing through: not an empty report, not a test that is gone, not a finding without an answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from contracts.tools import coverage_gate, gas_gate, generate_bindings, slither_gate
from contracts.tools.coverage_gate import parse_lcov, table, total_percent
from contracts.tools.gas_gate import differences, parse_snapshot
from contracts.tools.slither_gate import Finding, complaints, parse_answers, parse_findings
from contracts.tools.toolchain import ToolFailedError

LCOV = """TN:
SF:node_modules/@openzeppelin/contracts/access/Ownable.sol
DA:1,0
end_of_record
SF:src/A.sol
DA:3,4
DA:4,0
DA:5,0
DA:9,0
DA:9,2
end_of_record
SF:src/B.sol
DA:1,1
end_of_record
SF:test/A.t.sol
DA:1,0
end_of_record
"""


def failing_forge(arguments: object, settings: object = None) -> str:
    raise ToolFailedError("forge is not installed: run scripts/setup")


def test_coverage_counts_the_contracts_own_lines_once() -> None:
    files = parse_lcov(LCOV)
    assert [(file.path, file.lines, file.missed) for file in files] == [("src/A.sol", 4, (4, 5)), ("src/B.sol", 1, ())]
    assert total_percent(files) == 60


def test_the_coverage_table_names_the_lines_that_no_test_runs() -> None:
    rows = table(parse_lcov(LCOV)).splitlines()
    assert "50.0%  src/A.sol (4–5)" in rows[1]
    assert rows[2].endswith("src/B.sol")
    assert "60.0%  in all" in rows[3]


def test_an_empty_coverage_report_does_not_pass() -> None:
    assert total_percent(parse_lcov("")) == 0


@pytest.mark.parametrize(("hits", "status"), [((97, 3), 0), ((96, 4), 1), ((100, 0), 0)])
def test_coverage_fails_below_the_threshold(
    hits: tuple[int, int], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = [1] * hits[0] + [0] * hits[1]
    report = "SF:src/A.sol\n" + "".join(f"DA:{line},{count}\n" for line, count in enumerate(counts, start=1))

    def forge(arguments: list[str]) -> str:
        Path(arguments[arguments.index("--report-file") + 1]).write_text(report, encoding="utf-8")
        return ""

    monkeypatch.setattr(coverage_gate, "run_forge", forge)
    assert coverage_gate.main() == status
    assert ("write tests" in capsys.readouterr().err) == bool(status)


def test_a_gate_whose_tool_fails_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_gate, "run_forge", failing_forge)
    monkeypatch.setattr(gas_gate, "run_forge", failing_forge)
    monkeypatch.setattr(slither_gate, "run_slither", failing_forge)
    monkeypatch.setattr("sys.argv", ["gas_gate", "--check"])
    assert (coverage_gate.main(), gas_gate.main(), slither_gate.main()) == (1, 1, 1)


BEFORE = "A:testOne() (gas: 100)\nA:testFuzz(uint8) (runs: 256, μ: 10, ~: 9)\nA:testGone() (gas: 1)\n"
AFTER = "A:testOne() (gas: 110)\nA:testFuzz(uint8) (runs: 256, μ: 10, ~: 9)\nA:testNew() (gas: 2)\n"


def test_gas_differences_name_what_changed_what_is_new_and_what_is_gone() -> None:
    assert differences(parse_snapshot(BEFORE), parse_snapshot(AFTER)) == (
        "A:testGone(): gone",
        "A:testNew(): new, 2",
        "A:testOne(): was 100, is 110 (+10.00 %)",
    )
    assert differences(parse_snapshot(BEFORE), parse_snapshot(BEFORE)) == ()


def test_a_fuzz_test_that_costs_another_amount_is_a_difference() -> None:
    (line,) = differences(parse_snapshot(BEFORE), parse_snapshot(BEFORE.replace("~: 9", "~: 8")))
    assert line == "A:testFuzz(uint8): was 256, μ: 10, ~: 9, is 256, μ: 10, ~: 8"


def test_gas_is_measured_with_inputs_that_depend_on_nothing_but_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def forge(arguments: list[str], settings: dict[str, str]) -> str:
        asked.update(arguments=arguments, settings=settings)
        Path(arguments[arguments.index("--snap") + 1]).write_text(BEFORE, encoding="utf-8")
        return ""

    monkeypatch.setattr(gas_gate, "run_forge", forge)
    monkeypatch.setattr(gas_gate, "SNAPSHOT", tmp_path / "snapshot")
    monkeypatch.setattr("sys.argv", ["gas_gate"])
    assert gas_gate.main() == 0
    assert " --threads 1 " in " ".join(asked["arguments"])
    assert asked["settings"] == {"FOUNDRY_FUZZ_DICTIONARY_WEIGHT": "0"}
    monkeypatch.setattr("sys.argv", ["gas_gate", "--check"])
    assert gas_gate.main() == 0
    (tmp_path / "snapshot").write_text(AFTER, encoding="utf-8")
    assert gas_gate.main() == 1
    (tmp_path / "snapshot").unlink()
    assert gas_gate.main() == 1


def finding(check: str, function: str, line: int) -> dict[str, Any]:
    parent = {"type": "contract", "name": "Vault", "type_specific_fields": {}}
    element = {"type": "function", "name": "f", "type_specific_fields": {"signature": function, "parent": parent}}
    return {"check": check, "impact": "High", "description": f"bad\n at {line}", "elements": [element]}


def report(*findings: dict[str, Any]) -> dict[str, Any]:
    return {"success": True, "error": None, "results": {"detectors": list(findings)}}


ANSWERS = """# Prose
- `Vault.ignored()`: above the first detector
## timestamp
- `Vault.take(uint256)`: hours
- `Vault.empty()`:
"""


def test_a_finding_without_an_answer_is_a_complaint() -> None:
    found = parse_findings(report(finding("timestamp", "take(uint256)", 7), finding("suicidal", "take(uint256)", 7)))
    lines = complaints(found, parse_answers(ANSWERS))
    assert lines == ["suicidal: `Vault.take(uint256)` is not answered in SLITHER.md\n  High: bad at 7"]


def test_an_answer_outlives_moved_code() -> None:
    answers = parse_answers(ANSWERS)
    assert complaints(parse_findings(report(finding("timestamp", "take(uint256)", 7))), answers) == []
    assert complaints(parse_findings(report(finding("timestamp", "take(uint256)", 9))), answers) == []


def test_an_answer_without_a_finding_is_a_complaint() -> None:
    (line,) = complaints({}, parse_answers(ANSWERS))
    assert "remove it" in line


def test_an_empty_answer_and_one_without_a_detector_answer_nothing() -> None:
    assert parse_answers(ANSWERS) == [Finding("timestamp", "Vault.take(uint256)")]


def test_an_answer_given_twice_is_a_complaint() -> None:
    found = parse_findings(report(finding("timestamp", "take(uint256)", 7)))
    (line,) = complaints(found, parse_answers(ANSWERS + "- `Vault.take(uint256)`: days\n"))
    assert "answered 2 times" in line


def test_a_failed_analysis_does_not_pass_as_one_without_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"success": False, "error": "no compiler", "results": {}}
    with pytest.raises(ToolFailedError, match="no compiler"):
        parse_findings(failed)
    monkeypatch.setattr(slither_gate, "run_slither", lambda arguments: json.dumps(failed))
    assert slither_gate.main() == 1


def test_the_committed_bindings_are_those_of_the_committed_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate_bindings", "--check"])
    assert generate_bindings.main() == 0
