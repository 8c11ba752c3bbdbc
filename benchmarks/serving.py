"""What the network adds to an engine: 64 streams through gateway, libp2p and executor against the engine itself.

.venv/bin/python -m benchmarks.serving [--engine stand-in|vllm] [--pace step|stream] [--streams 64]
    [--tokens 256] [--rounds 3] [--profile] [--idle]

Two whole daemons on a chain of their own, paying by voucher; the engine is a stand-in that is paced like a GPU, or real
vLLM with the tiny model. Both loads are run in turns. `--profile` tells where the processor time of the daemons goes
(they run in benchmarks/profiled_daemon.py then, a little slower). `--idle` measures a daemon that has nothing to do
instead.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import trio

from benchmarks.profiled_daemon import PROFILE
from benchmarks.sampling import processor_seconds as group_seconds
from node.control.views import ModelsView, StatusView
from node.engine.leftovers import read_record
from scripts.local_network import MODEL_ID, QUERND, Daemon, LocalNetwork, run_local_network

MINER = "miner-1"
MIB = 1024 * 1024
LONG_EPOCH = {
    "epoch_blocks": 100_000,
    "generate_offset": 99_000,
    "exchange_offset": 99_100,
    "validate_offset": 99_200,
    "vote_exchange_offset": 99_300,
    "form_offset": 99_400,
    "load_offset": 99_900,
}
"""Nothing but serving happens while this is measured."""
PAYMENTS = {
    "QUERN_PAYMENTS__CHANNEL_DEPOSIT": "200",
    "QUERN_PAYMENTS__BUDGET": "800",
}
WARM_TOKENS = 16
IDLE_SECONDS = 30.0
STAND_IN_ARGUMENTS = ("--rate", "40", "--prefill-ms", "25")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROFILED = (sys.executable, "-m", "benchmarks.profiled_daemon")
PROFILE_SECONDS = 5.0
"""For a daemon to write its profile."""
PARTS_TOLD = 9


def say(what: str) -> None:
    """Tell progress where results are not."""
    sys.stderr.write(f"{what}\n")


def processor_seconds(pid: int) -> tuple[float, float]:
    """Return user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Return the memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


