"""The network of the test of three epochs: who takes part, with which engines, and how it comes to its first epoch.

Five participants as the issue names them, and a sixth: *witness*, a second honest founder. Without it the first one's
batches would be judged by the lazy validator alone after the two cheats have lost their weight in the first epoch, and
whether the honest are paid would rest on a liar's good mood. The engines are real servers that the participants share,
each by its URL, as an operator does whose servers run on other machines.
"""

import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.control.views import EpochView, ModelsView, StatusView
from node.protocol.records import EpochParameters
from node.protocol.stages import Stage, first_block_of
from scripts.local_network import MODEL_ID, ROOT, TINY_MODEL, Daemon, LocalNetwork, run_local_network
from tests.system.forging_engine import forging_engine
from tests.system.make_variants import FOUR_BITS, SECOND
from tests.system.remote_engine import ENGINE_PYTHON, remote_engine, until_answering

KEEPER, WITNESS, FAKER, FOUR_BITS_HOST, LAZY, LATE = "keeper", "witness", "faker", "four-bits", "lazy", "late"
PARTICIPANTS = (KEEPER, WITNESS, FAKER, FOUR_BITS_HOST, LAZY, LATE)
HONEST_PROVERS = (KEEPER, WITNESS, LAZY, LATE)
"""Those whose nonces are real. The lazy one cheats at votes only."""
GENESIS_WEIGHTS = {KEEPER: 5, WITNESS: 5, FAKER: 1, FOUR_BITS_HOST: 1, LAZY: 1}
"""The honest have more than two thirds: results need no cheat's signature."""
EPOCHS = 3
NONCES = 96
"""Of each ML node and epoch: what GENERATE has time for also on a busy machine."""
LOAD_PER_BLOCK_SECOND = 3.0
"""Processes in wait for each core that a second for each block allows for. Stages are counted in blocks: on a machine
that does other things beside, blocks have to come more slowly, or daemons miss what they had no time for."""
BLOCK_SECONDS_MAX = 6
EPOCH_SECONDS_MAX = 1500.0
PACE_SECONDS = 5.0
"""How often the pace is looked at."""
LAST_SERVE_BLOCKS = 6
"""Of a SERVE that is skipped: for the newest heads to reach everybody before GENERATE."""
EPOCH: Mapping[str, object] = {
    "epoch_blocks": 78,
    "generate_offset": 20,
    "exchange_offset": 33,
    "validate_offset": 38,
    "vote_exchange_offset": 52,
    "form_offset": 60,
    "load_offset": 74,
    "poc_sample_size": 32,
    "poc_reject_mismatches": 3,
}


