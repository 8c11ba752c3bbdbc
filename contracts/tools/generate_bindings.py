"""Writes contracts/bindings from contracts/artifacts, or with --check compares and fails on a difference.

Run by contracts/build and contracts/check.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from contracts.tools.binding_plan import UnsupportedAbiError, plan_contract
from contracts.tools.binding_source import module_source, package_source
from contracts.tools.python_names import snake_case

CONTRACTS = Path(__file__).resolve().parents[1]
FORMAT_SECONDS_MAX = 60


def render(artifacts: Path) -> Mapping[str, str]:
    """Return the package's files, by name, for the artifacts in a folder. Raises UnsupportedAbiError."""
    sources = sorted(artifacts.glob("*.json"))
    files = {
        f"{snake_case(source.stem)}.py": module_source(
            plan_contract(source.stem, json.loads(source.read_text(encoding="utf-8")))
        )
        for source in sources
    }
    files["__init__.py"] = package_source([source.stem for source in sources])
    return {name: _formatted(text) for name, text in sorted(files.items())}


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is committed; write nothing")
    parser.add_argument("--artifacts", type=Path, default=CONTRACTS / "artifacts", metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=CONTRACTS / "bindings", metavar="FOLDER")
    options = parser.parse_args()
    try:
        files = render(options.artifacts)
    except UnsupportedAbiError as error:
        sys.stderr.write(f"The bindings cannot be written: {error}\n")
        return 1
    present = {path.name: path for path in options.output.glob("*.py")}
    if options.check:
        return _compare(files, present)
    options.output.mkdir(exist_ok=True)
    for name, text in files.items():
        (options.output / name).write_text(text, encoding="utf-8")
    for name in present.keys() - files.keys():
        present[name].unlink()
    return 0


def _compare(files: Mapping[str, str], present: Mapping[str, Path]) -> int:
    differing = sorted(
        name
        for name in files.keys() | present.keys()
        if name not in files or name not in present or present[name].read_text(encoding="utf-8") != files[name]
    )
    for name in differing:
        sys.stderr.write(f"bindings/{name} is not what the artifacts say\n")
    if differing:
        sys.stderr.write("Run contracts/build and commit the result.\n")
    return 1 if differing else 0


def _formatted(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--config", str(CONTRACTS.parent / "pyproject.toml"), "-"]
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, text=True, check=True, timeout=FORMAT_SECONDS_MAX
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
