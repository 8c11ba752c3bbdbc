"""The records of the protocol: what is on chain, in an epoch's frozen group, in a proof, in a receipt.

All are frozen; integers only, so that canonical bytes and hashes are the same on every node. Units stand in the field
names or docstrings. A record checks its own bounds and raises ValueError: whatever parses is within limits.
"""

import itertools
from dataclasses import dataclass
from enum import Enum

from node.protocol.bands import Calibration
from node.protocol.findings import (
    SCORE_FULL,
    AuditOutcome,
    AuditVote,
    CommittedBook,
    EarlierBook,
    MissingBook,
    ModelThroughput,
    NodeOutcome,
    Observations,
    ParticipantScore,
    PenaltyDecision,
    ReceiptBook,
    SampleHistory,
    SettledShare,
    ThinWeight,
    ValidatorOutcome,
    VoteCheck,
)
from node.protocol.identifiers import (
    ZERO_HASH,
    Address,
    BlockNumber,
    Cid,
    EpochNumber,
    Hash32,
    ModelId,
    NodeId,
    PeerId,
    RequestId,
    TokenAmount,
)
from node.protocol.verdicts import Offence, Verdict

UINT64_MAX = 2**64 - 1
UINT256_MAX = 2**256 - 1
HASH_BYTES = 32
NO_AMOUNT = TokenAmount(0)
NOTHING_OBSERVED = Observations()


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version of a model as the ModelRegistry holds it; frozen into the epoch group as one of its `models`."""

    model_id: ModelId
    cid: Cid
    """Root CID of the UnixFS directory with config, tokenizer and weights."""
    name: str
    description: str
    active: bool
    version: int
    """1 for the first registration, plus one for each `updateModel`."""
    hf_repo: str
    hf_commit: str
    model_args: tuple[str, ...]
    """vLLM command-line arguments that every engine of this model uses, e.g. `--max-model-len`, `512`."""
    vram_mib: int
    throughput_per_nonce: int
    """Tokens per epoch that one unit of PoC weight stands for."""
    units_of_compute_per_token: int
    context_length: int
    """Tokens, prompt and output together."""
    poc_distance_max: int
    """Largest squared distance between two quantised PoC vectors that counts as equal (see nonces.py)."""
    quantization: str
    """Weight quantization as engines name it, e.g. `fp8`; empty for none."""
    kv_cache_quantization: str
    """Type of the key-value cache, e.g. `fp8_e5m2`; empty for the weights' own."""
    gated: bool
    """Access is sold or token-gated by the AccessVault."""
    encrypted: bool
    """The files behind the CID are encrypted; wrapped keys are in the AccessVault."""
    proposer: Address
    """Who proposed the model, keeps its gate and is paid for access to it."""


@dataclass(frozen=True, slots=True)
class MLNodeRegistration:
    """An ML node as its participant registered it on chain."""

    node_id: NodeId
    models: tuple[ModelId, ...]
    hardware: str


@dataclass(frozen=True, slots=True)
class ParticipantRecord:
    """A registered participant: the account, the libp2p peer bound to it, and its ML nodes in the order added."""

    participant: Address
    peer_id: PeerId
    ml_nodes: tuple[MLNodeRegistration, ...]
    registered_at: BlockNumber


@dataclass(frozen=True, slots=True)
class EpochParameters:
    """What holds in an epoch; every stage and price follows from it and the block number (schedules.py: it may change).

    Offsets count blocks from the first block of the epoch and increase strictly:
    0 < generate < exchange < validate < vote_exchange < form < load < epoch_blocks.
    """

    genesis_block: BlockNumber
    """First block of epoch 0; after a change, where it would be had all epochs been like these (may be negative)."""
    epoch_blocks: int
    generate_offset: int
    exchange_offset: int
    validate_offset: int
    vote_exchange_offset: int
    form_offset: int
    load_offset: int
    poc_sample_size: int
    """Nonces drawn from each batch for validation."""
    poc_reject_mismatches: int
    """A sample with this many mismatches or more is voted invalid."""
    unit_price: TokenAmount
    """Price of one unit of compute."""
    initial_subsidy: TokenAmount
    """Reward coins of one epoch before the first halving."""
    halving_epochs: int

    def __post_init__(self) -> None:
        offsets = (
            0,
            self.generate_offset,
            self.exchange_offset,
            self.validate_offset,
            self.vote_exchange_offset,
            self.form_offset,
            self.load_offset,
            self.epoch_blocks,
        )
        if any(before >= after for before, after in itertools.pairwise(offsets)):
            raise ValueError(f"stage offsets must increase strictly, got {offsets}")
        if not 0 < self.poc_reject_mismatches <= self.poc_sample_size:
            raise ValueError("poc_reject_mismatches must be in 1..poc_sample_size")
        if self.halving_epochs <= 0:
            raise ValueError("halving_epochs must be positive")


