"""How a judgement can end, and what a participant can be punished for."""

from enum import Enum


class Verdict(Enum):
    """A validator's judgement. Lacking the model or the data is an abstention, never a no."""

    VALID = "valid"
    INVALID = "invalid"
    ABSTAIN = "abstain"


class Offence(Enum):
    """What a quorum may punish; the values are those of the Slashing contract."""

    FRAUD = 0
    DOWNTIME = 1
