"""What validating a node's batch costs against generating it: `python -m benchmarks.validating [MODEL_DIRECTORY]`.

One vLLM server as the daemon starts it. In turns in one run: nonces generated as an epoch does; samples of 512 and of
64 recomputed with this validator's tails, compared and judged. Beside it the file of a batch of a million vectors is
fetched from a peer's gateway on this machine, and its root computed. What a batch of another size costs is then
**reckoned** from these rates, not measured: a sample costs the same whatever the batch, the file is in proportion to
it. An epoch of a day has batches of at most a million nonces, whatever an engine could generate in a day.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trio

from benchmarks.engine_server import model_directory, open_server
from benchmarks.formation import model_record
from benchmarks.nonces import ACCOUNT, CONTEXT_TOKENS, MODEL, NODE, MinedEngine, mined
from benchmarks.sampling import processor_seconds
from node.engine.client import EngineClient
from node.engine.identity import read_vocabulary_size
from node.models.content import open_content
from node.ports import Engine, Provider
from node.protocol.identifiers import Address, Hash32
from node.protocol.nonces import BATCH_NONCES_MAX, VECTOR_BYTES, draw_sample, squared_distance
from node.protocol.validation import SampleRule, judge, mismatches_of
from node.services.recomputing import recompute
from node.services.validating import root_of

SAMPLES = (512, 64)
ROUNDS = 4
BATCHES = (BATCH_NONCES_MAX, 100_000, 10_000)
AIM = 0.01
DAY_SECONDS = 86_400
VALIDATOR = Address("0x" + "22" * 20)


@dataclass(frozen=True, slots=True)
class Cost:
    """In seconds."""

    wall: float
    processor: float


async def validated(engine: MinedEngine, seed: Hash32, sampled: int, group: int) -> Cost:
    """Recompute a sample of a batch of a million and judge it."""
    rule = SampleRule(1_000_000, 1_000, 3, sampled)
    own, used, began = time.process_time(), processor_seconds(group), trio.current_time()
    sample = draw_sample(seed, ACCOUNT, NODE, BATCH_NONCES_MAX, sampled)
    found = await recompute(cast(Engine, engine), model_record(MODEL), (ACCOUNT, NODE), sample, seed, seed, VALIDATOR)
    if len(found.tails) != sampled:
        raise RuntimeError("there are no tails")
    committed = found.vectors  # what it is compared with is read from the file
    distances = [squared_distance(one, other) for one, other in zip(committed, found.vectors, strict=True)]
    judge(sampled, len(mismatches_of(sample, distances, rule)), rule)
    spent = processor_seconds(group) - used + time.process_time() - own
    return Cost(trio.current_time() - began, spent)


async def read_file(directory: Path) -> tuple[Cost, Cost]:
    """Return what it costs to fetch the vectors of a million nonces, with what giving them costs, and to hash them."""
    size = BATCH_NONCES_MAX * VECTOR_BYTES
    async with (
        open_content(directory / "giver", host="127.0.0.1", port=0, cache_bytes_max=0) as giver,
        open_content(directory / "validator", host="127.0.0.1", port=0, cache_bytes_max=0, serve=False) as validator,
    ):
        cid = await giver.add_bytes(os.urandom(size))
        used, began = time.process_time(), trio.current_time()
        data = await validator.read_bytes(cid, [Provider("127.0.0.1", giver.port)], limit_bytes=size)
        fetched = Cost(trio.current_time() - began, time.process_time() - used)
    used, began = time.process_time(), trio.current_time()
    await root_of(data)
    return fetched, Cost(trio.current_time() - began, time.process_time() - used)


async def measure(engine: MinedEngine, group: int, directory: Path) -> None:
    """Print what each part costs, and what that comes to."""
    generating: list[Cost] = []
    sampling: dict[int, list[Cost]] = {sampled: [] for sampled in SAMPLES}
    for number in range(ROUNDS + 1):
        of_nonce = await mined(engine, Hash32(bytes([number]) * 32), group)
        if number:  # the first round warms up
            generating.append(Cost(of_nonce.wall, of_nonce.processor))
        for sampled in SAMPLES:
            of_sample = await validated(engine, Hash32(bytes([100 + number]) * 32), sampled, group)
            if number:
                sampling[sampled].append(of_sample)
    nonce, files = _best(generating), await read_file(directory)
    fetched, hashed = files
    print(f"generating: {1 / nonce.wall:.0f} nonces/s, {nonce.processor * 1e3:.2f} ms of processor each")
    for sampled, costs in sampling.items():
        cost = _best(costs)
        print(
            f"recomputing {sampled} with tails: {cost.wall:.2f} s, {cost.processor:.2f} s of processor, "
            f"{cost.processor / sampled / nonce.processor:.2f} of generating as many"
        )
    print(
        f"the file of {BATCH_NONCES_MAX:,}: fetched in {fetched.wall:.2f} s ({fetched.processor:.2f} s of processor, "
        f"the giver's included), hashed in {hashed.wall:.2f} s ({hashed.processor:.2f})"
    )
    print(
        f"reckoned: this engine generates {DAY_SECONDS / nonce.wall / 1e6:.0f} million in a day, a batch holds "
        f"{BATCH_NONCES_MAX:,} at most: {BATCH_NONCES_MAX * nonce.wall / 60:.0f} minutes' work"
    )
    by_file = (fetched.processor + hashed.processor) / BATCH_NONCES_MAX / nonce.processor
    for count in BATCHES:
        shares = {sampled: _best(costs).processor / count / nonce.processor for sampled, costs in sampling.items()}
        print(
            f"a batch of {count:9,} ({count * nonce.wall / 60:5.1f} minutes): "
            + ", ".join(
                f"k = {sampled}: {share + by_file:.3%} ({share:.3%} engine)" for sampled, share in shares.items()
            )
            + f"; the file {by_file:.3%}; aim {AIM:.0%}"
        )


def _best(costs: list[Cost]) -> Cost:
    """What else the machine does only ever slows."""
    return Cost(min(cost.wall for cost in costs), min(cost.processor for cost in costs))


async def main() -> None:
    """Start the server and measure."""
    model = model_directory()
    with tempfile.TemporaryDirectory() as directory:
        async with open_server(model, MODEL, CONTEXT_TOKENS) as server:
            engine = MinedEngine(EngineClient(server.http, MODEL), read_vocabulary_size(model))
            await measure(engine, server.group, Path(directory))


if __name__ == "__main__":
    trio.run(main)