class Timeslot(Enum):
    """Index into an ML node's `timeslot_allocation` (requirements B10)."""

    PRE_POC_SLOT = 0
    POC_SLOT = 1


@dataclass(frozen=True, slots=True)
class MLNodeSnapshot:
    """One ML node and the one model it serves, frozen for an epoch."""

    node_id: NodeId
    model_id: ModelId
    poc_weight: int
    throughput: int
    """poc_weight × the model's frozen throughput_per_nonce, in tokens per epoch."""
    timeslot_allocation: tuple[bool, ...]
    """(PRE_POC_SLOT, POC_SLOT): true where the node serves instead of mining."""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A participant's place in an epoch group."""

    participant: Address
    peer_id: PeerId
    weight: int
    ml_nodes: tuple[MLNodeSnapshot, ...]
    score: int = SCORE_FULL
    """Its score in the epoch that formed the group, in thousandths: steers who is asked (routing.py)."""


@dataclass(frozen=True, slots=True)
class EpochGroup:
    """Everything frozen for one epoch: who serves what with which parameters."""

    epoch: EpochNumber
    members: tuple[GroupMember, ...]
    """Ascending by account (as lower-case hex)."""
    models: tuple[ModelRecord, ...]
    """Snapshots, ascending by model id."""
    calibrations: tuple[Calibration, ...] = ()
    """How far honest nodes of these models may differ, ascending by model id; of those that have one."""
    throughputs: tuple[ModelThroughput, ...] = ()
    """Of each model that the group serves, ascending by model id; empty in a group made of the registry."""

    def get_epoch_model(self, model_id: ModelId) -> ModelRecord | None:
        """Return the snapshot of a model that this epoch serves, or None."""
        return next((model for model in self.models if model.model_id == model_id), None)

    def get_epoch_calibration(self, model_id: ModelId) -> Calibration | None:
        """Return what this epoch froze of a model's calibration, or None if it had none."""
        return next((known for known in self.calibrations if known.model_id == model_id), None)

    @property
    def total_weight(self) -> int:
        """Sum of the members' weights."""
        return sum(member.weight for member in self.members)


@dataclass(frozen=True, slots=True)
class PocCommit:
    """What the chain holds of a PoC batch: one per participant, node and epoch."""

    epoch: EpochNumber
    participant: Address
    node_id: NodeId
    model_id: ModelId
    count: int
    """Nonces 0 to count-1 were computed."""
    root: Hash32
    """Merkle root over the quantised vectors, in nonce order (nonces.py)."""
    vectors_cid: Cid
    """The vectors as one file: count × vector bytes, in nonce order."""


@dataclass(frozen=True, slots=True)
class PocVote:
    """One validator's judgement of one node's batch. A batch it says nothing of counts as an abstention."""

    participant: Address
    node_id: NodeId
    verdict: Verdict
    sampled: int
    """Nonces it recomputed: all that were drawn, or none."""
    mismatches: tuple[int, ...]
    """Of these, the ones that differ, ascending. Their distances are in the bundle's evidence."""
    reason: str
    """Why not valid: `` for valid, else a short code such as `root-mismatch`, `mismatches`, `no-model`, `no-data`."""
    unrelated: int = 0
    """How many of the mismatches are farther off than any honest machine's (`UNRELATED_DISTANCE`)."""