@contextmanager
def stand_in(pace: str) -> Iterator[str]:
    """Run the stand-in for an engine; yield its host and port."""
    own = ("--model", MODEL_ID, "--pace", pace)
    command = [sys.executable, "-m", "benchmarks.engine_stand_in", *own, *STAND_IN_ARGUMENTS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        yield f"127.0.0.1:{json.loads(line)['port']}"
    finally:
        process.kill()
        process.wait()


async def load(kind: str, target: str, streams: int, tokens: int) -> dict[str, Any]:
    """Run a load in a process of its own."""
    words = [
        sys.executable, "-m", "benchmarks.serving_load", kind, target, "--model", MODEL_ID,
        "--streams", str(streams), "--tokens", str(tokens),
    ]  # fmt: skip
    result = await trio.run_process(words, capture_stdout=True)
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def use_engine_at(daemon: Daemon, url: str) -> None:
    """Have the daemon's ML node be a server that runs elsewhere."""
    text = daemon.config.read_text(encoding="utf-8")
    daemon.config.write_text(text.replace("\n[[engines]]\n", f'\n[[engines]]\nurl = "{url}"\n'), encoding="utf-8")


@asynccontextmanager
async def network_with(url: str | None, is_profiled: bool) -> AsyncIterator[LocalNetwork]:
    """Run a miner and a gateway until they serve; the miner's engine is at `url`, or is a vLLM of its own."""
    async with run_local_network(say, miner_names=(MINER,), epoch=LONG_EPOCH, environment=PAYMENTS) as network:
        await network.initialise()
        if url is not None:
            use_engine_at(network.miners[0], url)
        await network.deploy()
        await network.publish()
        for daemon in (*network.miners, network.gateway):
            await network.start(daemon, PROFILED if is_profiled else (QUERND,))
        await network.until_ready()

        async def offered() -> bool:
            models = (await network.gateway.call("models", ModelsView)).models
            return any(model.in_epoch and model.executors for model in models)

        await network.until("the model offered", offered)
        yield network


async def compare(address: str | None, streams: int, tokens: int, rounds: int, is_profiled: bool) -> None:
    """Run both loads in turns, with the engine at `address` or a vLLM of the miner's own; print what is added."""
    async with network_with(f"http://{address}" if address else None, is_profiled) as network:
        miner, gateway = network.miners[0], network.gateway
        direct = address or str(next((miner.directory / "run").glob("*.sock")))
        through = f"127.0.0.1:{gateway.api_port}"

        async def answers() -> bool:
            """Whether the gateway has heard that the miner serves; a real engine is ready before that is told."""
            try:
                await load("chat", through, 1, WARM_TOKENS)
            except subprocess.CalledProcessError:
                return False
            return True

        await network.until("a first answer", answers)
        await load("chat", through, streams, WARM_TOKENS)  # channels are funded, connections are open
        runs: dict[str, list[dict[str, Any]]] = {"engine": [], "network": []}
        costs: dict[str, list[float]] = {"gateway": [], "miner": []}
        engine_costs: dict[str, list[float]] = {"engine": [], "network": []}
        parts: dict[str, Counter[str]] = {"gateway": Counter(), "miner": Counter()}
        for _ in range(rounds):
            used = engine_seconds(miner)
            direct_result = await load("completions", direct, streams, tokens)
            runs["engine"].append(direct_result)
            between = engine_seconds(miner)
            engine_costs["engine"].append((between - used) / direct_result["tokens"] * 1e6)
            before = {daemon.name: cpu_of(daemon) for daemon in (gateway, miner)}
            if is_profiled:
                for daemon in (gateway, miner):
                    await profile_of(network, daemon)
            result = await load("chat", through, streams, tokens)
            runs["network"].append(result)
            engine_costs["network"].append((engine_seconds(miner) - between) / result["tokens"] * 1e6)
            for name, daemon in (("gateway", gateway), ("miner", miner)):
                costs[name].append((cpu_of(daemon) - before[daemon.name]) / result["tokens"] * 1e6)
                if is_profiled:
                    parts[name] += await profile_of(network, daemon)
        report(runs, costs, streams, has_aims=address is not None)
        if address is None:
            report_engine(runs, engine_costs)
        if is_profiled:
            report_parts(costs, parts)


def engine_seconds(daemon: Daemon) -> float:
    """Return the processor time of the vLLM that a daemon runs so far; 0 if it runs none."""
    records = [read_record(file) for file in (daemon.directory / "run").glob("*.pgid")]
    return sum(group_seconds(record.group) for record in records if record is not None)


async def profile_of(network: LocalNetwork, daemon: Daemon) -> Counter[str]:
    """Return how many samples of processor time each part of a daemon had since the last call."""
    target = daemon.config.with_name(PROFILE)
    target.unlink(missing_ok=True)
    if daemon.process is not None:
        daemon.process.send_signal(signal.SIGUSR2)

    async def written() -> bool:
        return target.exists()

    await network.until("a profile", written, PROFILE_SECONDS)
    return Counter(json.loads(target.read_text()))


def cpu_of(daemon: Daemon) -> float:
    """Return the processor time of a daemon so far."""
    if daemon.process is None:
        raise SystemExit(f"{daemon.name} is not running")
    return sum(processor_seconds(daemon.process.pid))


def report(
    runs: dict[str, list[dict[str, Any]]], costs: dict[str, list[float]], streams: int, *, has_aims: bool
) -> None:
    """Print medians and what was added. Aims are for the stand-in: vLLM here shares the daemons' two cores."""

    def aim(what: str) -> str:
        return f"  (aim {what})" if has_aims else ""

    medians = {
        name: {key: statistics.median(run[key] for run in several) for key in several[0]}
        for name, several in runs.items()
    }
    for name, middle in medians.items():
        rates = ", ".join(f"{run['tokens'] / run['seconds']:.0f}" for run in runs[name])
        print(
            f"{name:8} {middle['stream_rate']:.1f} tokens/s a stream, {streams} streams ({rates} tokens/s together); "
            f"first token {1e3 * middle['first_p50']:.1f} ms p50, {1e3 * middle['first_p99']:.1f} ms p99; "
            f"between pieces {1e3 * middle['gap_p50']:.1f} ms p50, {1e3 * middle['gap_p99']:.1f} ms p99"
        )
    engine, network = medians["engine"], medians["network"]
    if has_aims:  # streams that take what is left of two cores tell nothing one by one
        print(f"tokens/s, network / engine: {network['stream_rate'] / engine['stream_rate']:.3f}{aim('0.97')}")
    all_together = [best_rate(runs[name]) for name in ("network", "engine")]
    print(f"tokens/s of all streams together, best rounds, network / engine: {all_together[0] / all_together[1]:.3f}")
    for key, what, aims in (
        ("first_p50", "first token, p50", "10 ms"),
        ("first_p99", "first token, p99", "25 ms"),
        ("gap_p50", "between pieces, p50", "2 ms"),
    ):
        print(f"added to {what}: {1e3 * (network[key] - engine[key]):.1f} ms{aim(aims)}")
    both = sum(statistics.median(values) for values in costs.values())
    parts = ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in costs.items())
    print(f"processor time per 1,000 tokens: {both:.0f} ms ({parts})  (aim 200 ms)")
    own = statistics.median(run["own_seconds"] / run["tokens"] * 1e6 for run in runs["engine"])
    print(f"the load itself took {own:.0f} ms for them, asking the engine: twice that on a machine half as fast")


