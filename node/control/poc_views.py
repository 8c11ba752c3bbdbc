"""What the daemon answers about Proof of Compute over the control socket."""

from node.control.views import View


class BatchView(View):
    """One ML node in an epoch."""

    participant: str
    node_id: str
    model_id: str
    nonces: int
    fate: str
    """`accepted`, `rejected`, `undecided`, `preserved`; `committed` as long as there is no result."""
    sampled: int
    mismatches: int
    weight: int
    reason: str
    words: str
    """The reason for people."""


class MiningView(View):
    """How far one of this node's miners is."""

    node_id: str
    epoch: int
    state: str
    nonces: int


class ValidatorView(View):
    """A member of the group that had to vote."""

    account: str
    weight: int
    bundle: str | None
    """CID of its votes; None where it committed none."""
    fate: str
    """What others found of its votes of the epoch before, if they were checked."""
    reason: str


class ObjectionView(View):
    """What this node makes of the accepted result of an epoch that has not ended."""

    finding: str
    """`open` (evidence is missing), `sound`, `immaterial`; `wrong-content`, `does-not-follow` and `votes-left-out` are
    false results."""
    differences: list[str]
    """Fields that differ from what follows; the first."""
    objects: bool
    """Whether this node objects."""
    objecting: int
    """Weight that objects, as far as this node heard; a third of the total voids the result."""
    total: int
    voided: bool


class PocView(View):
    """Proof of Compute of one epoch."""

    epoch: int
    has_result: bool
    why_no_result: str = ""
    """Why there is none, in words, where the epoch is over without one."""
    batches: list[BatchView]
    validators: list[ValidatorView]
    mining: list[MiningView]
    """This node's, in the newest epoch."""
    objection: ObjectionView | None = None
    """None where no result was accepted, or its epoch is long over."""


class JudgeView(View):
    """What one validator says of a batch."""

    account: str
    weight: int
    """Of the group in charge."""
    may_judge: bool
    """Whether its word counts for this batch: it proved itself with the model, and the batch is not its own."""
    verdict: str
    """`valid`, `invalid`, `abstain`; empty where its votes do not name the batch, or are not to be had."""
    sampled: int
    """Nonces that it recomputed."""
    mismatches: int
    """Of these, the ones that differ."""
    unrelated: int
    """Of these again, the ones farther off than any honest machine's: nearly all of a sample is fraud."""
    largest_distance: int | None
    """Squared; None where there is no evidence."""
    reason: str
    words: str
    """The reason for people."""
    problem: str
    """What is missing of its word, and why; empty if nothing is."""
    bundle: str
    """CID of its votes."""
    evidence: str
    """CID of what they rest on; empty for votes that rest on nothing computed."""


class RecomputedView(View):
    """What this node's engine makes of the sample."""

    node_id: str
    verdict: str
    mismatches: int
    largest_distance: int
    differing: list[tuple[int, int]]
    """Nonce and squared distance of those that differ, the first ones."""


class BatchEvidenceView(View):
    """By what one batch was judged."""

    epoch: int
    participant: str
    node_id: str
    model_id: str
    nonces: int
    vectors: str
    """CID of the file."""
    fate: str
    """As in BatchView."""
    reason: str
    words: str
    sample: int
    """Nonces that are drawn of it."""
    distance_max: int
    """Largest squared distance that counts as equal."""
    rejected_from: int
    """So many that differ reject it."""
    judges: list[JudgeView]
    recomputed: RecomputedView | None = None
    """None if that was not asked for."""


class DifferenceView(View):
    """A field in which two results differ."""

    path: str
    ours: str
    theirs: str


class WhyDifferView(View):
    """Where this node's result of an epoch and another one differ, and what explains it."""

    epoch: int
    ours: str
    """CID of the content."""
    theirs: str
    differences: list[DifferenceView]
    cut: bool
    """Whether there are more than are shown."""
    causes: list[str]
    """Which input explains it, in words."""
