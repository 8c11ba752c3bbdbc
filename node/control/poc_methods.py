"""The control socket's methods about Proof of Compute: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.fields import AccountText, EpochField
from node.control.methods import Emit, Method, Params
from node.control.poc_views import BatchEvidenceView, PocView, WhyDifferView
from node.control.views import View


class PocParams(Params):
    """Which epoch."""

    epoch: EpochField | None = None
    """None: the newest."""


class BatchParams(Params):
    """Which batch."""

    epoch: EpochField
    participant: AccountText
    node_id: str = Field(min_length=1, max_length=32)
    recompute: bool = False
    """Whether this node's engine is to judge it again."""


class WhyDifferParams(Params):
    """Which epoch, and whose result to compare with."""

    epoch: EpochField
    account: AccountText | None = None
    """A member; None and no file: the result that the chain accepted."""
    file: str | None = Field(default=None, max_length=4096)
    """Path of a file that the daemon can read, with the content of a result."""


class PocOperations(Protocol):
    """What the daemon tells of Proof of Compute. Methods raise RpcError for what can be acted on."""

    async def poc(self, params: PocParams) -> PocView:
        """Return what became of every batch of an epoch."""

    async def batch(self, params: BatchParams) -> BatchEvidenceView:
        """Return by what one batch was judged."""

    async def why_differ(self, params: WhyDifferParams) -> WhyDifferView:
        """Compare this node's result of an epoch with another one."""


def poc_method_table(operations: PocOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def poc(params: PocParams, _emit: Emit) -> View:
        return await operations.poc(params)

    async def batch(params: BatchParams, _emit: Emit) -> View:
        return await operations.batch(params)

    async def why_differ(params: WhyDifferParams, _emit: Emit) -> View:
        return await operations.why_differ(params)

    return {
        "poc": Method(PocParams, poc),
        "poc_batch": Method(BatchParams, batch),
        "why_differ": Method(WhyDifferParams, why_differ),
    }
