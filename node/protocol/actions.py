"""What a daemon may ask of the chain: one record per transaction kind, so that an intent can be stored and compared.

Actions are data. The chain adapter encodes them as calls; the simulator applies them to its own state machine.
"""

from dataclasses import dataclass

from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, PeerId, TokenAmount
from node.protocol.records import EpochResultSummary, MLNodeRegistration, OffenceVerdict, PocCommit, Voucher

ZERO_ADDRESS = Address("0x0000000000000000000000000000000000000000")
OVERTAKEN = ("AlreadyPosted", "AlreadyPunished", "ResultMismatch")
"""Errors of the contracts that begin the reason of what somebody else of the group has done a moment before.

The last is of objections: the result they are about is voided already, and there is none or another in its place.
"""


@dataclass(frozen=True, slots=True)
class RegisterParticipant:
    """Bind the sending account to a libp2p peer; `peer_signature` is the peer key's over the binding text."""

    peer_id: PeerId
    peer_signature: bytes


@dataclass(frozen=True, slots=True)
class SubmitHardwareDiff:
    """Add or replace ML nodes and remove others; refused on chain if any model is not registered and active."""

    added: tuple[MLNodeRegistration, ...]
    removed: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class UnregisterParticipant:
    """Give up the registration of the sending account with all its ML nodes; its collateral stays its own."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class DepositCollateral:
    """Post collateral (allowance included)."""

    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class UnbondCollateral:
    """Ask for collateral back: it can be withdrawn, and slashed, until its waiting time is over."""

    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class WithdrawCollateral:
    """Take what has unbonded."""


@dataclass(frozen=True, slots=True)
class PunishParticipant:
    """Execute a verdict with the signatures of a quorum of its epoch's group."""

    verdict: OffenceVerdict
    signatures: tuple[tuple[Address, bytes], ...]
    """(signer, 65-byte signature), ascending by signer."""


@dataclass(frozen=True, slots=True)
class CommitPoc:
    """Commit one node's batch of nonces."""

    commit: PocCommit


@dataclass(frozen=True, slots=True)
class CommitVotes:
    """Commit the bundle of all votes of the sending validator in one epoch."""

    epoch: EpochNumber
    bundle_cid: Cid


@dataclass(frozen=True, slots=True)
class PostEpochResult:
    """Post a result with the signatures of a quorum."""

    summary: EpochResultSummary
    validator_set: bytes
    """Packed entries of the next group: 20-byte account, 8-byte big-endian weight, ascending by account."""
    signatures: tuple[tuple[Address, bytes], ...]
    """(signer, 65-byte signature), ascending by signer."""


@dataclass(frozen=True, slots=True)
class VoidEpochResult:
    """Void a posted result before its epoch ends, with the objections of a third of the weight."""

    epoch: EpochNumber
    result_digest: Hash32
    signatures: tuple[tuple[Address, bytes], ...]
    """(objector, 65-byte signature), ascending by objector."""


@dataclass(frozen=True, slots=True)
class AddWorkCoins:
    """Put tokens into the pot that the next results share out by proved work (allowance included)."""

    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class ClaimReward:
    """Claim all reward coins of `account` up to `cumulative`."""

    account: Address
    cumulative: TokenAmount
    proof: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class FundChannel:
    """Deposit `amount` into the payment channel from the sender to `payee` (allowance included)."""

    payee: Address
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class RequestWithdrawal:
    """Announce that the sender takes back what is left in its channel to `payee`."""

    payee: Address


@dataclass(frozen=True, slots=True)
class WithdrawFromChannel:
    """Take back what is left in the sender's channel to `payee`, once it is unlocked."""

    payee: Address


@dataclass(frozen=True, slots=True)
class RedeemVouchers:
    """Redeem several vouchers of one payee in one transaction, all or nothing: cheaper than one by one."""

    vouchers: tuple["RedeemVoucher", ...]

    def __post_init__(self) -> None:
        if len({voucher.payee for voucher in self.vouchers}) != 1:
            raise ValueError("expected at least one voucher, and one payee")


