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
from dataclasses import dataclass, field
from typing import Any

EVENT = b"data: "
REFUSAL_SECONDS = 0.2
"""For the rest of a refusal to arrive."""
TOKENS_PER_SECOND = 40.0
"""About what a stream does. Users come one after the other: each begins a share of a stream's length later."""


@dataclass(slots=True)
class Stream:
    """What one stream did."""

    first_seconds: float = 0.0
    """To the first text, from sending the request."""
    seconds: float = 0.0
    gaps: list[float] = field(default_factory=list)
    """Between pieces of text."""
    tokens: int = 0


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
    began = last = time.perf_counter()
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
                now = time.perf_counter()
                if stream.first_seconds:
                    stream.gaps.append(now - last)
                else:
                    stream.first_seconds = now - began
                last = now
                stream.tokens = stream.tokens or 0
    stream.seconds = time.perf_counter() - began
    writer.close()
    if not stream.tokens:
        stream.tokens = len(stream.gaps) + 1
    return stream


async def run(kind: str, target: str, model: str, streams: int, tokens: int, words: int, turns: int) -> dict[str, Any]:
    """Have so many users ask `turns` times each, one question after the other, and sum up."""

    async def user(number: int) -> list[Stream]:
        await asyncio.sleep(tokens / TOKENS_PER_SECOND * number / streams)
        return [await run_stream(kind, target, model, tokens, number + streams * turn, words) for turn in range(turns)]

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
