"""By what the batches and votes of an epoch are judged: gathered from the chain once, the same for all who judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from node.ports import Chain
from node.protocol.audit_votes import AUDIT_VOTES_MAX
from node.protocol.bundle_reading import BundleLimits, audits_due, limits_of, read_bundle_in_slices
from node.protocol.bundles import check_bundle
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32, ModelId
from node.protocol.judges import Judges, judges_for
from node.protocol.nonces import draw_sample
from node.protocol.records import ModelRecord, PocCommit, VoteBundle
from node.protocol.slices import Slices
from node.protocol.stages import Stage, first_block_of
from node.protocol.tails import checkers_of
from node.protocol.validation import SampleRule, rules_of
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook


@dataclass(frozen=True, slots=True)
class Judging:
    """The rules of one epoch's Proof of Compute. Frozen when mining begins, but for the seeds that come later."""

    epoch: EpochNumber
    commits: Mapping[NodeKey, PocCommit]
    """As of the last block before `state`, which `judging_of` was given."""
    models: Mapping[ModelId, ModelRecord]
    rules: Mapping[NodeKey, SampleRule]
    judges: Judges
    weights: Mapping[Address, int]
    """Of the group in charge."""
    generate_seed: Hash32
    sample_seed: Hash32
    checkers_seed: Hash32 | None
    """Draws who checks the votes of the epoch before; None in the first epoch."""
    voted_before: frozenset[Address]
    """Validators that committed a bundle the epoch before: nobody else can be checked."""
    audits_due: int = AUDIT_VOTES_MAX
    """How many answers one member can have to audit."""
    bundle_limits: BundleLimits = field(init=False)
    """What a bundle may have; larger ones are void."""
    _checkers: dict[tuple[Address, ModelId], frozenset[Address]] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )
    """By whom they check, and on which model: each of 24 bundles asks, and a draw is a hash for each member."""

    def __post_init__(self) -> None:
        checks = sum(len(self.judges.models_to_check(validator)) for validator in self.voted_before)
        limits = limits_of(self.commits, self.rules, checks, self.audits_due)
        object.__setattr__(self, "bundle_limits", limits)

    def sample_of(self, key: NodeKey) -> tuple[int, ...]:
        """The nonces that are drawn of a batch that has a rule."""
        return draw_sample(self.sample_seed, *key, self.commits[key].count, self.rules[key].sample_size)

    def checkers(self, validator: Address, model_id: ModelId) -> frozenset[Address]:
        """Who was drawn to check `validator`'s votes of the epoch before on a model."""
        if self.checkers_seed is None or validator not in self.voted_before:
            return frozenset()
        key = validator, model_id
        if key not in self._checkers:
            able = self.judges.able_to_check(validator, model_id, self.weights)
            if not able:
                return frozenset()  # and not kept: a bundle may name any model
            self._checkers[key] = checkers_of(self.checkers_seed, validator, able)
        return self._checkers[key]

    def read(self, data: bytes) -> Slices[VoteBundle]:
        """Return a bundle that is still to be checked. Raises SchemaError, as well for more than its limits allow."""
        return read_bundle_in_slices(data, self.bundle_limits)

    def check(self, bundle: VoteBundle, validator: Address) -> None:
        """Raise BundleError unless `bundle` is what `validator` may have committed."""
        check_bundle(
            bundle,
            self.epoch,
            validator,
            self.commits,
            self.rules,
            sample_seed=self.sample_seed,
            checkers=self.checkers,
            checked=self.voted_before,
        )


async def judging_of(chain: Chain, epochs: EpochBook, epoch: EpochNumber, state: ChainState) -> Judging:
    """Return the rules of `epoch` for the commits in `state`.

    Waits until the sample's seed is confirmed, and for the content of the result that made the group: whoever waits
    cancels it when the duty is over.
    """
    parameters = chain.schedule.of_epoch(epoch)
    mining = first_block_of(epoch, Stage.GENERATE, chain.schedule)
    before_mining = await chain.state_at(BlockNumber(mining - 1))
    commits = state.poc_commits.get(epoch, {})
    previous = await epochs.result_before(epoch, state)
    frozen = None if previous is None else previous.group
    weights = dict(state.group_weights(epoch))
    models = {} if frozen is None else {model.model_id: model for model in frozen.models}
    return Judging(
        epoch=epoch,
        commits=commits,
        models={**before_mining.models, **models},
        rules=rules_of(commits, before_mining, parameters, frozen),
        judges=judges_for(epoch, weights, before_mining, frozen),
        weights=weights,
        generate_seed=await chain.block_hash(mining),
        sample_seed=await chain.block_hash(first_block_of(epoch, Stage.VALIDATE, chain.schedule)),
        checkers_seed=None if epoch == 0 else await check_seed(chain, EpochNumber(epoch - 1)),
        voted_before=frozenset(state.vote_bundles.get(EpochNumber(epoch - 1), {})),
        audits_due=audits_due(previous),
    )


async def check_seed(chain: Chain, epoch: EpochNumber) -> Hash32:
    """Return what draws the checks of the votes of `epoch`: nobody knew it when their evidence was committed."""
    return await chain.block_hash(first_block_of(epoch, Stage.FORM, chain.schedule))
