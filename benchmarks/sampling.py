"""What verifiable sampling costs: tokens per second by the rule against vLLM's own seeded sampler, in one run.

`python -m benchmarks.sampling [MODEL_DIRECTORY]` starts the engine of scripts/setup with the tiny model, sends batches
of 64 answers, the ways of drawing in turn, and prints the best of each (what else the machine does only ever slows)
and the processor time that the server's processes took for it, which a busy machine distorts less. Batches go out in
one request: HTTP costs the same for all ways and would hide what is measured.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.engine_server import model_directory, open_server
from node.engine.client import EngineClient
from node.engine.drawing import DrawStyle, draw_fields, sampling_fields
from node.protocol.sampling import SamplingParameters

MODEL = "measured"
CONTEXT_TOKENS = 2048
BATCH = 64
TOKENS = 64
ROUNDS = 12
SEED = 0x1234_5678_9ABC_DEF0 >> 1
KINDS = {
    "temperature 1": SamplingParameters(),
    "top_k 50": SamplingParameters(top_k=50),
    "top_p 0.9": SamplingParameters(top_p_milli=900),
    "min_p 0.05": SamplingParameters(min_p_milli=50),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one token, in microseconds."""

    wall: float
    processor: float


def processor_seconds(group: int) -> float:
    """Processor time of all processes of a group so far."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it ended
            if int(fields[2]) == group:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def cost_of(client: EngineClient, fields: dict[str, object], group: int) -> Cost:
    """Generate one batch."""
    prompts = [[100 + number, 7, 5 + number % 50] for number in range(BATCH)]
    body: dict[str, object] = {"prompt": prompts, "max_tokens": TOKENS, "ignore_eos": True, **fields}
    started, used = trio.current_time(), processor_seconds(group)
    await client._post("/v1/completions", body)
    scale = 1e6 / (BATCH * TOKENS)
    return Cost((trio.current_time() - started) * scale, (processor_seconds(group) - used) * scale)


async def measure(client: EngineClient, group: int) -> None:
    """Print a line for each kind of draw."""
    ways: dict[tuple[str, str], dict[str, object]] = {("greedy", ""): {"temperature": 0}}
    for kind, sampling in KINDS.items():
        ways[kind, "vLLM's own"] = sampling_fields(sampling) | {"seed": SEED}
        ways[kind, "by the rule"] = draw_fields(sampling, SEED, DrawStyle.PLUGIN)
    costs: dict[tuple[str, str], list[Cost]] = {way: [] for way in ways}
    for number in range(ROUNDS + 1):
        for way, fields in ways.items():
            cost = await cost_of(client, fields, group)
            if number:  # the first round warms up
                costs[way].append(cost)
    best = {way: Cost(min(c.wall for c in many), min(c.processor for c in many)) for way, many in costs.items()}
    greedy = best["greedy", ""]
    print(f"{'greedy':14} {1e6 / greedy.wall:6.0f} tokens/s, {greedy.processor:4.0f} us of processor per token")
    for kind in KINDS:
        own, ours = best[kind, "vLLM's own"], best[kind, "by the rule"]
        print(
            f"{kind:14} vLLM's own {1e6 / own.wall:6.0f} tokens/s, {own.processor:4.0f} us; "
            f"by the rule {1e6 / ours.wall:6.0f} tokens/s, {ours.processor:4.0f} us; "
            f"ratio {own.wall / ours.wall:.2f}, by processor {own.processor / ours.processor:.2f}"
        )


async def main() -> None:
    """Start an engine and measure."""
    async with open_server(model_directory(), MODEL, CONTEXT_TOKENS) as server:
        await measure(EngineClient(server.http, MODEL), server.group)


if __name__ == "__main__":
    trio.run(main)
