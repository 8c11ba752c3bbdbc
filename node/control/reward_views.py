"""What the daemon answers about scores and rewards over the control socket."""

from node.control.views import View


class PointLossView(View):
    """Points that a part of a score lacks."""

    reason: str
    words: str
    """The reason for people."""
    per_mille: int


class ScorePartView(View):
    """One part of a score."""

    name: str
    """`quality`, `speed`, `availability` or `participation`."""
    weight_percent: int
    """How much of the score it is."""
    per_mille: int
    losses: list[PointLossView]


class ScoreView(View):
    """A participant's score in one epoch."""

    epoch: int
    participant: str
    per_mille: int
    parts: list[ScorePartView]


class ScoresView(View):
    """Scores of the newest result that is here."""

    epoch: int | None
    """None as long as there is no result."""
    scores: list[ScoreView]


class EpochRewardView(View):
    """What one epoch paid a participant."""

    epoch: int
    has_result: bool
    is_known: bool
    """False: what it paid is not known; the content of its result, or of the one before, is not to be had now."""
    weight: int
    covers_models: bool
    score_per_mille: int | None
    most: str
    """What it could have earned at most, everything else being as it was."""
    paid: str
    not_paid: str


class RewardsView(View):
    """The newest epochs, newest first, and what is to be claimed."""

    participant: str
    cumulative: str | None
    """Earned over all epochs, as the newest result in effect has it; None if its content is not to be had now."""
    claimed: str
    epochs: list[EpochRewardView]


class UnpaidPartView(View):
    """What one fault cost."""

    reason: str
    words: str
    """The reason for people."""
    remedy: str
    """What its operator can do about it; empty where nothing can be done."""
    subject: str
    amount: str


class WhyNotPaidView(View):
    """Every unit between the most a participant could have earned and what it got."""

    epoch: int
    participant: str
    most: str
    paid: str
    parts: list[UnpaidPartView]
    models_lacking: list[str]
    """Models that none of its nodes served, where that cost the coverage bonus."""
    evidence: str
    """CID of the result that all this follows from; empty where the epoch has none."""
    why_nothing: str = ""
    """Why there was nothing to earn, in words, where the most is nought."""