@dataclass(frozen=True, slots=True)
class EngineUrls:
    """Where the servers answer."""

    tiny: str
    second: str
    four_bits: str
    forging: str

    def of(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return (model id, URL) of each ML node of a participant."""
        if name == FAKER:
            return ((MODEL_ID, self.forging),)
        if name == FOUR_BITS_HOST:
            return ((MODEL_ID, self.four_bits),)
        if name in (KEEPER, WITNESS):
            return ((MODEL_ID, self.tiny), (SECOND, self.second))
        return ((MODEL_ID, self.tiny),)


@dataclass(slots=True)
class ProvingNetwork:
    """The running network, at the beginning of its first epoch."""

    network: LocalNetwork
    parameters: EpochParameters
    models: dict[str, str] = field(default_factory=dict)
    """CIDs by model id."""

    async def keep_pace(self) -> None:
        """Have the chain make blocks as often as the machine can follow, until cancelled."""
        kept = 0
        while True:
            load = os.getloadavg()[0] / (os.cpu_count() or 1)
            wanted = max(1, min(BLOCK_SECONDS_MAX, round(load / LOAD_PER_BLOCK_SECOND)))
            if wanted != kept:
                self.network.say(f"a block every {wanted} s")
                await self.network.rpc.call("evm_setIntervalMining", wanted)
                kept = wanted
            await trio.sleep(PACE_SECONDS)

    async def halt(self) -> None:
        """Have the chain make no more blocks: what is read from now on is of one moment."""
        await self.network.rpc.call("evm_setIntervalMining", 0)

    async def block(self) -> int:
        """The newest block."""
        return await self.network.rpc.block_number()

    def first_block_of(self, epoch: int, stage: Stage) -> int:
        """The first block of a stage."""
        return first_block_of(epoch, stage, self.parameters)

    async def skip_serving(self, epoch: int) -> None:
        """In SERVE: skip it, but for its last blocks. Nothing is to happen in it that needs time."""
        await self.network.skip_to(self.first_block_of(epoch, Stage.GENERATE) - LAST_SERVE_BLOCKS)

    async def skip_forming(self, epoch: int) -> None:
        """Wait for the result of an epoch, then skip what is left of FORM."""

        async def posted() -> bool:
            last = (await self.network.gateway.call("epoch", EpochView)).last_result_epoch
            return last is not None and last >= epoch

        await self.network.until(f"the result of epoch {epoch}", posted, EPOCH_SECONDS_MAX)
        await self.network.skip_to(self.first_block_of(epoch, Stage.LOAD))

    async def join(self, name: str) -> None:
        """Start a participant's daemon."""
        daemon = self.network.daemons[name]
        if name == LAZY:
            await self.network.start(daemon, (sys.executable, "-m", "tests.system.copying_validator"))
        else:
            await self.network.start(daemon)

    async def until_ready(self, names: tuple[str, ...]) -> None:
        """Wait until these serve, are registered, and know all others of them."""

        async def ready() -> bool:
            for name in names:
                status = await self.network.daemons[name].call("status", StatusView)
                if not status.registered or not all(engine.ready for engine in status.engines):
                    return False
            models = (await self.network.gateway.call("models", ModelsView)).models
            tiny = next((model for model in models if model.model_id == MODEL_ID), None)
            return tiny is not None and tiny.executors >= len(names) and len(models) == 2

        await self.network.until(f"{', '.join(names)} ready", ready)


@asynccontextmanager
async def run_engines(directory: Path) -> AsyncIterator[EngineUrls]:
    """Run the three servers and the forger's door; they may not answer yet."""
    variants = directory / "variants"
    await trio.run_process(
        [str(ENGINE_PYTHON), str(ROOT / "tests" / "system" / "make_variants.py"),
         "--tiny", str(TINY_MODEL), "--output", str(variants)],
        capture_stderr=True,
    )  # fmt: skip
    async with (
        remote_engine(directory, "tiny", TINY_MODEL, MODEL_ID) as tiny,
        remote_engine(directory, "second", variants / SECOND, SECOND) as second,
        remote_engine(directory, "rounded", variants / FOUR_BITS, MODEL_ID) as rounded,
        forging_engine(tiny) as forging,
    ):
        yield EngineUrls(tiny, second, rounded, forging)


@asynccontextmanager
async def run_proving_network(directory: Path) -> AsyncIterator[ProvingNetwork]:
    """Run the network; the context begins with the first epoch. The late joiner has keys and gas, and does not run."""
    async with (
        run_engines(directory) as urls,
        run_local_network(
            print,
            directory,
            miner_names=PARTICIPANTS,
            epoch=EPOCH,
            environment={"QUERN_MINING__NONCES_MAX": str(NONCES)},
        ) as network,
    ):
        network.genesis_weights = dict(GENESIS_WEIGHTS)
        started = trio.current_time()
        await network.initialise()
        network.say(f"{trio.current_time() - started:4.0f} s  accounts and settings are made")
        for name in PARTICIPANTS:
            write_engines(network.daemons[name], urls.of(name))
        await network.hold_epochs()
        await network.deploy()
        models = {
            MODEL_ID: await network.publish(),
            SECOND: await network.publish(directory / "variants" / SECOND, SECOND),
        }
        for url in (urls.tiny, urls.second, urls.four_bits):
            await until_answering(url)
        network.say(f"{trio.current_time() - started:4.0f} s  contracts, models and engines are there")
        proving = ProvingNetwork(network, await network.parameters(), models)
        founders = tuple(GENESIS_WEIGHTS)
        for name in founders:
            await proving.join(name)
        await network.start(network.gateway)
        await proving.until_ready(founders)
        await network.begin_epochs()
        network.say(f"{trio.current_time() - started:4.0f} s  the founders are ready")
        yield proving


def write_engines(daemon: Daemon, nodes: tuple[tuple[str, str], ...]) -> None:
    """Replace the ML nodes in a settings file by `nodes`, numbered from 1: (model id, URL)."""
    text = daemon.config.read_text(encoding="utf-8")
    before, _, rest = text.partition("\n[[engines]]\n")
    following = re.search(r"^\[", rest, flags=re.MULTILINE)
    tables = "".join(
        f'\n[[engines]]\nnode_id = "node-{number}"\nmodel_id = "{model_id}"\nurl = "{url}"\n'
        for number, (model_id, url) in enumerate(nodes, start=1)
    )
    daemon.config.write_text(
        before + "\n" + (rest[following.start() :] if following else "") + tables, encoding="utf-8"
    )
