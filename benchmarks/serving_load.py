"""Load for benchmarks/serving.py: streams side by side, against an engine itself or against a gateway.

.venv/bin/python -m benchmarks.serving_load chat|completions HOST:PORT|SOCKET --model NAME --streams 64 --tokens 256

Prints one line of JSON with the times of all streams. Plain asyncio over raw sockets: a client library would take more
processor time than what is measured.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

EVENT = b"data: "
REFUSAL_SECONDS = 0.2
"""For the rest of a refusal to arrive."""
TOKENS_PER_SECOND = 40.0
"""About what a stream does. Users come one after the other: each begins a share of a stream's length later."""
THOUGHT_SECONDS_MAX = 0.2
"""Before each question: else questions would come in time with an engine's steps."""
EVENLY = (5**0.5 - 1) / 2
"""Multiples of it, whole parts left out, lie evenly: pauses are as if by chance, and the same in every run."""
SILENCE_SHARE = 0.2
"""Of a step: so long nothing comes between two bursts."""
NEAR_SECONDS = 0.003


@dataclass(slots=True)
class Stream:
    """What one stream did."""

    first_seconds: float = 0.0
    """To the first text, from sending the request."""
    seconds: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """When each piece of text came, by the process's clock."""
    tokens: int = 0

    @property
    def gaps(self) -> list[float]:
        """Between pieces of text."""
        return [after - before for before, after in pairwise(self.arrivals)]


async def connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to host:port or to a Unix socket."""
    if target.startswith("/"):
        return await asyncio.open_unix_connection(target, limit=2**20)
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port), limit=2**20)


def request_of(kind: str, model: str, tokens: int, number: int, words: int) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request; each has another prompt and seed."""
    text = " ".join(f"w{number}x{index}" for index in range(words))
    common = {"model": model, "max_tokens": tokens, "stream": True, "temperature": 1.0, "seed": number + 1}
    common["stream_options"] = {"include_usage": True}
    if kind == "chat":
        return "/v1/chat/completions", {**common, "messages": [{"role": "user", "content": text}]}
    return "/v1/completions", {**common, "prompt": text}


async def run_stream(kind: str, target: str, model: str, tokens: int, number: int, words: int) -> Stream:
    """Ask and read to the end."""
    path, body = request_of(kind, model, tokens, number, words)
    reader, writer = await connect(target)
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    stream = Stream()
    began = time.perf_counter()
    writer.write(head.encode() + data)
    status = await reader.readline()
    if b" 200 " not in status:
        await asyncio.sleep(REFUSAL_SECONDS)
        raise SystemExit(f"{target} says {status!r}: {(await reader.read(2000))!r}")
    while True:
        line = await reader.readline()
        if not line:
            raise SystemExit(f"{target}: a stream broke off after {stream.tokens} tokens")
        if not line.startswith(EVENT):
            continue
        if line.startswith(b"data: [DONE]"):
            break
        event = json.loads(line[len(EVENT) :])
        if "error" in event:
            raise SystemExit(f"{target}: {event['error']}")
        if event.get("usage"):
            stream.tokens = event["usage"]["completion_tokens"]
        for choice in event.get("choices", ()):
            text = choice.get("text") or (choice.get("delta") or {}).get("content")
            if text:
                stream.arrivals.append(time.perf_counter())
    stream.seconds = time.perf_counter() - began
    writer.close()
    stream.first_seconds = stream.arrivals[0] - began if stream.arrivals else 0.0
    stream.tokens = stream.tokens or len(stream.arrivals)
    return stream


async def run(kind: str, target: str, model: str, streams: int, tokens: int, words: int, turns: int) -> dict[str, Any]:
    """Have so many users ask `turns` times each, one question after the other, and sum up."""

    async def user(number: int) -> list[Stream]:
        await asyncio.sleep(tokens / TOKENS_PER_SECOND * number / streams)
        asked = []
        for turn in range(turns):
            await asyncio.sleep(THOUGHT_SECONDS_MAX * ((number + streams * turn) * EVENLY % 1.0))
            asked.append(await run_stream(kind, target, model, tokens, number + streams * turn, words))
        return asked

    began = time.perf_counter()
    done = [stream for several in await asyncio.gather(*map(user, range(streams))) for stream in several]
    seconds = time.perf_counter() - began
    gaps = sorted(gap for stream in done for gap in stream.gaps)
    return {
        "tokens": sum(stream.tokens for stream in done),
        "seconds": seconds,
        "first_p50": statistics.median(stream.first_seconds for stream in done),
        "first_p99": percentile(sorted(stream.first_seconds for stream in done), 0.99),
        "gap_p50": percentile(gaps, 0.5),
        "gap_p99": percentile(gaps, 0.99),
        "pieces": len(gaps) + len(done),
        "stream_rate": statistics.median(stream.tokens / stream.seconds for stream in done),
        **together([stream.arrivals for stream in done], percentile(gaps, 0.5)),
    }


def together(streams: Sequence[Sequence[float]], step_seconds: float) -> dict[str, float]:
    """Say how far the pieces of streams that run side by side come together, where a stream gets one each step.

    A burst is what comes between two silences of a fifth of a step. `burst_pieces` is its median size, over all pieces:
    with bursts it is about the streams that run, without it has no bound. `busy` is the share of milliseconds in which
    anything came, `near` that of pieces within NEAR_SECONDS of another stream's.
    """
    arrivals = sorted((at, number) for number, several in enumerate(streams) for at in several)
    times = [at for at, _ in arrivals]
    bursts: list[list[float]] = []
    for at in times:
        if not bursts or at - bursts[-1][-1] > step_seconds * SILENCE_SHARE:
            bursts.append([])
        bursts[-1].append(at)
    near = 0
    for place, (at, number) in enumerate(arrivals):
        others = (*reversed(arrivals[max(0, place - 64) : place]), *arrivals[place + 1 : place + 64])
        near += any(other != number and abs(when - at) <= NEAR_SECONDS for when, other in others)
    spreads = sorted(burst[-1] - burst[0] for burst in bursts for _ in burst)
    sizes = sorted(len(burst) for burst in bursts for _ in burst)
    slots = {int(at * 1e3) for at in times}
    return {
        "burst_p50": percentile(spreads, 0.5),
        "burst_p90": percentile(spreads, 0.9),
        "burst_pieces": percentile([float(size) for size in sizes], 0.5),
        "busy": len(slots) / (max(slots) - min(slots) + 1) if slots else 0.0,
        "near": near / len(arrivals) if arrivals else 0.0,
    }


def percentile(ordered: list[float], share: float) -> float:
    """Return the value below which `share` of `ordered` lie; nearest rank."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> None:
    """Run the load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("chat", "completions"))
    parser.add_argument("target")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--words", type=int, default=32, help="length of each prompt")
    parser.add_argument("--turns", type=int, default=2, help="questions of each user")
    given = parser.parse_args()
    result = asyncio.run(
        run(given.kind, given.target, given.model, given.streams, given.tokens, given.words, given.turns)
    )
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
