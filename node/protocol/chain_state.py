"""The chain as a daemon knows it: a fold of confirmed events. Same events, same state, on every node.

Only confirmed events are applied, so nothing is ever rolled back here: reorganisations end in the watcher.

*What bounds it.* Commitments, votes, voided results, executed verdicts and changes of hardware are kept of the newest
EPOCHS_KEPT epochs, prompts up to a number. All others grow with something that is paid for: models with decisions of
the governance; participants, their collateral and what they claimed with registrations; channels with deposits; results
and groups by one an epoch, of which equal groups are held once.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from node.protocol.bands import hardware_class
from node.protocol.calibration import Calibration, CalibrationError, parse_calibration
from node.protocol.events import (
    ChainEvent,
    ChannelEvent,
    ChannelFunded,
    ChannelWithdrawn,
    CollateralDeposited,
    CollateralEvent,
    CollateralSlashed,
    CollateralUnbonding,
    CollateralWithdrawn,
    EpochEvent,
    EpochResultPosted,
    EpochResultVoided,
    GroupSet,
    GroupStored,
    MinCollateralSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParametersScheduled,
    ParticipantLeft,
    ParticipantPunished,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptDisputed,
    PromptEvent,
    PromptReclaimed,
    PromptSettled,
    PromptSubmitted,
    RegistryEvent,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
    WorkCoinsAdded,
)
from node.protocol.identifiers import (
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    TokenAmount,
)
from node.protocol.model_numbers import makes_same_numbers
from node.protocol.records import EpochResultSummary, MLNodeRegistration, ModelRecord, ParticipantRecord, PocCommit
from node.protocol.schedules import with_change
from node.protocol.verdicts import Offence

Key = TypeVar("Key")
Value = TypeVar("Value")

NOTHING = TokenAmount(0)
FIRST_EPOCH = EpochNumber(0)
EPOCHS_KEPT = 64
"""Rules look back at the epoch before, verdicts eight epochs (penalties.py); people may ask for what is older than
that, and are told of results for ever. A large network adds some megabytes an epoch."""
PROMPTS_UNFINISHED_MAX = 4096
"""Prompts on chain that are followed. One costs its user gas and an escrow of any size, so only a bound keeps them from
filling the memory of all; what is dropped first is what nobody's money waits for (see `_drop_a_prompt`)."""
PROMPTS_ENDED_MAX = 512
"""Prompts kept after their end, the newest: only people look at them."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A payment channel as the chain holds it."""

    channel_id: Hash32
    payer: Address
    payee: Address
    deposited: TokenAmount = NOTHING
    redeemed: TokenAmount = NOTHING
    unlock_time: int | None = None
    """UNIX seconds from which the payer may withdraw; None while no withdrawal is announced."""


@dataclass(frozen=True, slots=True)
class CollateralState:
    """A participant's collateral as the chain holds it."""

    deposited: TokenAmount = NOTHING
    unbonding: TokenAmount = NOTHING
    available_at: int = 0
    """UNIX seconds from which everything that unbonds may be withdrawn."""
    barred_until: EpochNumber = FIRST_EPOCH
    """First epoch whose proofs of this participant count."""


@dataclass(slots=True)
class PromptState:
    """An on-chain prompt and, once there is one, its outcome, which whoever holds it sees come."""

    submitted: PromptSubmitted
    submitted_at: BlockNumber
    answered: PromptAnswered | None = None
    disputed: PromptDisputed | None = None
    ended: PromptSettled | PromptReclaimed | None = None

    @property
    def is_open(self) -> bool:
        """Whether an answer would still be taken."""
        return self.answered is None and self.ended is None

    @property
    def settles_after(self) -> BlockNumber | None:
        """Block after which anybody may have the answer paid; None if there is none, or the prompt has ended."""
        if self.answered is None or self.ended is not None:
            return None
        return self.answered.dispute_until if self.disputed is None else self.disputed.verdict_until


