"""Writes what each test costs in gas to .gas-snapshot, or with --check compares and fails on a difference.

Invariant tests are left out: what they call, and so what they cost, is random. Run by contracts/build and
contracts/check.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from contracts.tools.thresholds import FUZZ_DICTIONARY_PERCENT, FUZZ_SEED, FUZZ_THREADS
from contracts.tools.toolchain import CONTRACTS, ToolFailedError, run_forge

SNAPSHOT = CONTRACTS / ".gas-snapshot"
SNAPSHOT_ARGUMENTS = (
    *("--fuzz-seed", FUZZ_SEED),
    *("--threads", str(FUZZ_THREADS)),
    *("--no-match-test", "^invariant"),
)
SNAPSHOT_SETTINGS = {"FOUNDRY_FUZZ_DICTIONARY_WEIGHT": str(FUZZ_DICTIONARY_PERCENT)}


def parse_snapshot(text: str) -> Mapping[str, str]:
    """Return the gas of each test: `CONTRACT:test(types)` to what stands in the parentheses behind it."""
    costs = {}
    for line in text.splitlines():
        test, separator, cost = line.rpartition(" (gas: ")
        if not separator:
            test, _, cost = line.rpartition(" (runs: ")
        costs[test] = cost.removesuffix(")")
    return costs


def differences(committed: Mapping[str, str], measured: Mapping[str, str]) -> tuple[str, ...]:
    """Return a line for each test that is new, gone, or costs another amount."""
    lines = []
    for test in sorted(committed.keys() | measured.keys()):
        before, now = committed.get(test), measured.get(test)
        if before is None:
            lines.append(f"{test}: new, {now}")
        elif now is None:
            lines.append(f"{test}: gone")
        elif before != now:
            lines.append(f"{test}: was {before}, is {now}{_change(before, now)}")
    return tuple(lines)


def _change(before: str, now: str) -> str:
    if not (before.isdigit() and now.isdigit()) or int(before) == 0:
        return ""
    return f" ({100 * (int(now) - int(before)) / int(before):+.2f} %)"


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "snapshot"
        try:
            run_forge(["snapshot", "--snap", str(fresh), *SNAPSHOT_ARGUMENTS], SNAPSHOT_SETTINGS)
        except ToolFailedError as error:
            sys.stderr.write(f"Gas was not measured: {error}\n")
            return 1
        text = fresh.read_text(encoding="utf-8").rstrip("\n") + "\n"
    if not options.check:
        SNAPSHOT.write_text(text, encoding="utf-8")
        return 0
    committed = SNAPSHOT.read_text(encoding="utf-8") if SNAPSHOT.is_file() else ""
    found = differences(parse_snapshot(committed), parse_snapshot(text))
    for line in found:
        sys.stderr.write(f"{line}\n")
    if found:
        sys.stderr.write(
            "Gas is what our users pay. If the new amounts are meant, run contracts/build and commit .gas-snapshot.\n"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
