"""What this machine computes with, in the words that go on chain: `2x NVIDIA H200`, or the processor and its cores.

The words must be the same at every start, for a change costs the gas of a registration: no free memory, no clock rates.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

HARDWARE_CHARACTERS_MAX = 128
QUERY_SECONDS_MAX = 5.0
"""A driver that hangs must not hang the daemon."""
QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
DRIVER_DIRECTORY = Path("/proc/driver/nvidia/gpus")
PROCESSOR_FILE = Path("/proc/cpuinfo")


def detect_hardware(*, on_cpu: bool, gpus: str = "") -> str:
    """Return what an engine on this machine runs on: its GPUs; its processor with `on_cpu`, or without GPUs.

    `gpus` are the numbers of those it uses, separated by commas; empty for all.
    """
    names = [] if on_cpu else (_gpus_asked(gpus) or _gpus_of_driver(DRIVER_DIRECTORY, gpus))
    text = describe_gpus(names) if names else describe_processor(_read(PROCESSOR_FILE), os.cpu_count() or 1)
    return text[:HARDWARE_CHARACTERS_MAX]


def describe_gpus(names: Iterable[str]) -> str:
    """Return `2x NVIDIA H200, 1x NVIDIA L4` for a name per GPU."""
    counts = Counter(" ".join(name.split()) for name in names)
    return ", ".join(f"{count}x {name}" for name, count in sorted(counts.items()))


def describe_processor(cpuinfo: str, cores: int) -> str:
    """Return the processor's name and its cores."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return f"{' '.join(value.split())}, {cores} cores"
    return f"cpu, {cores} cores"


def _gpus_asked(gpus: str) -> list[str]:
    query = (*QUERY, "--id", gpus) if gpus else QUERY
    try:
        answer = subprocess.run(query, capture_output=True, timeout=QUERY_SECONDS_MAX, check=True, text=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []  # no driver, or one that does not answer
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def _gpus_of_driver(directory: Path, gpus: str) -> list[str]:
    """Read what the kernel's driver says, where nvidia-smi is missing, as in slim containers."""
    names = []
    for file in sorted(directory.glob("*/information")):
        for line in _read(file).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                names.append(value.strip())
    wanted = [int(number) for number in gpus.split(",") if number]
    return [names[number] for number in wanted if number < len(names)] if wanted else names


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
