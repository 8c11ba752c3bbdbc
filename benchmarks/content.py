"""What it takes to import, serve, fetch and export a model, against what the machine can do at best, in one run.

.venv/bin/python -m benchmarks.content [--mib 256] [--rounds 11] [--calls] [--large-mib 8192] [--directory DIR]

Every part runs in a process of its own, which waits until it is its turn. Rounds are short and each measures
everything once, so that a machine that is slower for some seconds is slower for all: a ratio is the median of the
rounds' ratios. The bare server and client (benchmarks/content_bare.py) do only what cannot be left out. Without
--directory everything lies in memory (/dev/shm), so that it is not the disk that is measured. Against libp2p's own
Bitswap and Helia: benchmarks/interop.py.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.cost import HEADER, NO_COST, Cost, line_of
from benchmarks.generated_model import make_model

MIB = 1024 * 1024
IMPORTS = 3
PEERS = 3
IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
HASHED_MIB = 256
CALLS_SHOWN = 8
LIMITS = ("raw TCP", "sha256")
"""The aim of a fetch is a part of the slower of these."""

Told = dict[str, Any]


class Child:
    """A worker process; its lines are JSON."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.content_worker", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def hear(self) -> Told:
        """Return the next line."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit("a part of the benchmark failed; what it said is above")
        told: Told = json.loads(line)
        return told

    def say(self, value: object = "") -> None:
        """Send a line."""
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()

    def ask(self, value: object = "") -> Told:
        """Send a line and return the answer."""
        self.say(value)
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


def hash_speed() -> float:
    """Return the bytes per second of SHA-256 in one thread."""
    block = os.urandom(MIB)
    begin = time.perf_counter()
    for _ in range(HASHED_MIB):
        hashlib.sha256(block)
    return HASHED_MIB * MIB / (time.perf_counter() - begin)


def write_new(path: Path, mebibytes: int) -> None:
    """Write a new file."""
    block = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for _ in range(mebibytes):
            file.write(block)


def write_speed(path: Path, mebibytes: int) -> float:
    """Return the bytes per second at which a new file can be written at all, and leave its memory free for another.

    On a virtual machine memory that was not used for some seconds is fetched from the host page by page, at a fraction
    of the speed of memory: measured here so that it is known, and done right before each fetch so that it is not in
    its time.
    """
    begin = time.perf_counter()
    write_new(path, mebibytes)
    seconds = time.perf_counter() - begin
    path.unlink()
    return mebibytes * MIB / seconds


@dataclass(slots=True)
class Results:
    """What was measured, a figure for each round."""

    speeds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Bytes per second."""
    costs: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))
    """Per GiB."""
    excess: list[float] = field(default_factory=list)
    """The part of what was sent that was not taken."""

    def note_speed(self, name: str, told: Told) -> None:
        """Take down how fast somebody was."""
        self.speeds[name].append(told["bytes"] / told["seconds"])

    def note_cost(self, name: str, *all_told: Told) -> None:
        """Take down what somebody, or several together, took for it."""
        cost = sum((Cost.of(told["cost"]) for told in all_told), NO_COST)
        self.costs[name].append(cost.per_gib(sum(told["bytes"] for told in all_told)))

    def print(self) -> None:
        """Print medians and ratios."""
        print("MiB/s: median (lowest to highest)")
        for name, values in self.speeds.items():
            shown = [value / MIB for value in values]
            print(f"  {name:12} {median(shown):7.0f}  ({min(shown):.0f} to {max(shown):.0f})")
        print(HEADER)
        for name, costs in self.costs.items():
            print(line_of(f"  {name}", costs))
        best = [min(both) for both in zip(*(self.speeds[name] for name in LIMITS), strict=True)]
        one, three, bare = self.speeds["one peer"], self.speeds["three peers"], self.speeds["bare client"]
        print(f"one peer / min(raw TCP, sha256): {_ratio(one, best)}  (aim 0.5)")
        print(f"bare client / min(raw TCP, sha256): {_ratio(bare, best)}")
        print(f"one peer / bare client: {_ratio(one, bare)}")
        print(f"one peer / new file: {_ratio(one, self.speeds['new file'])}")
        print(f"three peers / one peer: {_ratio(three, one)}  (aim 1)")
        print(f"bytes sent beyond those taken: {max(self.excess):.2%} at most  (aim < 1 %)")
        for name in ("server", "client"):
            ours = [cost.seconds for cost in self.costs[f"{name} of one peer"]]
            least = [cost.seconds for cost in self.costs[f"bare {name}"]]
            aim = "  (aim 0.3)" if name == "server" else ""
            print(f"{name} of one peer: {median(ours):.2f} s of processor per GiB{aim}; / bare: {_ratio(ours, least)}")


