"""Knows who mines what in an epoch's Proof of Compute, and who keeps serving: the rules' inputs, from the chain."""

from dataclasses import replace

from node.ports import Chain
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, ModelId, NodeId
from node.protocol.stages import Stage, first_block_of
from node.protocol.timeslots import select_poc_slots
from node.protocol.validation import judged_models
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook


class PocSlots:
    """The selection of each epoch (timeslots.py). Keeps the newest: folding the chain again takes time."""

    def __init__(self, chain: Chain, epochs: EpochBook) -> None:
        self._chain = chain
        self._epochs = epochs
        self._known: tuple[EpochNumber, frozenset[NodeKey]] | None = None

    def known(self, epoch: EpochNumber) -> frozenset[NodeKey]:
        """Return the nodes selected for `epoch` if that has been found out; none otherwise. Does not wait."""
        return self._known[1] if self._known is not None and self._known[0] == epoch else frozenset()

    async def selected(self, epoch: EpochNumber) -> frozenset[NodeKey]:
        """Return the nodes selected for `epoch`.

        Waits until the last block of SERVE is confirmed, and for the content of the result that made the group: without
        it nobody can tell.
        """
        if self._known is not None and self._known[0] == epoch:
            return self._known[1]
        last_block = BlockNumber(first_block_of(epoch, Stage.GENERATE, self._chain.schedule) - 1)
        seed = await self._chain.block_hash(last_block)
        state = await self._chain.state_at(last_block)
        previous = await self._epochs.result_before(epoch, state)
        if previous is None:
            selected: frozenset[NodeKey] = frozenset()
        else:
            selected = select_poc_slots(replace(previous.group, epoch=epoch), previous.nodes, state, seed)
        self._known = (epoch, selected)
        return selected

    async def judged_models(self, epoch: EpochNumber) -> frozenset[ModelId]:
        """Return the models whose batches of `epoch` are judged: mining another one is for nothing.

        Waits like `selected`.
        """
        last_block = BlockNumber(first_block_of(epoch, Stage.GENERATE, self._chain.schedule) - 1)
        state = await self._chain.state_at(last_block)
        previous = await self._epochs.result_before(epoch, state)
        return judged_models(state, None if previous is None else previous.group)

    async def is_registered(self, epoch: EpochNumber, participant: Address, node_id: NodeId) -> bool:
        """Whether a node was registered before mining began: else nobody judges what it mines (validation.py).

        Waits until the last block of SERVE is confirmed.
        """
        last_block = BlockNumber(first_block_of(epoch, Stage.GENERATE, self._chain.schedule) - 1)
        found = (await self._chain.state_at(last_block)).participants.get(participant)
        return found is not None and any(node.node_id == node_id for node in found.ml_nodes)

    async def is_selected(self, epoch: EpochNumber, participant: Address, node_id: NodeId) -> bool:
        """Whether a node keeps serving through Proof of Compute in `epoch`: then it does not mine."""
        return (participant, node_id) in await self.selected(epoch)
