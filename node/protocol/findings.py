"""What an epoch finds out: votes on answers, and what its result says of every node, answer and participant.

All are part of a vote bundle or of an EpochResult: integers and short codes only, canonical, the same on every node.
"""

from dataclasses import dataclass
from enum import Enum

from node.protocol.identifiers import Address, Cid, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.verdicts import Offence, Verdict

AUDIT_TOKENS_MAX = 1 << 17
"""Judged of one answer, as many as a prompt may have; of longer ones the first. More in a vote would only be a liar's,
who could outweigh true figures so."""
AUDIT_SUM_MICRO_MAX = 1 << 43
"""What so many tokens can add up to, at 60 each: above any figure, and far below 64 bits."""
AUDIT_ANSWERS_SUMMED_MAX = 64
"""Figures of so many answers together are still figures, for who measures; audits add up what bets gain from each."""
SCORE_FULL = 1000
"""A score without a blemish, in thousandths; the same for each of its parts."""


class NodeFate(Enum):
    """What became of an ML node in an epoch."""

    ACCEPTED = "accepted"
    """Its batch was accepted: every nonce counts."""
    REJECTED = "rejected"
    UNDECIDED = "undecided"
    """No majority of those able to judge, or nobody able: no weight this epoch, and no blame."""
    PRESERVED = "preserved"
    """It kept serving through PoC by allotment (POC_SLOT): it has the weight it had."""


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """What became of one ML node in an epoch, with the figures that decided it."""

    participant: Address
    node_id: NodeId
    model_id: ModelId
    fate: NodeFate
    count: int
    """Nonces it committed; 0 where it kept serving."""
    sampled: int
    """Nonces that were drawn and judged."""
    mismatches: int
    """Of these, those that the majority of the weight able to judge found to differ."""
    weight: int
    """Weight it takes into the next group."""
    reason: str
    """A short code (outcomes.py) where it was not accepted, or where not every nonce counts; empty otherwise."""
    unrelated: int = 0
    """Of the mismatches, those farther off than any honest machine's: as the middle judge by weight says. Only of a
    rejected batch: that is what fraud rests on (penalties.py)."""


@dataclass(frozen=True, slots=True)
class SampleCount:
    """How a participant's nonces of one model fared in one epoch."""

    epoch: EpochNumber
    sampled: int
    mismatches: int
    mismatch_per_million: int
    """p0 of the rule that they were judged by; the largest of several."""


@dataclass(frozen=True, slots=True)
class SampleHistory:
    """How a participant's nonces of one model fared in the last epochs, whatever its ML nodes were called."""

    participant: Address
    model_id: ModelId
    epochs: tuple[SampleCount, ...]
    """Ascending by epoch; at most as many as history.py keeps."""


@dataclass(frozen=True, slots=True)
class ThinWeight:
    """The most that a participant had with a model in an epoch in which few could judge it (thin_weights.py)."""

    participant: Address
    model_id: ModelId
    weight: int
    of_model: int
    """What all had with the model in that epoch of whose work with it some was thinly judged."""
    epoch: EpochNumber


@dataclass(frozen=True, slots=True)
class VoteFigures:
    """What a validator computed to judge one batch."""

    participant: Address
    node_id: NodeId
    distances: tuple[int, ...]
    """Squared distance of each nonce that was drawn, in their order."""
    tails: tuple[int, ...]
    """What the model says of something of the validator's own for each of these nonces (tails.py); empty for models
    that read too few tokens."""


@dataclass(frozen=True, slots=True)
class VoteEvidence:
    """What a validator's votes rest on: anyone who has the models can recompute it."""

    epoch: EpochNumber
    validator: Address
    figures: tuple[VoteFigures, ...]
    """Of every batch of which it recomputed the sample, in the order of its votes."""


@dataclass(frozen=True, slots=True)
class VoteCheck:
    """One validator's judgement of how another one came to its votes of the epoch before on batches of one model."""

    validator: Address
    model_id: ModelId
    verdict: Verdict
    checked: int
    """Tails that were recomputed."""
    differing: int
    reason: str
    """A short code where the verdict is not valid; empty otherwise."""


@dataclass(frozen=True, slots=True)
class ValidatorOutcome:
    """What the group found of one validator's votes of the epoch before."""

    validator: Address
    fate: Verdict
    """INVALID: it did not compute what its votes say. ABSTAIN: nobody could tell."""
    reason: str


