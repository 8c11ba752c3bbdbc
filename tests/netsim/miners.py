"""Engines and draws of a miner, as tests want them."""

from collections.abc import Sequence

import trio

from netsim.engine import SimulatedEngine
from netsim.ledger import Ledger
from netsim.scenario import BLOCK_SECONDS, MODEL_ID, PARAMETERS
from node.protocol.identifiers import Address, EpochNumber, ModelId, NodeId
from node.protocol.stages import Stage, first_block_of
from node.services.poc_slots import PocSlots

NODE_ID = NodeId("node-1")
OTHER_MODEL = ModelId("other")
BEGIN, END = (first_block_of(0, stage, PARAMETERS) for stage in (Stage.GENERATE, Stage.EXCHANGE))


class Drawn(PocSlots):
    """A draw that is already made, or that nobody can make."""

    def __init__(self, *, selected: bool | None, registered: bool = True) -> None:
        self._selected = selected
        self._registered = registered

    async def is_selected(self, _epoch: EpochNumber, _participant: Address, _node_id: NodeId) -> bool:
        if self._selected is None:
            await trio.sleep_forever()
        return bool(self._selected)

    async def judged_models(self, _epoch: EpochNumber) -> frozenset[ModelId]:
        return frozenset({MODEL_ID})

    async def is_registered(self, _epoch: EpochNumber, _participant: Address, _node_id: NodeId) -> bool:
        return self._registered


class SlowEngine(SimulatedEngine):
    """Takes so many seconds for each question: a machine with other work, or requests of users before it."""

    seconds = 0.0
    computing: trio.Lock

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        async with self.computing:
            await trio.sleep(self.seconds)
            return await super().prompt_logprobs(prompts, priority=priority)


class CountingEngine(SlowEngine):
    """Counts the nonces that it computes."""

    computed = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        rows = await super().prompt_logprobs(prompts, priority=priority)
        self.computed += len(rows)
        return rows


def counting(seconds: float) -> CountingEngine:
    engine = CountingEngine(NODE_ID, MODEL_ID, "honest", 0.0, 1)
    engine.seconds, engine.computing = seconds, trio.Lock()
    return engine


async def until_block(ledger: Ledger, block: int) -> None:
    while ledger.height < block:
        await trio.sleep(BLOCK_SECONDS / 4)
