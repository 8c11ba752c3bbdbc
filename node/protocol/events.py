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
from node.protocol.verdicts import Offence


@dataclass(frozen=True, slots=True)
class ModelRecorded:
    """A model was registered, updated or deactivated; the record is its state afterwards."""

    record: ModelRecord


@dataclass(frozen=True, slots=True)
class ModelCalibrated:
    """The owner said how far honest nodes may differ; the newest of a version counts."""

    model_id: ModelId
    version: int
    calibration: bytes
    """A Calibration (calibration.py) if the owner made no mistake: the chain takes any bytes. Empty: taken back."""


@dataclass(frozen=True, slots=True)
class ParticipantRegistered:
    """An account asked to be bound to a peer."""

    participant: Address
    peer_id: PeerId
    consented: bool
    """Whether the peer key signed the binding: the EVM cannot check that, so whoever reads the chain does."""


@dataclass(frozen=True, slots=True)
class ParticipantLeft:
    """A participant gave up its registration; its ML nodes were removed before."""

    participant: Address


@dataclass(frozen=True, slots=True)
class CollateralDeposited:
    """Collateral was posted; `deposited` is what stands now."""

    participant: Address
    deposited: TokenAmount


@dataclass(frozen=True, slots=True)
class CollateralUnbonding:
    """Collateral was asked back; all that unbonds may be withdrawn from `available_at` (UNIX seconds) on."""

    participant: Address
    deposited: TokenAmount
    unbonding: TokenAmount
    available_at: int


@dataclass(frozen=True, slots=True)
class CollateralWithdrawn:
    """What had unbonded was paid out."""

    participant: Address
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class CollateralSlashed:
    """Collateral was burned; proofs of the participant count again from epoch `barred_until` on."""

    participant: Address
    amount: TokenAmount
    deposited: TokenAmount
    unbonding: TokenAmount
    barred_until: EpochNumber


@dataclass(frozen=True, slots=True)
class ParticipantPunished:
    """A verdict was executed: each participant is punished at most once for each kind of offence in an epoch."""

    epoch: EpochNumber
    participant: Address
    offence: Offence


@dataclass(frozen=True, slots=True)
class MinCollateralSet:
    """Governance set the collateral that proofs need to count."""

    amount: TokenAmount


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
    """The members and weights of the genesis group, in charge from `epoch` on."""

    epoch: EpochNumber
    weights: tuple[tuple[Address, int], ...]
    """(account, weight), ascending by account."""


@dataclass(frozen=True, slots=True)
class GroupStored:
    """A group that results may name by its hash."""

    validator_set_hash: Hash32
    weights: tuple[tuple[Address, int], ...]
    """(account, weight), ascending by account."""


@dataclass(frozen=True, slots=True)
class EpochResultVoided:
    """The result of `epoch` was objected to before its end: its group carries on, nothing is paid for it."""

    epoch: EpochNumber
    result_digest: Hash32


@dataclass(frozen=True, slots=True)
class ParametersScheduled:
    """Governance changed what holds from an epoch on (EpochParameters has the units); told an epoch ahead at least."""

    from_epoch: EpochNumber
    from_block: BlockNumber
    """First block of `from_epoch`."""
    epoch_blocks: int
    generate_offset: int
    exchange_offset: int
    validate_offset: int
    vote_exchange_offset: int
    form_offset: int
    load_offset: int
    poc_sample_size: int
    poc_reject_mismatches: int
    unit_price: TokenAmount


@dataclass(frozen=True, slots=True)
class WorkCoinsAdded:
    """Tokens were put into the pot that the next results share out."""

    sender: Address
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class EpochResultPosted:
    """A quorum's result was accepted; it takes effect at its epoch's end. Its group was stored before."""

    summary: EpochResultSummary
    poster: Address


@dataclass(frozen=True, slots=True)
class RewardClaimed:
    """An account has claimed `cumulative` of rewards in all."""

    account: Address
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
    """A voucher was redeemed: the channel, funded before, has paid `cumulative` in all."""

    channel_id: Hash32
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
    """An on-chain prompt was answered; it is paid once nobody can dispute it."""

    prompt_id: int
    executor: Address
    result_cid: Cid
    prompt_tokens: int
    output_tokens: int
    price: TokenAmount
    dispute_until: BlockNumber
    """Last block in which the user may dispute the answer."""


@dataclass(frozen=True, slots=True)
class PromptDisputed:
    """A user disputed an answer."""

    prompt_id: int
    user: Address
    reason_cid: Cid
    verdict_until: BlockNumber
    """Last block in which the group may judge."""


@dataclass(frozen=True, slots=True)
class PromptSettled:
    """An answer was paid, or its dispute decided; `refunded` includes the user's bond where there was one."""

    prompt_id: int
    executor: Address
    paid: TokenAmount
    refunded: TokenAmount


@dataclass(frozen=True, slots=True)
class PromptReclaimed:
    """The escrow of an unanswered prompt went back to its user."""

    prompt_id: int
    user: Address
    amount: TokenAmount


RegistryEvent = ModelRecorded | ModelCalibrated | ParticipantRegistered | ParticipantLeft | MLNodeSet | MLNodeRemoved
CollateralEvent = (
    CollateralDeposited
    | CollateralUnbonding
    | CollateralWithdrawn
    | CollateralSlashed
    | ParticipantPunished
    | MinCollateralSet
)
EpochEvent = (
    PocCommitted
    | VotesCommitted
    | GroupSet
    | GroupStored
    | EpochResultPosted
    | EpochResultVoided
    | ParametersScheduled
    | WorkCoinsAdded
    | RewardClaimed
)
ChannelEvent = ChannelFunded | VoucherRedeemed | WithdrawRequested | ChannelWithdrawn
PromptEvent = PromptSubmitted | PromptAnswered | PromptDisputed | PromptSettled | PromptReclaimed
EventBody = RegistryEvent | CollateralEvent | EpochEvent | ChannelEvent | PromptEvent


@dataclass(frozen=True, slots=True)
class ChainEvent:
    """An event and where it stands; (block_hash, log_index) names it once and for all."""

    block_number: BlockNumber
    block_hash: Hash32
    log_index: int
    body: EventBody
