"""What an epoch's result follows from: whoever forms one, or judges one, takes it from here, so that both agree."""

from collections.abc import Mapping
from dataclasses import dataclass

from node.ports import Chain
from node.protocol.agreement import committed_order
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber, ModelId
from node.protocol.records import EpochParameters, EpochResult, VoteBundle
from node.protocol.results import form_epoch_result_in_slices
from node.protocol.slices import Slices
from node.protocol.stages import Stage, first_block_of
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook
from node.services.judging import Judging, judging_of
from node.services.poc_slots import PocSlots


@dataclass(frozen=True, slots=True)
class ResultInputs:
    """Everything but the vote bundles that count."""

    epoch: EpochNumber
    state: ChainState
    """The chain up to the last block before FORM."""
    judging: Judging
    bundle_cids: Mapping[Address, Cid]
    """The vote bundles that were committed, by validator."""
    committed: tuple[Address, ...]
    """Who committed one, ascending."""
    posters: tuple[Address, ...]
    """The group in charge, ascending: one after the other is to post."""
    previous: EpochResult | None
    """The newest accepted result before this epoch's."""
    audit_seeds: AuditSeeds | None
    audit_state: ChainState
    """The chain at the first block of SERVE, as auditors saw it: they measured by what was registered then."""
    selected: frozenset[NodeKey]
    """Nodes that kept serving."""
    models: frozenset[ModelId]
    """What could be mined."""
    parameters: EpochParameters
    next_parameters: EpochParameters
    """Of the epoch in which the next group serves."""

    def form(self, bundles: Mapping[Address, VoteBundle]) -> Slices[EpochResult | None]:
        """Return what follows if `bundles`, which were checked, count; None if there is no next group.

        They are taken in ascending order, for a result must not follow from the order in which they came.
        """
        return form_epoch_result_in_slices(
            self.epoch,
            self.state,
            self.parameters,
            {validator: bundles[validator] for validator in committed_order(bundles.keys())},
            self.previous,
            rules=self.judging.rules,
            models=self.models,
            judges=self.judging.judges,
            audit_seeds=self.audit_seeds,
            audit_state=self.audit_state,
            selected=self.selected,
            next_parameters=self.next_parameters,
        )


async def gather_inputs(chain: Chain, epochs: EpochBook, slots: PocSlots, epoch: EpochNumber) -> ResultInputs:
    """Return the inputs of `epoch`, whose FORM has begun; waits for the content of the result before."""
    begin = first_block_of(epoch, Stage.FORM, chain.schedule)
    state = await chain.state_at(BlockNumber(begin - 1))
    judging = await judging_of(chain, epochs, epoch, state)
    previous = await epochs.result_before(epoch, state)
    audit_seeds = None
    if previous is not None:
        before = await chain.block_hash(first_block_of(previous.epoch, Stage.FORM, chain.schedule))
        audit_seeds = AuditSeeds(before, await chain.block_hash(begin))
    bundle_cids = state.vote_bundles.get(epoch, {})
    return ResultInputs(
        epoch=epoch,
        state=state,
        judging=judging,
        bundle_cids=bundle_cids,
        committed=committed_order(bundle_cids.keys()),
        posters=committed_order(judging.weights.keys()),
        previous=previous,
        audit_seeds=audit_seeds,
        audit_state=await chain.state_at(first_block_of(epoch, Stage.SERVE, chain.schedule)),
        selected=await slots.selected(epoch),
        models=await slots.judged_models(epoch),
        parameters=chain.schedule.of_epoch(epoch),
        next_parameters=chain.schedule.of_epoch(epoch + 1),
    )