@dataclass(frozen=True, slots=True)
class VoteBundle:
    """All votes of one validator in one epoch; its CID is committed on chain, its bytes are content."""

    epoch: EpochNumber
    validator: Address
    votes: tuple[PocVote, ...]
    """Ascending by (participant, node_id)."""
    audits: tuple[AuditVote, ...] = ()
    """Of answers drawn from the receipt books of the newest result; ascending by (executor, draw, receipt digest)."""
    receipts: ReceiptBook | None = None
    """The receipts this validator gave as an executor since its last book; none if it gave none."""
    observations: Observations = NOTHING_OBSERVED
    """What it saw of others, and what it served."""
    omissions: "tuple[Omission, ...]" = ()
    """Receipts of its own answers that executors left out of their books; ascending by receipt digest."""
    challenges: "tuple[SignedReceipt, ...]" = ()
    """Of answers that it got and found not to be the model's: everybody judges them. Ascending by receipt digest."""
    evidence_cid: Cid | None = None
    """A VoteEvidence as canonical bytes; none where nothing was recomputed."""
    checks: tuple[VoteCheck, ...] = ()
    """Of validators of the epoch before; ascending by (validator, model)."""


@dataclass(frozen=True, slots=True)
class RewardShare:
    """What an account has earned in reward coins over all epochs up to a result (cumulative)."""

    account: Address
    cumulative: TokenAmount


@dataclass(frozen=True, slots=True)
class EpochResult:
    """The outcome of one epoch: the group of the next one and the cumulative rewards. Every node computes the same."""

    epoch: EpochNumber
    group: EpochGroup
    """The group of epoch + 1."""
    rewards: tuple[RewardShare, ...]
    """Ascending by account; cumulative, so that a claim never needs an older result."""
    reward_total: TokenAmount
    """Reward coins of this epoch alone; never above the epoch's subsidy."""
    nodes: tuple[NodeOutcome, ...] = ()
    """What became of every batch and of every node that kept serving; ascending by (participant, node id)."""
    histories: tuple[SampleHistory, ...] = ()
    """Samples of the last epochs that were not spent on a rejection; ascending by (participant, model id)."""
    validators: tuple[ValidatorOutcome, ...] = ()
    """What the group made of the votes of the epoch before; ascending by validator."""
    audits: tuple[AuditOutcome, ...] = ()
    """Of every executor whose answers with a model were audited, or that has evidence against it; ascending by
    (executor, model id)."""
    scores: tuple[ParticipantScore, ...] = ()
    """Of every member of the epoch's group; ascending by participant."""
    penalties: tuple[PenaltyDecision, ...] = ()
    """Whom the quorum should punish for what; ascending by (participant, offence)."""
    books: tuple[CommittedBook, ...] = ()
    """Receipts that executors committed to in this epoch, to be audited in the next; ascending by executor. Of members
    who committed votes and no receipts, an empty one.
    """
    books_before: tuple[EarlierBook, ...] = ()
    """The newest of each executor in the results before, as far back as due_books.py says; ascending by executor."""
    books_missing: tuple[MissingBook, ...] = ()
    """Of members who had weight and whose votes were not counted; ascending by executor."""
    settled: tuple[SettledShare, ...] = ()
    """What was paid for this epoch, to whom and why; ascending by participant."""
    available: TokenAmount = NO_AMOUNT
    """Subsidy and pot together: the most the epoch could pay."""
    judged_models: tuple[ModelId, ...] = ()
    """What could be mined in this epoch, ascending: who has weight of each is paid the coverage bonus."""
    thin_weights: tuple[ThinWeight, ...] = ()
    """What participants may keep of models that few can judge; ascending by participant."""


@dataclass(frozen=True, slots=True)
class EpochResultSummary:
    """What the chain holds of an EpochResult and what members sign by EIP-712 (eip712.py)."""

    epoch: EpochNumber
    content_cid: Cid
    validator_set_hash: Hash32
    total_weight: int
    rewards_root: Hash32
    reward_total: TokenAmount


