"""What happened on chain, as records; the daemon's view of the chain is a fold over them (chain_state.py)."""

from dataclasses import dataclass

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
from node.protocol.records import EpochResultSummary, MLNodeRegistration, ModelRecord, PocCommit


@dataclass(frozen=True, slots=True)
class ModelRecorded:
    """A model was registered, updated or deactivated; the record is its state afterwards."""

    record: ModelRecord


@dataclass(frozen=True, slots=True)
class ParticipantRegistered:
    """An account was bound to a peer. `peer_signature`, the peer key's consent, is unchecked by the EVM."""

    participant: Address
    peer_id: PeerId
    peer_signature: bytes


@dataclass(frozen=True, slots=True)
class MLNodeSet:
    """A participant added or replaced an ML node."""

    participant: Address
    node: MLNodeRegistration


@dataclass(frozen=True, slots=True)
class MLNodeRemoved:
    """A participant removed an ML node."""

    participant: Address
    node_id: NodeId


@dataclass(frozen=True, slots=True)
class PocCommitted:
    """A PoC batch was committed within its window."""

    commit: PocCommit


@dataclass(frozen=True, slots=True)
class VotesCommitted:
    """A validator committed its vote bundle."""

    epoch: EpochNumber
    validator: Address
    bundle_cid: Cid


@dataclass(frozen=True, slots=True)
class GroupSet:
    """The members and weights of an epoch's group; epoch 0 has the genesis group."""

    epoch: EpochNumber
    weights: tuple[tuple[Address, int], ...]
    """(account, weight), ascending by account."""


@dataclass(frozen=True, slots=True)
class EpochResultPosted:
    """A quorum's result was accepted."""

    summary: EpochResultSummary
    poster: Address


@dataclass(frozen=True, slots=True)
class RewardClaimed:
    """Reward coins were paid out."""

    account: Address
    amount: TokenAmount
    cumulative: TokenAmount


@dataclass(frozen=True, slots=True)
class ChannelFunded:
    """A payer put tokens into a channel; `deposited` is the total so far, withdrawals subtracted."""

    channel_id: Hash32
    payer: Address
    payee: Address
    deposited: TokenAmount


@dataclass(frozen=True, slots=True)
class VoucherRedeemed:
    """A voucher was redeemed for `amount`; the channel has paid `cumulative` in all."""

    channel_id: Hash32
    payer: Address
    payee: Address
    amount: TokenAmount
    cumulative: TokenAmount


@dataclass(frozen=True, slots=True)
class WithdrawRequested:
    """A payer announced that it will empty a channel: the payee must redeem before `unlock_time` (UNIX seconds)."""

    channel_id: Hash32
    payer: Address
    payee: Address
    unlock_time: int


@dataclass(frozen=True, slots=True)
class ChannelWithdrawn:
    """A payer emptied a channel; `deposited` is what remains as total (equal to what was redeemed)."""

    channel_id: Hash32
    payer: Address
    payee: Address
    deposited: TokenAmount


@dataclass(frozen=True, slots=True)
class PromptSubmitted:
    """A prompt was put on chain, its price escrowed, an executor drawn."""

    prompt_id: int
    user: Address
    model_id: ModelId
    model_cid: Cid
    prompt_cid: Cid
    max_tokens: int
    max_price: TokenAmount
    executor: Address
    deadline_block: BlockNumber


@dataclass(frozen=True, slots=True)
class PromptAnswered:
    """An on-chain prompt was answered and paid."""

    prompt_id: int
    executor: Address
    result_cid: Cid
    prompt_tokens: int
    output_tokens: int
    price: TokenAmount


@dataclass(frozen=True, slots=True)
class PromptReclaimed:
    """The escrow of an unanswered prompt went back to its user."""

    prompt_id: int
    user: Address
    amount: TokenAmount


EventBody = (
    ModelRecorded
    | ParticipantRegistered
    | MLNodeSet
    | MLNodeRemoved
    | PocCommitted
    | VotesCommitted
    | GroupSet
    | EpochResultPosted
    | RewardClaimed
    | ChannelFunded
    | VoucherRedeemed
    | WithdrawRequested
    | ChannelWithdrawn
    | PromptSubmitted
    | PromptAnswered
    | PromptReclaimed
)


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event and where it stands; (block_hash, log_index) names it once and for all."""

    block_number: BlockNumber
    block_hash: Hash32
    log_index: int
    body: EventBody
