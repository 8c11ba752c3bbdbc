"""How the tokens of an engine's streams come: together, with each of its steps, or each stream by a clock of its own.

.venv/bin/python -m benchmarks.steps [--engine vllm|stand-in] [--pace step|stream] [--streams 16] [--tokens 96]

vLLM as it runs on a GPU, its engine in a process of its own, with random weights of a size at which a step takes a CPU
about as long as a large model's takes a GPU. The same load asks the stand-in that `benchmarks.serving` uses, so that
the two can be compared.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from benchmarks.engine_server import open_server
from benchmarks.serving import load, stand_in
from scripts.local_network import MODEL_ID, TINY_MODEL

LARGER = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_hidden_layers": 12,
    "num_key_value_heads": 4,
}
"""150 million parameters."""
CONTEXT_TOKENS = 2048
WEIGHTS = ("--load-format", "dummy")
WARM_TOKENS = 8


@asynccontextmanager
async def real_engine(directory: Path) -> AsyncIterator[str]:
    """Run vLLM with a larger model of random weights; yield its socket."""
    model = directory / "model"
    shutil.copytree(TINY_MODEL, model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | LARGER))
    own_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    async with open_server(
        model, MODEL_ID, CONTEXT_TOKENS, arguments=WEIGHTS, environment=own_process, kv_cache_gib=2
    ) as server:
        yield str(server.socket)


async def measure(target: str, streams: int, tokens: int) -> None:
    """Load an engine and print how its tokens came. The load comes first on its processor: it is to hear each token
    when it is sent, not when the server sleeps.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        print("without the right to a priority in real time: tokens may seem to come closer together than they do")
    await load("completions", target, streams, WARM_TOKENS)
    print(told(await load("completions", target, streams, tokens), streams))


def told(result: dict[str, Any], streams: int) -> str:
    """Say what a load found."""
    step, spread, spread_p90 = (1e3 * result[key] for key in ("gap_p50", "burst_p50", "burst_p90"))
    return (
        f"{streams} streams: {step:.1f} ms (p50) from a stream's token to its next; between two silences "
        f"{result['burst_pieces']:.0f} tokens (p50) come within {spread:.1f} ms (p50), {spread_p90:.1f} ms (p90); "
        f"something came in {result['busy']:.0%} of all milliseconds; "
        f"{result['near']:.1%} of tokens came within 3 ms of another stream's"
    )


async def measure_vllm(streams: int, tokens: int) -> None:
    """Start vLLM and measure it."""
    with tempfile.TemporaryDirectory() as name:
        async with real_engine(Path(name)) as target:
            await measure(target, streams, tokens)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "stand-in"), default="vllm")
    parser.add_argument("--pace", choices=("step", "stream"), default="step", help="of the stand-in")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    given = parser.parse_args()
    if given.engine == "vllm":
        trio.run(measure_vllm, given.streams, given.tokens)
        return
    with stand_in(given.pace) as address:
        trio.run(measure, address, given.streams, given.tokens)


if __name__ == "__main__":
    main()