@dataclass(frozen=True, slots=True)
class OffenceVerdict:
    """What a quorum signs (EIP-712) to have a participant punished: the evidence is content anyone can recompute."""

    epoch: EpochNumber
    participant: Address
    offence: Offence
    evidence_cid: Cid


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """What an account signs (EIP-712) to use a gated model; a node serves each nonce once, and none after expiry."""

    model_id: ModelId
    account: Address
    nonce: int
    expiry: int
    """UNIX seconds."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """A cumulative promise to pay, signed by the payer (EIP-712). The newest replaces all before it."""

    channel_id: Hash32
    cumulative: TokenAmount
    receipts_root: Hash32
    """Running hash over the receipts this voucher pays for, in order (pricing.py)."""

    def __post_init__(self) -> None:
        # A shorter hash would be padded where it is signed: two vouchers, one signature.
        if len(self.channel_id) != HASH_BYTES or len(self.receipts_root) != HASH_BYTES:
            raise ValueError(f"a voucher's channel and root have {HASH_BYTES} bytes")
        if not 0 <= self.cumulative <= UINT256_MAX:
            raise ValueError("a voucher's amount has at most 256 bits")


@dataclass(frozen=True, slots=True)
class Asking:
    """What a payer signed of a request to one executor, beside the names that the receipt has too (asking.py)."""

    epoch: EpochNumber
    """In which it asked, as far as it knew."""
    max_tokens: int
    """Output tokens that it asked for, of vectors the most that its inputs can have; an answer has no more."""
    body: Hash32
    """Keccak-256 of the canonical request."""
    is_private: bool = False
    """Whether it asked for privacy: then its executor has nothing to show but the receipt."""

    def __post_init__(self) -> None:
        if self.epoch < 0 or self.max_tokens <= 0 or len(self.body) != HASH_BYTES:
            raise ValueError("an asking has an epoch, at least one token and a hash")


@dataclass(frozen=True, slots=True)
class Receipt:
    """An executor's statement of one answer: what it served, for whom, at what price."""

    request_id: RequestId
    epoch: EpochNumber
    model_id: ModelId
    model_cid: Cid
    payer: Address
    executor: Address
    node_id: NodeId
    """The ML node that answered, or finished the answer; empty if the chain did not know it (node_names.py)."""
    prompt_tokens: int
    output_tokens: int
    prompt_commitment: Hash32
    """SHA-256 of the canonical array of prompt token ids; of vectors, of all inputs' (sketches.py)."""
    output_commitment: Hash32
    """SHA-256 of the canonical array of output token ids; of vectors, the commitment to their sketches."""
    draw_commitment: Hash32
    """Commitment to how the tokens were drawn: sampling parameters, seed, stop texts, format (receipts.py)."""
    is_verifiable: bool
    """Whether each token follows from the model, the tokens before it and the seed (docs/protocol.md)."""
    seeded_by_user: bool
    """Whether the user chose the seed, so that it is no evidence of an honest draw between the two."""
    at: int
    """When the answer was complete, in UNIX seconds by the executor's clock."""
    price: TokenAmount
    is_private: bool = False
    """Whether the user asked for privacy: then it stays with both sides, is not published and not offered to audits."""
    is_within_rule: bool = True
    """Whether the request, which the payer signed, asked for tokens by the rule: no penalties, biases or format. Where
    it did, and `is_verifiable` is false, that is by the executor's word alone."""
    claims_commitment: Hash32 = ZERO_HASH
    """Commitment to the log-probabilities that the user was told (claims.py); zeros where none were asked for."""
    asking: Asking | None = None
    """What the payer signed of the request; None where it asked no executor of its own: open prompts."""
    vectors: int = 0
    """How many vectors were given in place of tokens: one for each input (sketches.py)."""

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.output_tokens, self.at, self.epoch, self.vectors) < 0:
            raise ValueError("counts, epoch and time of a receipt are not negative")


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with the signatures of both sides over its Keccak-256 digest."""

    receipt: Receipt
    signature: bytes
    """The executor's."""
    payer_signature: bytes = b""
    """The payer's; empty where it never came: then the receipt proves only what the executor claims."""


@dataclass(frozen=True, slots=True)
class RowProof:
    """A row of a receipt book, and what leads from it to the book's root."""

    index: int
    asking: Hash32
    digest: Hash32
    output_tokens: int
    payer: bytes
    siblings: tuple[Hash32, ...]


@dataclass(frozen=True, slots=True)
class BookGap:
    """Two neighbours in a receipt book between which a receipt would stand; None beyond the first and the last row.

    Or, as `before` and without `after`, the receipt's own row, which says other things than follow from it.
    """

    before: RowProof | None
    after: RowProof | None


@dataclass(frozen=True, slots=True)
class Omission:
    """Proof that an executor left a receipt out of all books that had to have it, or booked it otherwise than it must
    (omissions.py)."""

    signed: SignedReceipt
    earlier: BookGap | None
    """In the book of the receipt's epoch, or, of what is booked twice, in the newest one before the result's; None if
    there is none."""
    later: BookGap | None
    """In the first book after; None if there is none, and had to be one."""