def _ratio(values: list[float], others: list[float]) -> str:
    """Show the median of the rounds' ratios, and what half of the rounds lie between."""
    ratios = sorted(value / other for value, other in zip(values, others, strict=True))
    quarter = len(ratios) // 4
    return f"{median(ratios):.2f} ({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})"


class Turns:
    """The workers of one run, who take turns."""

    def __init__(self, stack: ExitStack, directory: Path, mebibytes: int) -> None:
        """Import the model into each server, and make the bare server's file."""
        self._directory = directory
        self._mebibytes = mebibytes
        model, sent = directory / "model", directory / "sent"
        write_new(sent, mebibytes)
        self._servers = [stack.enter_context(child("serve", directory / f"server-{n}", model)) for n in range(PEERS)]
        told = [server.hear() for server in self._servers]
        self._ports: list[int] = [one["port"] for one in told]
        self._cid: str = told[0]["cid"]
        self._client = stack.enter_context(child("fetch"))
        self._raw_sender = stack.enter_context(child("send-raw", mebibytes))
        self._raw_port: int = self._raw_sender.hear()["port"]
        self._raw_receiver = stack.enter_context(child("receive-raw"))
        self._bare_server = stack.enter_context(child("serve-bare", sent))
        bare_port = self._bare_server.hear()["port"]
        self._bare_client = stack.enter_context(child("fetch-bare", bare_port, mebibytes))
        for worker in (self._client, self._raw_receiver, self._bare_client):
            worker.hear()

    def take(self, number: int, results: Results) -> None:
        """Measure everything once; in another order every other round."""
        steps = [self._limits, self._one_peer, self._three_peers, self._bare]
        for step in steps if number % 2 == 0 else reversed(steps):
            step(results)

    def _limits(self, results: Results) -> None:
        results.speeds["sha256"].append(hash_speed())
        results.note_speed("raw TCP", self._raw_receiver.ask(self._raw_port))

    def _one_peer(self, results: Results) -> None:
        results.speeds["new file"].append(write_speed(self._directory / "written", self._mebibytes))
        self._fetch("one peer", self._ports[:1], results)

    def _three_peers(self, results: Results) -> None:
        write_speed(self._directory / "written", self._mebibytes)
        self._fetch("three peers", self._ports, results)

    def _fetch(self, name: str, ports: list[int], results: Results) -> None:
        store, destination = self._directory / "client", self._directory / "fetched"
        used = self._servers[: len(ports)]
        for server in used:
            server.ask()
        told = self._client.ask([str(store), str(destination), self._cid, *ports])
        served = [server.ask() for server in used]
        results.note_speed(name, told)
        results.note_cost(f"client of {name}", told)
        results.note_cost(f"server of {name}", *served)
        results.excess.append(sum(one["bytes"] for one in served) / told["bytes"] - 1)
        shutil.rmtree(destination)
        shutil.rmtree(store)

    def _bare(self, results: Results) -> None:
        path = self._directory / "written"
        write_speed(path, self._mebibytes)
        self._bare_server.say()
        told = self._bare_client.ask(str(path))
        results.note_speed("bare client", told)
        results.note_cost("bare client", told)
        results.note_cost("bare server", self._bare_server.hear())
        path.unlink()


