"""How long an answer pauses when the miner that gives it dies: against the usual time to a first token.

.venv/bin/python -m benchmarks.fail_over [--streams 16] [--tokens 240] [--rounds 3]

A gateway and two miners on a chain of their own, with an engine stand-in that is paced like a GPU. In each round
streams run, and one of the miners is killed (`kill -9`), or stopped as a machine that hangs (`SIGSTOP`); then it comes
back. For each stream that it was giving, the pause from the last piece of text before to the first one after has two
parts: until the gateway noticed, as its log tells, and until somebody else went on.
"""

import argparse
import json
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import httpx
import trio

from benchmarks.serving import LONG_EPOCH, PAYMENTS, say, stand_in, use_engine_at
from node.control.views import ModelsView, StatusView
from scripts.local_network import MODEL_ID, Daemon, LocalNetwork, run_local_network

MINERS = ("miner-1", "miner-2")
WAYS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
FAILED = "an executor failed"
BEFORE_SECONDS = 2.0
"""Streams run so long before their miner dies."""
WARM_TOKENS = 16
ANSWER_SECONDS_MAX = 120.0


@dataclass(slots=True)
class Stream:
    """What was seen of one answer; times by the wall clock, as in logs."""

    request: str = ""
    asked: float = 0.0
    arrivals: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pause:
    """Of one stream, in seconds."""

    noticing: float
    """From the death to the gateway's knowing of it."""
    going_on: float
    """From then to the next piece of text."""
    first_token: float
    """What this stream's own first token took."""


@asynccontextmanager
async def network_of_two(url: str) -> AsyncIterator[LocalNetwork]:
    """Run two miners with an engine at `url`, and a gateway, until both serve."""
    environment = {**PAYMENTS, "QUERN_NODE__LOG_FORMAT": "json"}
    async with run_local_network(say, miner_names=MINERS, epoch=LONG_EPOCH, environment=environment) as network:
        await network.initialise()
        for miner in network.miners:
            use_engine_at(miner, url)
        await network.deploy()
        await network.publish()
        for daemon in (*network.miners, network.gateway):
            await network.start(daemon)
        await network.until_ready()
        await both_serve(network)
        yield network


async def both_serve(network: LocalNetwork) -> None:
    """Wait until the gateway knows of two executors."""

    async def offered() -> bool:
        models = (await network.gateway.call("models", ModelsView)).models
        return any(model.in_epoch and model.executors == len(MINERS) for model in models)

    await network.until("both miners serve", offered)


async def ask(client: httpx.AsyncClient, url: str, number: int, tokens: int) -> Stream:
    """Ask once and read the stream to its end. Raises httpx.HTTPError or RuntimeError if it does not end as it must."""
    body = {"model": MODEL_ID, "max_tokens": tokens, "seed": number, "stream": True}
    body["messages"] = [{"role": "user", "content": f"Question {number}"}]
    stream = Stream(asked=time.time())
    is_done = False
    async with client.stream("POST", f"{url}/chat/completions", json=body) as reply:
        reply.raise_for_status()
        stream.request = reply.headers["quern-request-id"][:8]
        async for line in reply.aiter_lines():
            is_done |= line == "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise RuntimeError(f"a stream ended with {event['error']}")
            if any((choice.get("delta") or {}).get("content") for choice in event.get("choices", ())):
                stream.arrivals.append(time.time())
    if not is_done:
        raise RuntimeError("a stream broke off")
    return stream


async def streams_during(
    network: LocalNetwork, count: int, tokens: int, beside: Callable[[], Awaitable[None]] | None = None
) -> list[Stream]:
    """Run streams side by side, and something else beside them."""
    done: list[Stream] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS_MAX, limits=limits) as client, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            done.append(await ask(client, network.gateway.api_url, number, tokens))

        for number in range(count):
            nursery.start_soon(one, number)
        if beside is not None:
            nursery.start_soon(beside)
    return done


def noticed(network: LocalNetwork) -> dict[str, float]:
    """Return, by request, when the gateway's log last told of an executor that failed."""
    found: dict[str, float] = {}
    for line in network.log_of(network.gateway).read_text().splitlines():
        if FAILED in line:
            entry = json.loads(line)
            found[entry["request"]] = datetime.fromisoformat(entry["timestamp"]).timestamp()
    return found


def pauses_of(streams: Sequence[Stream], failures: dict[str, float], died: float) -> list[Pause]:
    """Return the pauses of the streams that were being given by who died."""
    found = []
    for stream in streams:
        known = failures.get(stream.request, 0.0)
        after = [at for at in stream.arrivals if at >= known]
        if known >= died and after and stream.arrivals[0] < died:
            found.append(Pause(known - died, after[0] - known, stream.arrivals[0] - stream.asked))
    return found


async def end_one(network: LocalNetwork, miner: Daemon, way: signal.Signals, times: list[float]) -> None:
    """Have a miner die in the middle of its answers; `times` gets when."""
    await trio.sleep(BEFORE_SECONDS)
    if miner.process is None:
        raise SystemExit(f"{miner.name} is not running")
    times.append(time.time())
    miner.process.send_signal(way)


async def bring_back(network: LocalNetwork, miner: Daemon, way: signal.Signals) -> None:
    """Have it serve again."""
    if way is signal.SIGSTOP and miner.process is not None:
        miner.process.send_signal(signal.SIGCONT)
        await miner.call("status", StatusView)
    else:
        await miner.kill()
        await network.start(miner)
    await network.until_ready()
    await both_serve(network)


async def measure(address: str, streams: int, tokens: int, rounds: int) -> None:
    """Kill and stop miners in turns; print the pauses."""
    async with network_of_two(f"http://{address}") as network:
        await streams_during(network, streams, WARM_TOKENS)  # channels are funded, connections are open
        usual = await streams_during(network, streams, tokens)
        first = statistics.median(stream.arrivals[0] - stream.asked for stream in usual)
        print(f"first token, nobody dies: {1e3 * first:.0f} ms p50")
        for name, way in WAYS.items():
            pauses: list[Pause] = []
            for number in range(rounds):
                miner = network.miners[number % len(MINERS)]
                died: list[float] = []

                async def end(miner: Daemon = miner, way: signal.Signals = way, died: list[float] = died) -> None:
                    await end_one(network, miner, way, died)

                seen = await streams_during(network, streams, tokens, end)
                pauses += pauses_of(seen, noticed(network), died[0])
                await bring_back(network, miner, way)
            report(name, pauses, first)


def report(name: str, pauses: Sequence[Pause], first: float) -> None:
    """Print one way of dying."""
    if not pauses:
        print(f"{name}: no stream was interrupted")
        return
    noticing = [1e3 * pause.noticing for pause in pauses]
    going_on = [1e3 * pause.going_on for pause in pauses]
    middle, most = statistics.median(going_on), max(going_on)
    print(
        f"{name}: {len(pauses)} streams paused; noticed after {statistics.median(noticing):.0f} ms p50, "
        f"{max(noticing):.0f} most; then went on after {middle:.0f} ms p50, {most:.0f} most; "
        f"of the time to a first token: {middle / first / 1e3:.2f} p50, {most / first / 1e3:.2f} most  (aim 2)"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=3, help="of each way")
    given = parser.parse_args()
    with stand_in("step") as address:
        trio.run(measure, address, given.streams, given.tokens, given.rounds)


if __name__ == "__main__":
    main()
