"""Starts the Solidity tools that scripts/setup installed."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.tools.thresholds import FORGE_SECONDS_MAX

CONTRACTS = Path(__file__).resolve().parents[1]
TOOLS = CONTRACTS / "node_modules" / ".bin"
SLITHER = CONTRACTS.parent / ".tools" / "bin" / "slither"

SLITHER_OUTPUT = "cache/slither"
"""Slither has everything compiled anew, without tests; kept apart, it does not cost forge its own output."""


class ToolFailedError(Exception):
    """A tool is missing, failed or hangs; the message says which and what it said."""


def run_forge(arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> str:
    """Run forge on our contracts and return what it printed. Raises ToolFailedError.

    `settings` are environment variables that stand above foundry.toml.
    """
    return _run([str(TOOLS / "forge"), *arguments], {**os.environ, **(settings or {})})


def run_slither(arguments: Sequence[str]) -> str:
    """Run slither on our contracts and return what it printed. Raises ToolFailedError."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(TOOLS), os.environ.get("PATH", ""))),  # it calls forge
        "FOUNDRY_OUT": f"{SLITHER_OUTPUT}/out",
        "FOUNDRY_CACHE_PATH": f"{SLITHER_OUTPUT}/cache",
    }
    return _run([str(SLITHER), ".", *arguments], environment)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            cwd=CONTRACTS,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=FORGE_SECONDS_MAX,
        )
    except FileNotFoundError as error:
        raise ToolFailedError(f"{tool} is not installed: run scripts/setup") from error
    except subprocess.TimeoutExpired as error:
        raise ToolFailedError(f"{tool} did not finish within {FORGE_SECONDS_MAX} s") from error
    if done.returncode != 0:
        raise ToolFailedError(f"{tool} failed with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
