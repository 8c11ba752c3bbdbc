"""The chain as a daemon knows it: a fold of confirmed events. Same events, same state, on every node.

Only confirmed events are applied, so nothing is ever rolled back here: reorganisations end in the watcher.
"""

from dataclasses import dataclass, field

from node.protocol.events import (
    ChainEvent,
    ChannelFunded,
    ChannelWithdrawn,
    EpochResultPosted,
    GroupSet,
    MLNodeRemoved,
    MLNodeSet,
    ModelRecorded,
    ParticipantRegistered,
    PocCommitted,
    PromptAnswered,
    PromptReclaimed,
    PromptSubmitted,
    RewardClaimed,
    VotesCommitted,
    VoucherRedeemed,
    WithdrawRequested,
)
from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, PeerId, TokenAmount
from node.protocol.records import EpochResultSummary, MLNodeRegistration, ModelRecord, ParticipantRecord, PocCommit

NOTHING = TokenAmount(0)


@dataclass(slots=True)
class ChannelState:
    """A payment channel as the chain holds it."""

    channel_id: Hash32
    payer: Address
    payee: Address
    deposited: TokenAmount = NOTHING
    redeemed: TokenAmount = NOTHING
    unlock_time: int | None = None
    """UNIX seconds from which the payer may withdraw; None while no withdrawal is announced."""


@dataclass(slots=True)
class PromptState:
    """An on-chain prompt and, once there is one, its outcome."""

    submitted: PromptSubmitted
    answered: PromptAnswered | None = None
    reclaimed: bool = False

    @property
    def is_open(self) -> bool:
        """Whether an answer would still be paid."""
        return self.answered is None and not self.reclaimed


@dataclass(slots=True)
class ChainState:
    """Everything the services read of the chain. Mutated by `apply` only."""

    models: dict[ModelId, ModelRecord] = field(default_factory=dict)
    participants: dict[Address, ParticipantRecord] = field(default_factory=dict)
    peer_signatures: dict[Address, bytes] = field(default_factory=dict)
    groups: dict[EpochNumber, tuple[tuple[Address, int], ...]] = field(default_factory=dict)
    """Weights by epoch, only for epochs that set a group of their own; see `group_weights`."""
    poc_commits: dict[EpochNumber, dict[tuple[Address, NodeId], PocCommit]] = field(default_factory=dict)
    vote_bundles: dict[EpochNumber, dict[Address, Cid]] = field(default_factory=dict)
    results: dict[EpochNumber, EpochResultSummary] = field(default_factory=dict)
    claimed: dict[Address, TokenAmount] = field(default_factory=dict)
    """Cumulative reward coins paid out per account."""
    channels: dict[Hash32, ChannelState] = field(default_factory=dict)
    prompts: dict[int, PromptState] = field(default_factory=dict)

    def group_weights(self, epoch: int) -> tuple[tuple[Address, int], ...]:
        """Weights of the group that is in charge in `epoch`: its own, else that of the latest epoch before it.

        A group carries on when no quorum formed its successor.
        """
        known = [number for number in self.groups if number <= epoch]
        return self.groups[max(known)] if known else ()

    def participant_of_peer(self, peer_id: PeerId) -> Address | None:
        """Return the account bound to `peer_id`, or None."""
        return next((p.participant for p in self.participants.values() if p.peer_id == peer_id), None)

    def apply(self, event: ChainEvent) -> None:  # noqa: PLR0912 - one case per event kind, nothing nested
        """Take one confirmed event into account. Events arrive in chain order, each exactly once."""
        match event.body:
            case ModelRecorded(record):
                self.models[record.model_id] = record
            case ParticipantRegistered(participant, peer_id, peer_signature):
                nodes = self.participants[participant].ml_nodes if participant in self.participants else ()
                self.participants[participant] = ParticipantRecord(participant, peer_id, nodes, event.block_number)
                self.peer_signatures[participant] = peer_signature
            case MLNodeSet(participant, node):
                known = self.participants[participant]
                kept = tuple(other for other in known.ml_nodes if other.node_id != node.node_id)
                self._replace_nodes(known, (*kept, node))
            case MLNodeRemoved(participant, node_id):
                known = self.participants[participant]
                self._replace_nodes(known, tuple(other for other in known.ml_nodes if other.node_id != node_id))
            case PocCommitted(commit):
                self.poc_commits.setdefault(commit.epoch, {})[commit.participant, commit.node_id] = commit
            case VotesCommitted(epoch, validator, bundle_cid):
                self.vote_bundles.setdefault(epoch, {})[validator] = bundle_cid
            case GroupSet(epoch, weights):
                self.groups[epoch] = weights
            case EpochResultPosted(summary, _):
                self.results[summary.epoch] = summary
            case RewardClaimed(account, _, cumulative):
                self.claimed[account] = cumulative
            case ChannelFunded(channel_id, payer, payee, deposited):
                channel = self._channel(channel_id, payer, payee)
                channel.deposited = deposited
                channel.unlock_time = None
            case VoucherRedeemed(channel_id, payer, payee, _, cumulative):
                self._channel(channel_id, payer, payee).redeemed = cumulative
            case WithdrawRequested(channel_id, payer, payee, unlock_time):
                self._channel(channel_id, payer, payee).unlock_time = unlock_time
            case ChannelWithdrawn(channel_id, payer, payee, deposited):
                channel = self._channel(channel_id, payer, payee)
                channel.deposited = deposited
                channel.unlock_time = None
            case PromptSubmitted():
                self.prompts[event.body.prompt_id] = PromptState(event.body)
            case PromptAnswered(prompt_id):
                self.prompts[prompt_id].answered = event.body
            case PromptReclaimed(prompt_id):
                self.prompts[prompt_id].reclaimed = True

    def _channel(self, channel_id: Hash32, payer: Address, payee: Address) -> ChannelState:
        return self.channels.setdefault(channel_id, ChannelState(channel_id, payer, payee))

    def _replace_nodes(self, known: ParticipantRecord, nodes: tuple[MLNodeRegistration, ...]) -> None:
        self.participants[known.participant] = ParticipantRecord(
            known.participant,
            known.peer_id,
            nodes,
            known.registered_at,
        )
