"""What an audit of an answer costs against generating it: `python -m benchmarks.auditing [MODEL_DIRECTORY [TOKENS…]]`.

One vLLM server as the daemon starts it. It writes answers of 64, 128 and 400 tokens, or of so many as are named (a
model of benchmarks/larger_model.py is slow), 64 at once and one after the other, and reads the same answers for audits,
two at once as AuditingService does, with the rule's winners. Printed are the server's and the daemon's time per answer;
all in one run. Of the daemon that is what it does with the engine's stream, and with what a prefill says
(node/services/audit_reading.py): not gateway and network of a user's request, nor fetching the evidence of an audit and
checking its signatures.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from benchmarks.engine_server import model_directory, open_server
from benchmarks.formation import model_record
from benchmarks.mining_beside_serving import ServingEngine
from benchmarks.nonces import MODEL
from benchmarks.sampling import processor_seconds
from node.engine.client import EngineClient
from node.engine.identity import read_vocabulary_size
from node.ports import GenerationRequest
from node.protocol.audit_evidence import KeptAnswer, kept_answer
from node.protocol.audit_sampling import AUDITED_PER_MILLE, SEATS
from node.protocol.calibration import default_band
from node.protocol.dossiers import AnswerEvidence
from node.protocol.draws import Drawn, Prefill
from node.protocol.sampling import SamplingParameters
from node.services.audit_reading import read_figures
from node.services.auditing import READ_AT_ONCE

LENGTHS = (64, 128, 400)
BATCH = 64
READ = 32
"""Of a batch, so many are read: processor time is told in hundredths of a second."""
ALONE = 3
"""Answers that are written, and read, one after the other."""
ROUNDS = 2
PROMPT_TOKENS = 60
CONTEXT_TOKENS = 2048
SAMPLING = SamplingParameters(temperature_milli=1000)


class LongWinded(EngineClient):
    """Has answers go on after their end, so that all have the length asked for."""

    async def _fields_of(self, request: GenerationRequest) -> dict[str, object]:
        return await super()._fields_of(request) | {"ignore_eos": True}


class AuditingEngine(ServingEngine):
    """An ML node that answers and reads answers."""

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """As node.ports.Prefiller has it."""
        return await self.client.prefill(token_ids, first, top=top, priority=priority, drawn=drawn)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one answer, in seconds."""

    wall: float
    server: float
    daemon: float

    @property
    def processor(self) -> float:
        """Of both."""
        return self.server + self.daemon


class Meter:
    """Measures what a number of answers cost."""

    def __init__(self, group: int) -> None:
        """`group` is that of the server's processes."""
        self._group = group
        self._began = self._now()

    def _now(self) -> tuple[float, float, float]:
        return trio.current_time(), processor_seconds(self._group), time.process_time()

    def cost(self, answers: int) -> Cost:
        """Return what each of `answers` took since this was made."""
        return Cost(*((now - began) / answers for now, began in zip(self._now(), self._began, strict=True)))


async def written(engine: AuditingEngine, number: int, tokens: int) -> KeptAnswer:
    """Have the engine write one answer; each number has a prompt of its own, which no cache knows."""
    prompt = tuple(5 + (number * 7919 + place * 31) % 1000 for place in range(PROMPT_TOKENS))
    request = GenerationRequest(prompt, tokens, SAMPLING, number, (), 0)
    output: list[int] = []
    async with engine.generate(request) as chunks:
        async for chunk in chunks:
            output += chunk.token_ids
    if len(output) != tokens:
        raise RuntimeError(f"{len(output)} tokens, not {tokens}")
    return kept_answer(AnswerEvidence(prompt, tuple(output), "", SAMPLING, number, None, (), ""))


async def read(engine: AuditingEngine, kept: KeptAnswer) -> None:
    """Read one answer as an audit does."""
    if await read_figures(engine, kept, default_band(model_record(MODEL)), CONTEXT_TOKENS) is None:
        raise RuntimeError("the engine failed")


async def both(engine: AuditingEngine, group: int, seed: int, tokens: int, answers: int) -> tuple[Cost, Cost]:
    """Return what it costs to write `answers` at once, ALONE of them one after the other, and to read READ of them."""
    kept: dict[int, KeptAnswer] = {}
    is_alone = answers == ALONE
    at_once, reading = (trio.CapacityLimiter(1 if is_alone else most) for most in (answers, READ_AT_ONCE))

    async def write_one(number: int) -> None:
        async with at_once:
            kept[number] = await written(engine, seed * 1000 + number, tokens)

    async def read_one(number: int) -> None:
        async with reading:
            await read(engine, kept[number])

    costs = []
    for work, count in ((write_one, answers), (read_one, min(READ, answers))):
        meter = Meter(group)
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(work, number)
        costs.append(meter.cost(count))
    return costs[0], costs[1]


def told(cost: Cost) -> str:
    """Return a cost in words."""
    return f"{cost.wall * 1e3:6.1f} ms ({cost.server * 1e3:6.1f} server, {cost.daemon * 1e3:5.1f} daemon)"


async def measure(engine: AuditingEngine, group: int, lengths: Sequence[int]) -> None:
    """Print a line for each length and way."""
    await both(engine, group, 0, lengths[0], BATCH)  # warms up
    share = AUDITED_PER_MILLE / 1000 * SEATS
    seed = 0
    for tokens in lengths:
        for answers, name in ((ALONE, "alone"), (BATCH, f"{BATCH} at once")):
            pairs = []
            for _ in range(ROUNDS):
                seed += 1
                pairs.append(await both(engine, group, seed, tokens, answers))
            writing = min((pair[0] for pair in pairs), key=lambda cost: cost.processor)
            reading = min((pair[1] for pair in pairs), key=lambda cost: cost.processor)
            ratio, by_time = reading.processor / writing.processor, reading.wall / writing.wall
            print(
                f"{tokens:4} tokens, {name:10}: written in {told(writing)}, read in {told(reading)}; "
                f"ratio {ratio:.2f} by processor time, {by_time:.2f} by time; "
                f"audits are {ratio * share:.1%} of generating",
                flush=True,
            )


async def main() -> None:
    """Start the server and measure."""
    model = model_directory()
    lengths = [int(word) for word in sys.argv[2:]] or LENGTHS
    async with open_server(model, MODEL, CONTEXT_TOKENS) as server:
        client = LongWinded(server.http, MODEL)
        await client.prepare()
        await measure(AuditingEngine(client, read_vocabulary_size(model)), server.group, lengths)


if __name__ == "__main__":
    trio.run(main)