@dataclass(frozen=True, slots=True)
class ReceiptBook:
    """An executor's commitment to the receipts of its answers, before anybody knows which are audited."""

    count: int
    output_tokens: int
    """Of all answers together: tokens are drawn, not answers, so that many short ones hide no long one."""
    root: Hash32
    """Merkle root over the rows of the book (receipt_books.py)."""
    content_cid: Cid
    """The rows as one file."""


@dataclass(frozen=True, slots=True)
class ModelWeight:
    """What somebody's nodes with a model weigh together."""

    model_id: ModelId
    weight: int


@dataclass(frozen=True, slots=True)
class CommittedBook:
    """A book that an epoch's result took up: its answers are audited in the epoch after."""

    executor: Address
    book: ReceiptBook
    weights: tuple[ModelWeight, ...] = ()
    """Of its executor in the group that was in charge when the answers were given; ascending by model id. Of an empty
    book none."""


@dataclass(frozen=True, slots=True)
class EarlierBook:
    """The newest book of an executor that a result before took up."""

    executor: Address
    epoch: EpochNumber
    """Of that result."""
    book: ReceiptBook


@dataclass(frozen=True, slots=True)
class MissingBook:
    """A member with weight of which a result has no book, because no bundle of it was counted."""

    executor: Address
    due_from: EpochNumber
    due_before: EpochNumber
    """From the one up to, not including, the other: epochs whose receipts are omitted, for the result before had no
    book of it either. None if that one had, or the member had no weight in it (due_books.py)."""


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """What a prefill makes of an answer: sums over its tokens, which add up over answers (audits.py)."""

    tokens: int
    """Output tokens that were held against the rule."""
    mismatches: int
    """Of these, those that are not the rule's choice."""
    margin_micro: int
    """Sum of what counts of margins (draws.py, audits.py), in millionths of a logit."""
    claimed: int
    """Tokens whose log-probabilities the executor claimed."""
    distance_micro: int
    """Sum over these of the clipped distance of what was claimed, in millionths."""
    surprise_micro: int
    """Sum over tokens of entropy plus log-probability, in millionths of a nat: 0 on average; negative if the tokens
    are less likely than draws are."""
    variance_micro: int
    """Sum of the variances of these, in millionths."""

    def __post_init__(self) -> None:
        sums = (self.margin_micro, self.distance_micro, abs(self.surprise_micro), self.variance_micro)
        counts = (self.tokens, self.mismatches, self.claimed)
        answers = AUDIT_ANSWERS_SUMMED_MAX
        if min(*counts, *sums) < 0 or max(counts) > answers * AUDIT_TOKENS_MAX:
            raise ValueError("figures of an audit are out of range")
        if max(sums) > answers * AUDIT_SUM_MICRO_MAX:
            raise ValueError("figures of an audit are out of range")
        if self.mismatches > self.tokens:
            raise ValueError("more tokens mismatch than were judged")

    @property
    def are_of_one_answer(self) -> bool:
        """Whether one answer can have them; a sum over several may be larger."""
        sums = (self.margin_micro, self.distance_micro, abs(self.surprise_micro), self.variance_micro)
        return max(self.tokens, self.claimed) <= AUDIT_TOKENS_MAX and max(sums) <= AUDIT_SUM_MICRO_MAX


@dataclass(frozen=True, slots=True)
class AuditVote:
    """One validator's judgement of one answer, with the figures anyone with the model can recompute."""

    executor: Address
    draw: int
    """Which draw from the executor's book; -1 for an answer that is judged again (audit_outcomes.py)."""
    node_id: NodeId
    model_id: ModelId
    receipt_digest: Hash32
    """All zeros where no receipt came."""
    verdict: Verdict
    figures: AuditFigures
    reason: str
    """A short code where the verdict is not valid; empty otherwise."""


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What audits made of one executor's answers with a model in an epoch, whichever of its nodes gave them."""

    executor: Address
    model_id: ModelId
    fate: Verdict
    """INVALID: proven not to be the model's answers. ABSTAIN: too little for a decision."""
    answers: int
    """Answers that were judged."""
    withheld: int
    """Answers that were drawn and that the executor did not hand over, or not as it had committed to them."""
    tokens: int
    """Output tokens that were judged."""
    reason: str
    """A short code where the fate is not valid, or something was withheld; empty otherwise."""
    evidence: tuple[int, ...] = ()
    """Against it, from this epoch and those before, by bet (audits.py), in millionths of a bit: each answer held
    against the band of its own node. Empty for none."""
    confirmed: tuple[int, ...] = ()
    """Likewise, of answers that the whole group judged again since it was accused, and below 0 as far as they speak for
    it; empty unless that is open."""
    accused: tuple[Hash32, ...] = ()
    """Digests of receipts whose answers the whole group judges again in the next epoch."""
    challenged: tuple[Hash32, ...] = ()
    """Likewise, because their payer says that they are not the model's; each is judged by itself."""
    convicting: tuple[int, ...] = ()
    """As `confirmed`, of what members with a third of all weight find at least, each answer held against the band by
    which it would be fraud (audit_bands.py). Begun anew whenever fewer judged."""
    quiet_epochs: int = 0
    """Epochs running in which nothing that was judged again spoke against it, while its accusation is open. Else those
    in which it was no member, while there is evidence."""
    weight: int = 0
    """While answers are judged again: the most that its executor's nodes with the model weighed in a group in charge
    since it gave the first of them. So much is not paid if they are narrowly proven false."""


