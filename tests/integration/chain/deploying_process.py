"""scripts/deploy.py in processes that begin with its imports made: a test that kills it dozens of times is short.

Each run is a process of its own, forked from one that has imported what the script imports, and dies like any other.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "deploy.py"
PRELOADED = [
    "httpx",
    "pytest",
    "node.chain.adapter",
    "node.chain.deployment",
    "node.chain.genesis",
    "node.chain.plan",
    "node.keys",
]


def start_deployment(arguments: Sequence[str], environment: dict[str, str], log: Path) -> ForkServerProcess:
    """Start the script; what it says goes to the end of `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_deploy, args=(list(arguments), environment, str(log)))
    process.start()
    return process


def _deploy(arguments: list[str], environment: dict[str, str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.environ.update(environment)
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")