@dataclass(frozen=True, slots=True)
class RedeemVoucher:
    """Redeem the payer's newest voucher; pays the payee, who must be the sender, what is new."""

    payer: Address
    payee: Address
    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class SubmitPrompt:
    """Put a prompt on chain and escrow its maximum price (allowance included)."""

    prompt_cid: Cid
    model_id: ModelId
    max_tokens: int
    max_price: TokenAmount
    """The most the contract may escrow: a price raised in between is refused."""


@dataclass(frozen=True, slots=True)
class AnswerPrompt:
    """Answer an on-chain prompt."""

    prompt_id: int
    result_cid: Cid
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class DisputePrompt:
    """Dispute an answer, binding its price once more (allowance included)."""

    prompt_id: int
    reason_cid: Cid


@dataclass(frozen=True, slots=True)
class SettlePrompt:
    """Have an answer paid, and the rest refunded, once it can no longer be disputed."""

    prompt_id: int


@dataclass(frozen=True, slots=True)
class ReclaimPrompt:
    """Take back the escrow of a prompt nobody answered in time."""

    prompt_id: int


@dataclass(frozen=True, slots=True)
class RegisterModel:
    """Owner: register a model with its full specification."""

    model_id: ModelId
    cid: Cid
    name: str
    description: str
    hf_repo: str
    hf_commit: str
    model_args: tuple[str, ...]
    vram_mib: int
    throughput_per_nonce: int
    units_of_compute_per_token: int
    context_length: int
    poc_distance_max: int
    quantization: str = ""
    kv_cache_quantization: str = ""
    gated: bool = False
    encrypted: bool = False
    proposer: Address = ZERO_ADDRESS
    """Zero stands for the sender."""


@dataclass(frozen=True, slots=True)
class SetModelSpec:
    """Owner: replace a model's specification; its CID and version stay."""

    model_id: ModelId
    hf_repo: str
    hf_commit: str
    model_args: tuple[str, ...]
    vram_mib: int
    throughput_per_nonce: int
    units_of_compute_per_token: int
    context_length: int
    poc_distance_max: int
    quantization: str = ""
    kv_cache_quantization: str = ""
    gated: bool = False
    encrypted: bool = False
    proposer: Address = ZERO_ADDRESS
    """Zero keeps the present one."""


@dataclass(frozen=True, slots=True)
class UpdateModel:
    """Owner: give a model a new version with another CID."""

    model_id: ModelId
    cid: Cid


@dataclass(frozen=True, slots=True)
class CalibrateModel:
    """Owner: say how far honest nodes may differ in the current version of a model (calibration.py)."""

    model_id: ModelId
    version: int
    calibration: bytes
    """Empty takes the present one back."""


@dataclass(frozen=True, slots=True)
class DeactivateModel:
    """Owner: take a model out of the next epoch group."""

    model_id: ModelId


ChainAction = (
    RegisterParticipant
    | SubmitHardwareDiff
    | UnregisterParticipant
    | DepositCollateral
    | UnbondCollateral
    | WithdrawCollateral
    | PunishParticipant
    | CommitPoc
    | CommitVotes
    | PostEpochResult
    | VoidEpochResult
    | AddWorkCoins
    | ClaimReward
    | FundChannel
    | RequestWithdrawal
    | WithdrawFromChannel
    | RedeemVoucher
    | RedeemVouchers
    | SubmitPrompt
    | AnswerPrompt
    | DisputePrompt
    | SettlePrompt
    | ReclaimPrompt
    | RegisterModel
    | SetModelSpec
    | UpdateModel
    | CalibrateModel
    | DeactivateModel
)


def is_overtaken(reason: str) -> bool:
    """Whether an action was refused because another member did the same first: nothing is lost, and nothing to do."""
    return reason.startswith(OVERTAKEN)