def best_rate(several: list[dict[str, Any]]) -> float:
    """Return the most tokens a second of all streams together in one round."""
    return max(float(run["tokens"] / run["seconds"]) for run in several)


def report_engine(runs: dict[str, list[dict[str, Any]]], costs: dict[str, list[float]]) -> None:
    """Print what vLLM itself took, and how much of the machine was idle."""
    cores = os.cpu_count() or 1
    for name, several in runs.items():
        engine = statistics.median(costs[name])
        load = statistics.median(run["own_seconds"] / run["tokens"] * 1e6 for run in several)
        whole = statistics.median(run["seconds"] / run["tokens"] * 1e6 for run in several) * cores
        print(
            f"{name:8} of {whole:.0f} ms that {cores} cores have in the time of 1,000 tokens, "
            f"vLLM takes {engine:.0f}, the load {load:.0f}"
        )


def report_parts(costs: dict[str, list[float]], parts: dict[str, Counter[str]]) -> None:
    """Print where the processor time of each daemon goes."""
    for name, counts in parts.items():
        scale = statistics.median(costs[name]) / max(1, counts.total())
        told = [f"{part} {count * scale:.1f}" for part, count in counts.most_common(PARTS_TOLD)]
        rest = counts.total() - sum(count for _, count in counts.most_common(PARTS_TOLD))
        print(f"{name}, ms per 1,000 tokens: {', '.join(told)}, everything else {rest * scale:.1f}")


async def measure_idle() -> None:
    """Print how fast a gateway without engine starts, and what it takes while nobody asks."""
    async with run_local_network(say, miner_names=(MINER,), epoch=LONG_EPOCH) as network:
        await network.initialise()
        await network.deploy()
        gateway = network.gateway
        began = time.perf_counter()
        await network.start(gateway)
        while True:
            try:
                await gateway.call("status", StatusView)
                break
            except Exception:
                await trio.sleep(0.02)
        print(f"from start to an answer on the control socket: {time.perf_counter() - began:.2f} s  (aim 2 s)")
        await trio.sleep(5)
        before = cpu_of(gateway)
        await trio.sleep(IDLE_SECONDS)
        share = (cpu_of(gateway) - before) / IDLE_SECONDS
        pid = gateway.process.pid if gateway.process else 0
        print(f"idle: {share:.2%} of a core  (aim 2 %), {resident_bytes(pid) / MIB:.0f} MiB  (aim 150 MB)")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("stand-in", "vllm"), default="stand-in")
    parser.add_argument("--pace", choices=("step", "stream"), default="step", help="of the stand-in")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also tell where the daemons' processor time goes")
    parser.add_argument("--idle", action="store_true", help="measure start and idling instead")
    given = parser.parse_args()
    if given.idle:
        trio.run(measure_idle)
        return
    with stand_in(given.pace) if given.engine == "stand-in" else nullcontext() as address:
        trio.run(compare, address, given.streams, given.tokens, given.rounds, given.profile)


if __name__ == "__main__":
    main()
