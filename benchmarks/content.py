"""What it takes to import, serve, fetch and export a model, against what the machine can do at best, in one run.

.venv/bin/python -m benchmarks.content [--mib 1024] [--large-mib 8192] [--directory DIR]

Every part runs in a process of its own. Without --directory everything lies in memory (/dev/shm), so that it is not the
disk that is measured. Against libp2p's own Bitswap and Helia: benchmarks/interop.py.
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.generated_model import make_model

MIB = 1024 * 1024
GIB = 1024 * MIB
ROUNDS = 3
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
HASHED_MIB = 512

Told = dict[str, Any]


class Child:
    """A worker process; its lines are JSON."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.content_worker", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> Told:
        """Return the next line."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit("a part of the benchmark failed; what it said is above")
        told: Told = json.loads(line)
        return told

    def ask(self) -> Told:
        """Send an empty line and return the answer."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self.hear()

    def end(self) -> None:
        """Close its input, upon which it ends."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)


@contextmanager
def child(*arguments: object) -> Iterator[Child]:
    """Run a worker for as long as the context."""
    worker = Child(*arguments)
    try:
        yield worker
    finally:
        worker.end()


def once(*arguments: object) -> Told:
    """Run a worker and return the one line it prints."""
    with child(*arguments) as worker:
        return worker.hear()


def hash_speed() -> float:
    """Return the bytes per second of SHA-256 in one thread."""
    block = os.urandom(MIB)
    begin = time.perf_counter()
    for _ in range(HASHED_MIB):
        hashlib.sha256(block)
    return HASHED_MIB * MIB / (time.perf_counter() - begin)


def raw_speed(mebibytes: int) -> float:
    """Return the bytes per second of plain TCP between two trio processes."""
    with child("send-raw", mebibytes) as sender:
        told = once("receive-raw", sender.hear()["port"])
    return float(told["bytes"] / told["seconds"])


def bare_sendfile_seconds(path: Path, mebibytes: int) -> float:
    """Return the processor seconds per GiB of a server that is nothing but sendfile: what the kernel takes."""
    write_new(path, mebibytes)
    with child("send-file-bare", path) as sender:
        once("receive-raw", sender.hear()["port"])
        told = sender.hear()
    path.unlink()
    return float(told["processor_seconds"] * GIB / told["bytes"])


def write_new(path: Path, mebibytes: int) -> None:
    """Write a new file."""
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(block)


def write_speed(path: Path, mebibytes: int) -> float:
    """Return the bytes per second at which a new file can be written at all, and leave its memory free for another.

    On a virtual machine memory that was not used for a while is fetched from the host page by page, at a fraction of
    the speed of memory: measured here so that it is known, and done before each fetch so that it is not in its time.
    """
    begin = time.perf_counter()
    write_new(path, mebibytes)
    seconds = time.perf_counter() - begin
    path.unlink()
    return mebibytes * MIB / seconds


def compare(directory: Path, mebibytes: int) -> None:
    """Measure in turns and print medians and ratios."""
    model, fetched = directory / "model", directory / "fetched"
    make_model(model, mebibytes)
    imported = []
    for number in range(ROUNDS):
        with child("serve", directory / f"import-{number}", model) as worker:
            imported.append((worker.hear(), hash_speed()))
    speeds: dict[str, list[float]] = {
        "raw TCP": [],
        "sha256": [],
        "new file": [],
        "one peer": [],
        "three peers": [],
    }
    processor: list[float] = []
    bare: list[float] = []
    client_processor: dict[str, list[float]] = {"one peer": [], "three peers": []}
    excess: list[float] = []
    with ExitStack() as stack:
        servers = [stack.enter_context(child("serve", directory / f"server-{n}", model)) for n in range(3)]
        told = [server.hear() for server in servers]
        ports, cid = [one["port"] for one in told], told[0]["cid"]
        for _ in range(ROUNDS):
            speeds["raw TCP"].append(raw_speed(mebibytes))
            speeds["sha256"].append(hash_speed())
            bare.append(bare_sendfile_seconds(directory / "written", mebibytes))
            for name, used in (("one peer", ports[:1]), ("three peers", ports)):
                for server in servers:
                    server.ask()
                speeds["new file"].append(write_speed(directory / "written", mebibytes))
                result = once("fetch", directory / "client", fetched, cid, *used)
                costs = [server.ask() for server in servers]
                served = sum(cost["served_bytes"] for cost in costs)
                excess.append(served / result["bytes"] - 1)
                processor.append(sum(cost["processor_seconds"] for cost in costs) * GIB / served)
                client_processor[name].append(result["processor_seconds"] * GIB / result["bytes"])
                speeds[name].append(result["bytes"] / result["seconds"])
                shutil.rmtree(fetched)
                shutil.rmtree(directory / "client")
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        shown = ", ".join(f"{value / MIB:.0f}" for value in values)
        print(f"{name:12} {median[name] / MIB:7.0f} MiB/s  ({shown})")
    best = min(median["raw TCP"], median["sha256"])
    import_ratio = statistics.median(one["bytes"] / one["seconds"] / hashed for one, hashed in imported)
    print(f"one peer / min(raw TCP, sha256): {median['one peer'] / best:.2f}  (aim 0.5)")
    print(f"one peer / new file: {median['one peer'] / median['new file']:.2f}")
    print(f"three peers / one peer: {median['three peers'] / median['one peer']:.2f}  (aim 1)")
    print(f"bytes sent beyond those taken: {max(excess):.2%} at most  (aim < 1 %)")
    print(f"server: {min(processor):.2f} to {max(processor):.2f} s of processor per GiB  (aim 0.3)")
    print(f"bare sendfile: {min(bare):.2f} to {max(bare):.2f} s of processor per GiB")
    print(f"server / bare sendfile: {statistics.median(processor) / statistics.median(bare):.2f}")
    for name, seconds in client_processor.items():
        print(f"client of {name}: {min(seconds):.2f} to {max(seconds):.2f} s of processor per GiB")
    print(f"import in place / sha256: {import_ratio:.2f}  (aim 0.8)")


def measure_memory(directory: Path, sizes: list[int]) -> None:
    """Print how much each step grows a process, for models of several sizes."""
    growth: dict[str, list[float]] = {"import": [], "fetch": [], "export": []}
    for mebibytes in sizes:
        folder = directory / f"memory-{mebibytes}"
        folder.mkdir()
        make_model(folder / "model", mebibytes)
        with child("serve", folder / "store", folder / "model") as server:
            told = server.hear()
            growth["import"].append(told["memory_growth"])
            fetched = once("fetch", folder / "client", folder / "fetched", told["cid"], told["port"])
        growth["fetch"].append(fetched["memory_growth"])
        shutil.rmtree(folder / "fetched")
        exported = once("export", folder / "store", folder / "exported", told["cid"])
        growth["export"].append(exported["memory_growth"])
        shutil.rmtree(folder)
    shown_sizes = ", ".join(f"{size} MiB" for size in sizes)
    for name, values in growth.items():
        print(f"{name}: memory grows by {', '.join(f'{value / MIB:.0f} MiB' for value in values)}  ({shown_sizes})")


def main() -> None:
    """Run the benchmark in a directory that is deleted afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the model")
    parser.add_argument("--large-mib", type=int, default=0, help="also measure memory with a model of this size")
    parser.add_argument("--directory", type=Path, default=IN_MEMORY if IN_MEMORY.is_dir() else None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quern-benchmark-", dir=given.directory) as directory:
        compare(Path(directory), given.mib)
        if given.large_mib:
            measure_memory(Path(directory), [given.mib, given.large_mib])


if __name__ == "__main__":
    main()