@dataclass(frozen=True, slots=True)
class PointLoss:
    """Points that a part of a score lacks, and why."""

    reason: str
    """A short code, such as `no-votes` (scores.py)."""
    per_mille: int


@dataclass(frozen=True, slots=True)
class ScorePart:
    """One part of a score. The points it has and those it lost always make SCORE_FULL."""

    per_mille: int
    losses: tuple[PointLoss, ...] = ()
    """The costliest first."""

    def __post_init__(self) -> None:
        if min((self.per_mille, *(loss.per_mille for loss in self.losses))) < 0:
            raise ValueError("points of a score are not negative")
        if self.per_mille + sum(loss.per_mille for loss in self.losses) != SCORE_FULL:
            raise ValueError(f"points and lost points make {SCORE_FULL}")


@dataclass(frozen=True, slots=True)
class ParticipantScore:
    """Requirements C3: 0.4 quality + 0.3 speed + 0.2 availability + 0.1 participation, in thousandths."""

    participant: Address
    quality: ScorePart
    speed: ScorePart
    availability: ScorePart
    participation: ScorePart
    per_mille: int
    """The weighted sum, rounded down."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """How much of an epoch a validator saw a participant's presence."""

    participant: Address
    per_mille: int


@dataclass(frozen=True, slots=True)
class SpeedMeasure:
    """How fast one executor answered one gateway in an epoch, by the gateway's clock: medians over its answers."""

    executor: Address
    model_id: ModelId
    answers: int
    first_ms: int
    """From the request to the first token, in milliseconds."""
    token_us: int
    """From one token to the next, in microseconds."""


@dataclass(frozen=True, slots=True)
class ServedTokens:
    """What an executor served of one model since its last bundle: tokens read and written, by its receipts."""

    model_id: ModelId
    slot_tokens: tuple[int, ...]
    """By timeslot: (PRE_POC_SLOT, POC_SLOT)."""


@dataclass(frozen=True, slots=True)
class Observations:
    """What a validator saw of others in an epoch, and what it served: evidence for scores and throughput."""

    sightings: tuple[Sighting, ...] = ()
    """Ascending by participant."""
    measures: tuple[SpeedMeasure, ...] = ()
    """Ascending by (executor, model)."""
    served: tuple[ServedTokens, ...] = ()
    """Ascending by model."""
    wants_scaling: bool = False
    """Its vote on whether preserved weights are scaled by throughput (throughput.py)."""


@dataclass(frozen=True, slots=True)
class ModelThroughput:
    """What the nodes of a model can serve and did serve, in tokens (requirements B7, B12)."""

    model_id: ModelId
    total_throughput: int
    """Sum of the nodes' throughputs: tokens per epoch."""
    expected_throughput_vector: tuple[int, ...]
    """Tokens that the nodes allotted to each timeslot can serve in it: (PRE_POC_SLOT, POC_SLOT)."""
    real_throughput_vector: tuple[int, ...]
    """Tokens served in each timeslot of the epoch whose result this is part of."""


@dataclass(frozen=True, slots=True)
class SettledShare:
    """What one participant is paid for an epoch, with the figures that decided it."""

    participant: Address
    weight: int
    """Mined and preserved weight of all its nodes that counts for its pay."""
    covers_models: bool
    """It serves every model: the coverage bonus."""
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class PenaltyDecision:
    """An offence that the epoch's evidence proves."""

    participant: Address
    offence: Offence
    reason: str
    """A short code that names the evidence, such as `audit-margin` or `batch-of-fakes`."""
