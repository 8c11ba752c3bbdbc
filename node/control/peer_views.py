"""What the daemon answers about the conduct of peers over the control socket."""

from node.control.views import View


class BanView(View):
    """A peer or address that is not spoken to."""

    peer: str
    """A peer id; or an address as `/ip4/…` or `/ip6/…/ipcidr/64`."""
    reason: str
    since: int
    """UNIX seconds."""
    until: int
    """UNIX seconds."""
    count: int
    """How often it has been banned, this time included."""


class BansView(View):
    """All bans in force, the one that ends last first."""

    bans: list[BanView]
    refused_connections: dict[str, int]
    """Connections turned away since the start, by reason."""


class BannedView(View):
    """A ban that was just made."""

    ban: BanView


class PardonView(View):
    """A peer whose offences are forgotten."""

    peer: str
    was_banned: bool
