"""What the daemon answers about audits over the control socket."""

from pydantic import Field

from node.control.views import View


class AuditedBookView(View):
    """A receipt book whose answers are audited in the epoch."""

    executor: str
    answers: int
    output_tokens: int
    draws: int
    """How many of its tokens are drawn."""


class AuditVoteView(View):
    """What this node found of one answer."""

    executor: str
    node_id: str
    model_id: str
    draw: int
    """-1: judged again, because it was accused."""
    receipt: str
    """Digest in hex; empty where none was handed over."""
    request_id: str
    """Of this node's own copy of the receipt; empty if it has none."""
    verdict: str
    reason: str
    tokens: int
    mismatches: int
    mean_margin: float
    """In logits, each cut at 1."""
    mean_distance: float | None
    """Of claimed log-probabilities, each cut at 0.2; None where none were claimed."""
    surprise_z: float | None
    """Standard deviations of surprise from entropy; None where nothing was drawn."""
    evidence_bits: float
    """Against the executor, from this answer alone; 26 prove."""


class AuditOutcomeView(View):
    """What the epoch's result says of one executor's answers with a model."""

    executor: str
    model_id: str
    fate: str
    reason: str
    answers: int
    withheld: int
    tokens: int
    evidence_bits: float
    """Accumulated over epochs; 26 accuse."""
    accused: int
    """Answers that the whole group judges again in the next epoch."""


class OmissionView(View):
    """A receipt that an executor has not booked as it must, with proof."""

    executor: str
    receipt: str
    """Digest in hex."""
    request_id: str
    """Of this node's own copy of the receipt; empty if it has none."""
    has_book: bool
    """False: it has no book at all, where one was due."""
    is_own: bool
    """Whether this node found it, and was not handed it by another payer."""
    handed_to: int
    """Members that took the proof from this node, for their votes."""


class AuditsView(View):
    """The audits of one epoch."""

    epoch: int
    books_of: int | None
    """The epoch whose books were drawn from; None if there is no result before."""
    books: list[AuditedBookView]
    votes: list[AuditVoteView]
    outcomes: list[AuditOutcomeView] | None
    """None until there is a result of this epoch, or if its content is not here any more."""
    omissions: list[OmissionView] = Field(default_factory=list)
    """Those that this node votes on, or handed to members."""
