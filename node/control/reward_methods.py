"""The control socket's methods about scores and rewards: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.fields import AccountText, EpochField
from node.control.methods import Emit, Method, Params
from node.control.reward_views import RewardsView, ScoresView, WhyNotPaidView
from node.control.views import View

EPOCHS_MAX = 64


class ScoreParams(Params):
    """Whose score."""

    participant: AccountText | None = None
    """None: this daemon's account."""
    all: bool = False
    """Everybody's instead."""


class RewardsParams(Params):
    """How many of the newest epochs, and whose."""

    participant: AccountText | None = None
    epochs: int = Field(default=8, ge=1, le=EPOCHS_MAX)


class WhyNotPaidParams(Params):
    """Which epoch, and whose pay."""

    epoch: EpochField
    participant: AccountText | None = None


class RewardOperations(Protocol):
    """What the daemon tells of scores and rewards. Methods raise RpcError for what can be acted on."""

    async def score(self, params: ScoreParams) -> ScoresView:
        """Return the score of a participant, or of all, in the newest result."""

    async def rewards(self, params: RewardsParams) -> RewardsView:
        """Return what the newest epochs paid a participant."""

    async def why_not_paid(self, params: WhyNotPaidParams) -> WhyNotPaidView:
        """Explain every unit that a participant was not paid for an epoch."""


def reward_method_table(operations: RewardOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def score(params: ScoreParams, _emit: Emit) -> View:
        return await operations.score(params)

    async def rewards(params: RewardsParams, _emit: Emit) -> View:
        return await operations.rewards(params)

    async def why_not_paid(params: WhyNotPaidParams, _emit: Emit) -> View:
        return await operations.why_not_paid(params)

    return {
        "score": Method(ScoreParams, score),
        "rewards": Method(RewardsParams, rewards),
        "why_not_paid": Method(WhyNotPaidParams, why_not_paid),
    }
