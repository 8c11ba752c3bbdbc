"""What the network adds to an engine: 64 streams through gateway, libp2p and executor against the engine itself.

.venv/bin/python -m benchmarks.serving [--engine stand-in|vllm] [--pace step|stream] [--streams 64]
    [--tokens 256] [--rounds 3] [--idle]

Two whole daemons on a chain of their own, paying by voucher; the engine is a stand-in that is paced like a GPU, or real
vLLM with the tiny model. Both loads are run in turns. `--idle` measures a daemon that has nothing to do instead.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import trio

from node.control.views import ModelsView, StatusView
from scripts.local_network import MODEL_ID, Daemon, LocalNetwork, run_local_network

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
async def network_with(url: str | None) -> AsyncIterator[LocalNetwork]:
    """Run a miner and a gateway until they serve; the miner's engine is at `url`, or is a vLLM of its own."""
    async with run_local_network(say, miner_names=(MINER,), epoch=LONG_EPOCH, environment=PAYMENTS) as network:
        await network.initialise()
        if url is not None:
            use_engine_at(network.miners[0], url)
        await network.deploy()
        await network.publish()
        for daemon in (*network.miners, network.gateway):
            await network.start(daemon)
        await network.until_ready()

        async def offered() -> bool:
            models = (await network.gateway.call("models", ModelsView)).models
            return any(model.in_epoch and model.executors for model in models)

        await network.until("the model offered", offered)
        yield network


async def compare(address: str | None, streams: int, tokens: int, rounds: int) -> None:
    """Run both loads in turns, with the engine at `address` or a vLLM of the miner's own; print what is added."""
    async with network_with(f"http://{address}" if address else None) as network:
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
        for _ in range(rounds):
            runs["engine"].append(await load("completions", direct, streams, tokens))
            before = {daemon.name: cpu_of(daemon) for daemon in (gateway, miner)}
            result = await load("chat", through, streams, tokens)
            runs["network"].append(result)
            for name, daemon in (("gateway", gateway), ("miner", miner)):
                costs[name].append((cpu_of(daemon) - before[daemon.name]) / result["tokens"] * 1e6)
        report(runs, costs, streams)


def cpu_of(daemon: Daemon) -> float:
    """Return the processor time of a daemon so far."""
    if daemon.process is None:
        raise SystemExit(f"{daemon.name} is not running")
    return sum(processor_seconds(daemon.process.pid))


def report(runs: dict[str, list[dict[str, Any]]], costs: dict[str, list[float]], streams: int) -> None:
    """Print medians and what was added."""
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
    print(f"tokens/s, network / engine: {network['stream_rate'] / engine['stream_rate']:.3f}  (aim 0.97)")
    for key, what, aims in (
        ("first_p50", "first token, p50", "10 ms"),
        ("first_p99", "first token, p99", "25 ms"),
        ("gap_p50", "between pieces, p50", "2 ms"),
    ):
        print(f"added to {what}: {1e3 * (network[key] - engine[key]):.1f} ms  (aim {aims})")
    both = sum(statistics.median(values) for values in costs.values())
    parts = ", ".join(f"{name} {statistics.median(values):.0f}" for name, values in costs.items())
    print(f"processor time per 1,000 tokens: {both:.0f} ms ({parts})  (aim 200 ms)")
    own = statistics.median(run["own_seconds"] / run["tokens"] * 1e6 for run in runs["engine"])
    print(f"the load itself took {own:.0f} ms for them, asking the engine: twice that on a machine half as fast")


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
    parser.add_argument("--idle", action="store_true", help="measure start and idling instead")
    given = parser.parse_args()
    if given.idle:
        trio.run(measure_idle)
        return
    with stand_in(given.pace) if given.engine == "stand-in" else nullcontext() as address:
        trio.run(compare, address, given.streams, given.tokens, given.rounds)


if __name__ == "__main__":
    main()