@dataclass(slots=True)
class ChainState:
    """Everything the services read of the chain. Mutated by `apply` only."""

    models: dict[ModelId, ModelRecord] = field(default_factory=dict)
    numbers_changed: dict[ModelId, BlockNumber] = field(default_factory=dict)
    """The newest block in which weights of a registered model changed, or what else makes its numbers; only of models
    of which any did (model_changes.py)."""
    calibrations: dict[ModelId, Calibration] = field(default_factory=dict)
    """Of the models' current versions, as far as they have one that can be read."""
    void_calibrations: dict[ModelId, str] = field(default_factory=dict)
    """Why one of a model's current version counts as none: it cannot be read, or is of something else."""
    participants: dict[Address, ParticipantRecord] = field(default_factory=dict)
    """Those whose peer key consented to the binding. All others are not there, whatever the registry says."""
    hardware_changed: dict[tuple[Address, NodeId], EpochNumber] = field(default_factory=dict)
    """Nodes that came to be of another class of hardware, or were removed, in the newest EPOCHS_KEPT epochs, and the
    first epoch that was reached since: what they answered may be by other hardware than they have (audit_bands.py)."""
    collateral: dict[Address, CollateralState] = field(default_factory=dict)
    min_collateral: TokenAmount = NOTHING
    punished: set[tuple[EpochNumber, Address, Offence]] = field(default_factory=set)
    """Verdicts that were executed."""
    groups: dict[EpochNumber, tuple[tuple[Address, int], ...]] = field(default_factory=dict)
    """Weights by epoch, only for epochs that set a group of their own; see `group_weights`."""
    stored_groups: dict[Hash32, tuple[tuple[Address, int], ...]] = field(default_factory=dict)
    """Groups that results may name, by hash. Only members in charge can add to them."""
    poc_commits: dict[EpochNumber, dict[tuple[Address, NodeId], PocCommit]] = field(default_factory=dict)
    vote_bundles: dict[EpochNumber, dict[Address, Cid]] = field(default_factory=dict)
    results: dict[EpochNumber, EpochResultSummary] = field(default_factory=dict)
    voided: dict[EpochNumber, tuple[Hash32, ...]] = field(default_factory=dict)
    """Digests of the results that were objected to, in order, by epoch: each took a quorum, and then a third."""
    parameter_changes: tuple[ParametersScheduled, ...] = ()
    """What governance changed, and when (schedules.py); the last one may be yet to begin."""
    work_coins_added: TokenAmount = NOTHING
    """Sum of all that was ever put into the pot (see rewards.pot)."""
    claimed: dict[Address, TokenAmount] = field(default_factory=dict)
    """Cumulative reward coins paid out per account."""
    channels: dict[Hash32, ChannelState] = field(default_factory=dict)
    prompts: dict[int, PromptState] = field(default_factory=dict)
    """Prompts on chain: PROMPTS_UNFINISHED_MAX that have not ended, and the newest PROMPTS_ENDED_MAX that have."""
    unfinished_prompts: set[int] = field(default_factory=set)
    """Those that are neither settled nor reclaimed."""
    ended_prompts: list[int] = field(default_factory=list)
    """Those that are, in the order in which they ended."""
    prompts_submitted: int = 0
    """Number of prompts ever submitted."""
    _newest_epoch: EpochNumber = FIRST_EPOCH
    """The newest epoch in which anything was committed or posted."""
    _unbound_nodes: dict[Address, tuple[MLNodeRegistration, ...]] = field(default_factory=dict)
    """ML nodes of registered accounts whose binding does not count (yet)."""
    events_applied: int = field(default=0, compare=False)
    """What was derived from this state holds as long as this number does."""
    _own_commits: set[EpochNumber] = field(default_factory=set, compare=False)
    """Epochs whose commitments no copy shares."""
    _own_bundles: set[EpochNumber] = field(default_factory=set, compare=False)
    """Epochs whose vote bundles no copy shares."""

    def copy(self) -> "ChainState":
        """Return an equal state: what is applied to one of them does not change the other.

        Takes some 10 ns for each entry. Commitments and bundles of an epoch are shared until one of both adds to them.
        """
        self._own_commits, self._own_bundles = set(), set()
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values = {
            name: value.copy() if isinstance(value, dict | set | list) else value for name, value in values.items()
        }
        copied = ChainState(**values)
        copied.prompts = {prompt_id: replace(prompt) for prompt_id, prompt in self.prompts.items()}
        return copied

    def entries(self) -> int:
        """Number of entries that a copy does not share, or not for long: of about a hundred bytes each."""
        values = [getattr(self, entry.name) for entry in fields(self)]
        values.append(self.poc_commits.get(self._newest_epoch, {}))
        return sum(len(value) for value in values if isinstance(value, dict | set | list))

    def group_weights(self, epoch: int) -> tuple[tuple[Address, int], ...]:
        """Weights of the group that is in charge in `epoch`: its own, else that of the latest epoch before it.

        A group carries on when no quorum formed its successor.
        """
        known = [number for number in self.groups if number <= epoch]
        return self.groups[max(known)] if known else ()

    def participant_of_peer(self, peer_id: PeerId) -> Address | None:
        """Return the account bound to `peer_id`, or None. Of several that the peer consented to, the newest counts."""
        bound = [p for p in self.participants.values() if p.peer_id == peer_id]
        return max(bound, key=lambda p: (p.registered_at, p.participant)).participant if bound else None

    def get_governance_models(self) -> tuple[ModelRecord, ...]:
        """Return all models that governance has registered and not deactivated, ascending by id: what comes next.

        What an epoch serves is frozen in its group (`EpochGroup.models`).
        """
        active = (model for model in self.models.values() if model.active)
        return tuple(sorted(active, key=lambda model: model.model_id))

    def get_governance_model(self, model_id: ModelId) -> ModelRecord | None:
        """Return an active model of the registry, or None."""
        model = self.models.get(model_id)
        return model if model is not None and model.active else None

    def is_valid_governance_model(self, model_id: ModelId) -> bool:
        """Whether an ML node may be registered for `model_id`."""
        return self.get_governance_model(model_id) is not None

    def get_nodes_for_model(self, model_id: ModelId) -> tuple[tuple[Address, MLNodeRegistration], ...]:
        """Return all registered ML nodes that list `model_id`, with their participants, ascending by account."""
        return tuple(
            (account, node)
            for account, participant in sorted(self.participants.items(), key=lambda item: item[0].lower())
            for node in participant.ml_nodes
            if model_id in node.models
        )

    def get_poc_batches_for_node(
        self, epoch: EpochNumber, participant: Address, node_id: NodeId
    ) -> tuple[PocCommit, ...]:
        """Return the batch that one ML node committed in `epoch`, if it did: the chain takes one of each."""
        commit = self.poc_commits.get(epoch, {}).get((participant, node_id))
        return () if commit is None else (commit,)

    def get_poc_batches_for_model(self, epoch: EpochNumber, model_id: ModelId) -> tuple[PocCommit, ...]:
        """Return the batches of nonces of one model that were committed in `epoch`, in the order of the chain."""
        return tuple(commit for commit in self.poc_commits.get(epoch, {}).values() if commit.model_id == model_id)

    def counts(self, participant: Address, epoch: int) -> bool:
        """Whether proofs of `participant` in `epoch` count: it is not barred, and its collateral suffices."""
        collateral = self.collateral.get(participant, CollateralState())
        return not self.is_barred(participant, epoch) and collateral.deposited >= self.min_collateral

    def is_barred(self, participant: Address, epoch: int) -> bool:
        """Whether a punishment keeps `participant` out in `epoch`."""
        return epoch < self.collateral.get(participant, CollateralState()).barred_until

    def apply(self, event: ChainEvent) -> None:
        """Take one confirmed event into account. Events arrive in chain order, each exactly once."""
        self.events_applied += 1
        body = event.body
        if isinstance(body, RegistryEvent):
            self._apply_registry(body, event.block_number)
        elif isinstance(body, CollateralEvent):
            self._apply_collateral(body)
        elif isinstance(body, EpochEvent):
            self._apply_epoch(body, event.block_number)
        elif isinstance(body, ChannelEvent):
            self._apply_channel(body)
        else:
            self._apply_prompt(body, event.block_number)

    def _apply_registry(self, body: RegistryEvent, block: BlockNumber) -> None:
        match body:
            case ModelRecorded(record):
                before = self.models.get(record.model_id)
                self.models[record.model_id] = record
                if before is not None and not makes_same_numbers(before, record):
                    self.numbers_changed[record.model_id] = block
                calibration = self.calibrations.get(record.model_id)
                if calibration is not None and calibration.model_version != record.version:
                    del self.calibrations[record.model_id]  # it was measured with other weights
                if before is not None and before.version != record.version:
                    self.void_calibrations.pop(record.model_id, None)
            case ModelCalibrated():
                self._calibrate(body)
            case ParticipantRegistered(participant, peer_id, consented):
                nodes = self._nodes_of(participant)
                self.participants.pop(participant, None)
                self._unbound_nodes.pop(participant, None)
                if consented:
                    self.participants[participant] = ParticipantRecord(participant, peer_id, nodes, block)
                else:
                    self._unbound_nodes[participant] = nodes
            case ParticipantLeft(participant):
                self._replace_nodes(participant, ())
                self.participants.pop(participant, None)
                self._unbound_nodes.pop(participant, None)
            case MLNodeSet(participant, node):
                kept = tuple(other for other in self._nodes_of(participant) if other.node_id != node.node_id)
                self._replace_nodes(participant, (*kept, node))
            case MLNodeRemoved(participant, node_id):
                kept = tuple(other for other in self._nodes_of(participant) if other.node_id != node_id)
                self._replace_nodes(participant, kept)

    def _calibrate(self, body: ModelCalibrated) -> None:
        """Keep a calibration that is one; the registry takes any bytes, and wrong ones count as none."""
        self.calibrations.pop(body.model_id, None)
        self.void_calibrations.pop(body.model_id, None)
        if not body.calibration:
            return  # it is taken back
        try:
            calibration = parse_calibration(body.calibration)
        except CalibrationError as error:
            self.void_calibrations[body.model_id] = str(error)
            return
        if (calibration.model_id, calibration.model_version) == (body.model_id, body.version):
            self.calibrations[body.model_id] = calibration
        else:
            found = f"version {calibration.model_version} of {calibration.model_id}"
            self.void_calibrations[body.model_id] = f"it is of {found}, not of version {body.version}"

    def _apply_collateral(self, body: CollateralEvent) -> None:
        match body:
            case CollateralDeposited(participant, deposited):
                self.collateral[participant] = replace(self._collateral(participant), deposited=deposited)
            case CollateralUnbonding(participant, deposited, unbonding, available_at):
                self.collateral[participant] = replace(
                    self._collateral(participant), deposited=deposited, unbonding=unbonding, available_at=available_at
                )
            case CollateralWithdrawn(participant, _):
                self.collateral[participant] = replace(self._collateral(participant), unbonding=NOTHING)
            case CollateralSlashed(participant, _, deposited, unbonding, barred_until):
                self.collateral[participant] = replace(
                    self._collateral(participant), deposited=deposited, unbonding=unbonding, barred_until=barred_until
                )
            case ParticipantPunished(epoch, participant, offence):
                self.punished.add((epoch, participant, offence))
            case MinCollateralSet(amount):
                self.min_collateral = amount

    def _apply_epoch(self, body: EpochEvent, block: BlockNumber) -> None:
        match body:
            case ParametersScheduled():
                self.parameter_changes = with_change(self.parameter_changes, body, block)
            case PocCommitted(commit):
                self._reach(commit.epoch)
                commits = _own(self.poc_commits, self._own_commits, commit.epoch)
                commits[commit.participant, commit.node_id] = commit
            case VotesCommitted(epoch, validator, bundle_cid):
                _own(self.vote_bundles, self._own_bundles, epoch)[validator] = bundle_cid
            case GroupSet(epoch, weights):
                self.groups[epoch] = weights
            case GroupStored(validator_set_hash, weights):
                self.stored_groups[validator_set_hash] = weights
            case EpochResultPosted(summary, _):
                self._reach(summary.epoch)
                self.results[summary.epoch] = summary
                self.groups[EpochNumber(summary.epoch + 1)] = self.stored_groups[summary.validator_set_hash]
            case EpochResultVoided(epoch, digest):
                self._reach(epoch)
                self.voided[epoch] = (*self.voided.get(epoch, ()), digest)
                del self.results[epoch]
                del self.groups[EpochNumber(epoch + 1)]
            case WorkCoinsAdded(_, amount):
                self.work_coins_added = TokenAmount(self.work_coins_added + amount)
            case RewardClaimed(account, cumulative):
                self.claimed[account] = cumulative

    def _reach(self, epoch: EpochNumber) -> None:
        """Forget what is too old for anybody, if `epoch` is a new one."""
        if epoch <= self._newest_epoch:
            return
        before, first = self._newest_epoch, epoch - EPOCHS_KEPT + 1
        self._newest_epoch = epoch
        tables: tuple[dict[EpochNumber, Any], ...] = (self.poc_commits, self.vote_bundles, self.voided)
        for table in tables:
            for old in [number for number in table if number < first]:
                del table[old]
        # What changed since the epoch before is of this one: if nobody committed for long, that may be much later.
        changed = {node: epoch if then > before else then for node, then in self.hardware_changed.items()}
        self.hardware_changed = {node: then for node, then in changed.items() if then >= first}
        self.punished = {done for done in self.punished if done[0] >= first}

    def _apply_channel(self, body: ChannelEvent) -> None:
        match body:
            case ChannelFunded(channel_id, payer, payee, deposited):
                channel = self._channel(channel_id, payer, payee)
                self.channels[channel_id] = replace(channel, deposited=deposited, unlock_time=None)
            case VoucherRedeemed(channel_id, cumulative):
                self.channels[channel_id] = replace(self.channels[channel_id], redeemed=cumulative)
            case WithdrawRequested(channel_id, payer, payee, unlock_time):
                channel = self._channel(channel_id, payer, payee)
                self.channels[channel_id] = replace(channel, unlock_time=unlock_time)
            case ChannelWithdrawn(channel_id, payer, payee, deposited):
                channel = self._channel(channel_id, payer, payee)
                self.channels[channel_id] = replace(channel, deposited=deposited, unlock_time=None)

    def _apply_prompt(self, body: PromptEvent, block: BlockNumber) -> None:
        if isinstance(body, PromptSubmitted):
            self.prompts[body.prompt_id] = PromptState(body, block)
            self.unfinished_prompts.add(body.prompt_id)
            self.prompts_submitted += 1
            if len(self.unfinished_prompts) > PROMPTS_UNFINISHED_MAX:
                self._drop_a_prompt(block)
            return
        prompt = self.prompts.get(body.prompt_id)
        if prompt is None:
            return  # it was dropped
        match body:
            case PromptAnswered():
                prompt.answered = body
            case PromptDisputed():
                prompt.disputed = body
            case PromptSettled() | PromptReclaimed():
                prompt.ended = body
                self.unfinished_prompts.discard(body.prompt_id)
                self.ended_prompts.append(body.prompt_id)
                if len(self.ended_prompts) > PROMPTS_ENDED_MAX:
                    del self.prompts[self.ended_prompts.pop(0)]

    def _drop_a_prompt(self, block: BlockNumber) -> None:
        """Forget one that has not ended: one too late to answer, else one to answer, and only then one to be paid."""

        def worth(prompt_id: int) -> tuple[int, int]:
            prompt = self.prompts[prompt_id]
            if prompt.answered is not None:
                return 2, prompt_id
            return int(prompt.submitted.deadline_block >= block), prompt_id

        dropped = min(self.unfinished_prompts, key=worth)
        self.unfinished_prompts.discard(dropped)
        del self.prompts[dropped]

    def _channel(self, channel_id: Hash32, payer: Address, payee: Address) -> ChannelState:
        return self.channels.get(channel_id, ChannelState(channel_id, payer, payee))

    def _collateral(self, participant: Address) -> CollateralState:
        return self.collateral.get(participant, CollateralState())

    def _nodes_of(self, participant: Address) -> tuple[MLNodeRegistration, ...]:
        if participant in self.participants:
            return self.participants[participant].ml_nodes
        return self._unbound_nodes.get(participant, ())

    def _replace_nodes(self, participant: Address, nodes: tuple[MLNodeRegistration, ...]) -> None:
        now = {node.node_id: hardware_class(node.hardware) for node in nodes}
        for node in self._nodes_of(participant):
            if now.get(node.node_id) != hardware_class(node.hardware):
                self.hardware_changed[participant, node.node_id] = EpochNumber(self._newest_epoch + 1)
        if participant in self.participants:
            self.participants[participant] = replace(self.participants[participant], ml_nodes=nodes)
        else:
            self._unbound_nodes[participant] = nodes


def _own(table: dict[EpochNumber, dict[Key, Value]], own: set[EpochNumber], epoch: EpochNumber) -> dict[Key, Value]:
    """Return what `table` has of `epoch`, to be written to: nothing of it is shared any more."""
    if epoch not in own or epoch not in table:
        table[epoch] = dict(table.get(epoch, {}))
        own.add(epoch)
    return table[epoch]