def compare(directory: Path, mebibytes: int, rounds: int) -> None:
    """Measure in turns and print medians and ratios."""
    model = directory / "model"
    make_model(model, mebibytes)
    imported = []
    for number in range(IMPORTS):
        hashed = hash_speed()
        with child("serve", directory / f"import-{number}", model) as worker:
            told = worker.hear()
        imported.append(told["bytes"] / told["seconds"] / hashed)
    results = Results()
    with ExitStack() as stack:
        turns = Turns(stack, directory, mebibytes)
        turns.take(0, Results())  # modules are loaded, memory is fetched from the host
        for number in range(rounds):
            turns.take(number, results)
    results.print()
    print(f"import in place / sha256: {median(imported):.2f}  (aim 0.8)")


def count_calls(directory: Path, mebibytes: int) -> None:
    """Print the most frequent system calls per MiB of both ends of a fetch from one peer, as strace counts them."""
    folder = directory / "calls"
    folder.mkdir()
    make_model(folder / "model", mebibytes)
    with child("serve", folder / "store", folder / "model") as server, child("fetch") as client, ExitStack() as stack:
        told = server.hear()
        client.hear()
        counts = {name: folder / f"{name}.txt" for name in ("server", "client")}
        for name, worker in (("server", server), ("client", client)):
            stack.enter_context(_counted(worker, counts[name]))
        client.ask([str(folder / "client"), str(folder / "fetched"), told["cid"], told["port"]])
    for name, path in counts.items():
        rows = [line.split() for line in path.read_text().splitlines()]
        most = [(int(row[0]), row[1]) for row in rows if len(row) == 2 and row[0].isdigit() and row[1] != "total"]
        shown = ", ".join(f"{called} {count / mebibytes:.2f}" for count, called in most[:CALLS_SHOWN])
        total = sum(count for count, _ in most) / mebibytes
        print(f"system calls of the {name} per MiB: {total:.1f}: {shown}")


@contextmanager
def _counted(worker: Child, path: Path) -> Iterator[None]:
    """Have strace count a worker's calls, of all its threads."""
    command = ["strace", "-f", "-c", "-S", "calls", "-U", "calls,name", "-o", str(path), "-p", str(worker.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        if tracer.stderr is None or not tracer.stderr.readline():  # it says that it is attached
            raise SystemExit("strace cannot be attached")
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)


def measure_memory(directory: Path, sizes: list[int]) -> None:
    """Print how much each step grows a process, for models of several sizes."""
    growth: dict[str, list[float]] = {"import": [], "fetch": [], "export": []}
    for mebibytes in sizes:
        folder = directory / f"memory-{mebibytes}"
        folder.mkdir()
        make_model(folder / "model", mebibytes)
        with child("serve", folder / "store", folder / "model") as server, child("fetch") as client:
            told = server.hear()
            growth["import"].append(told["memory_growth"])
            client.hear()
            fetched = client.ask([str(folder / "client"), str(folder / "fetched"), told["cid"], told["port"]])
        growth["fetch"].append(fetched["memory_growth"])
        shutil.rmtree(folder / "fetched")
        with child("export", folder / "store", folder / "exported", told["cid"]) as worker:
            growth["export"].append(worker.hear()["memory_growth"])
        shutil.rmtree(folder)
    shown_sizes = ", ".join(f"{size} MiB" for size in sizes)
    for name, values in growth.items():
        print(f"{name}: memory grows by {', '.join(f'{value / MIB:.0f} MiB' for value in values)}  ({shown_sizes})")


def main() -> None:
    """Run the benchmark in a directory that is deleted afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256, help="size of the model")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--large-mib", type=int, default=0, help="also measure memory with a model of this size")
    parser.add_argument("--calls", action="store_true", help="also count system calls, with strace")
    parser.add_argument("--directory", type=Path, default=IN_MEMORY if IN_MEMORY.is_dir() else None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quern-benchmark-", dir=given.directory) as name:
        directory = Path(name)
        compare(directory, given.mib, given.rounds)
        if given.calls:
            count_calls(directory, given.mib)
        if given.large_mib:
            measure_memory(directory, [given.mib, given.large_mib])


if __name__ == "__main__":
    main()
