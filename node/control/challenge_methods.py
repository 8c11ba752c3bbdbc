"""The control socket's method by which a user has an answer of his judged: its parameters, and what it tells."""

from typing import Protocol

from pydantic import Field

from node.control.methods import Emit, Method, Params
from node.control.views import View


class ChallengeParams(Params):
    """Which answer."""

    receipt: str = Field(pattern="^[0-9a-f]{8,64}$")
    """The beginning of its receipt's digest or of its request's id."""
    consent: bool = False
    """Whether its user agrees that prompt and answer, which were private, become known to those who judge it."""


class ChallengeView(View):
    """An answer that is to be judged."""

    receipt: str
    """Digest in hex."""
    request_id: str
    executor: str
    model_id: str
    is_private: bool
    is_checked: bool
    """Whether an engine of this node's found it proven not to be the model's; False: it has none to look with."""
    waiting: int
    """Answers that are challenged before it, four in a bundle."""


class ChallengeOperations(Protocol):
    """What the daemon does for its users. Methods raise RpcError for what can be acted on."""

    async def challenge(self, params: ChallengeParams) -> ChallengeView:
        """Have an answer judged."""


def challenge_method_table(operations: ChallengeOperations) -> dict[str, Method]:
    """Return the method by its name."""

    async def challenge(params: ChallengeParams, _emit: Emit) -> View:
        return await operations.challenge(params)

    return {"challenge": Method(ChallengeParams, challenge)}
