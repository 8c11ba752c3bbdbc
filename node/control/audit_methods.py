"""The control socket's methods about audits: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.audit_views import AuditsView
from node.control.methods import Emit, Method, Params
from node.control.views import View


class AuditsParams(Params):
    """Which epoch's, or of which answer."""

    epoch: int | None = Field(default=None, ge=0, lt=2**63)
    """None for the present one."""
    receipt: str | None = Field(default=None, pattern="^[0-9a-f]{8,64}$")
    """The beginning of a receipt's digest or of its request's id: only audits of this answer, of the last epochs."""


class AuditOperations(Protocol):
    """What the daemon tells of audits. Methods raise RpcError for what can be acted on."""

    async def audits(self, params: AuditsParams) -> AuditsView:
        """Return the audits of an epoch."""


def audit_method_table(operations: AuditOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def audits(params: AuditsParams, _emit: Emit) -> View:
        return await operations.audits(params)

    return {"audits": Method(AuditsParams, audits)}
