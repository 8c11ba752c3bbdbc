"""What the daemon tells and does about the conduct of peers for its operator, over the book of conduct."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from libp2p.peer.id import ID

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.peer_methods import BanParams, PardonParams
from node.control.peer_views import BannedView, BansView, BanView, PardonView
from p2p.standing import Ban, Standing, address_name

HOUR_SECONDS = 3600
PEER_ID_BYTES = (34, 38)
"""Of the multihash: SHA-256 of a key, or an Ed25519 key itself."""


@dataclass(frozen=True, slots=True)
class DaemonPeerOperations:
    """Implements node.control.peer_methods.PeerOperations."""

    standing: Standing
    own_peer_id: str
    refused: Callable[[], Mapping[str, int]]

    async def bans(self) -> BansView:
        """Bans in force."""
        return BansView(bans=[_view(ban) for ban in self.standing.bans()], refused_connections=dict(self.refused()))

    async def ban(self, params: BanParams) -> BannedView:
        """Ban a peer or an address."""
        peer = named(params.peer)
        if peer == self.own_peer_id:
            raise RpcError(ErrorCode.REFUSED, f"{peer} is this daemon itself")
        seconds = max(1, round(params.hours * HOUR_SECONDS))
        return BannedView(ban=_view(self.standing.ban(peer, params.reason, seconds)))

    async def pardon(self, params: PardonParams) -> PardonView:
        """Lift a ban and forget all offences."""
        peer = named(params.peer)
        return PardonView(peer=peer, was_banned=self.standing.pardon(peer))


def named(text: str) -> str:
    """Return the name by which a peer is known in the book of conduct. Raises RpcError.

    Takes a peer id, an IP address, an address as `quern peers bans` shows it, or `host:port` of a content provider.
    """
    known = text.startswith(("/ip4/", "/ip6/"))
    if known:
        return text
    try:
        return address_name(text)
    except ValueError:
        pass
    if ":" in text:
        return text
    try:
        if len(ID.from_base58(text).to_bytes()) in PEER_ID_BYTES:
            return text
    except ValueError:
        pass
    raise RpcError(
        ErrorCode.REFUSED,
        f"{text} is neither a peer id nor an address",
        "`quern peers` lists the ids of the connected.",
    )


def _view(ban: Ban) -> BanView:
    return BanView(peer=ban.peer, reason=ban.reason, since=ban.since, until=ban.until, count=ban.count)
