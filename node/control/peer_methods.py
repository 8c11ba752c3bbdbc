"""The control socket's methods about the conduct of peers: their parameters, checked, and what each calls."""

from typing import Protocol

from pydantic import Field

from node.control.methods import Emit, Method, NoParams, Params
from node.control.peer_views import BannedView, BansView, PardonView
from node.control.views import View

BAN_HOURS_MAX = 24 * 365
PEER_CHARACTERS_MAX = 128
REASON_CHARACTERS_MAX = 200


class BanParams(Params):
    """Whom to ban, for how long and why."""

    peer: str = Field(min_length=1, max_length=PEER_CHARACTERS_MAX)
    hours: float = Field(gt=0, le=BAN_HOURS_MAX)
    reason: str = Field(default="by the operator", min_length=1, max_length=REASON_CHARACTERS_MAX)


class PardonParams(Params):
    """Whom to pardon."""

    peer: str = Field(min_length=1, max_length=PEER_CHARACTERS_MAX)


class PeerOperations(Protocol):
    """What the daemon tells and does about the conduct of peers. Methods raise RpcError for what can be acted on."""

    async def bans(self) -> BansView:
        """Return the bans in force."""

    async def ban(self, params: BanParams) -> BannedView:
        """Ban a peer or an address."""

    async def pardon(self, params: PardonParams) -> PardonView:
        """Lift a ban and forget all offences."""


def peer_method_table(operations: PeerOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def bans(_params: NoParams, _emit: Emit) -> View:
        return await operations.bans()

    async def ban(params: BanParams, _emit: Emit) -> View:
        return await operations.ban(params)

    async def pardon(params: PardonParams, _emit: Emit) -> View:
        return await operations.pardon(params)

    return {
        "peer_bans": Method(NoParams, bans),
        "peer_ban": Method(BanParams, ban),
        "peer_pardon": Method(PardonParams, pardon),
    }
