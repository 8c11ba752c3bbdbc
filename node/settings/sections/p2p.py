"""`[p2p]`: the libp2p host."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Multiaddress


class P2PSettings(Section):
    """The libp2p host that gossips and carries requests."""

    key: Path = Field(default=Path("peer.key"), description="Ed25519 key that is this node's peer id.")
    listen: list[Multiaddress] = Field(
        default=["/ip4/0.0.0.0/tcp/4801"], min_length=1, description="Where to listen; port 0 takes a free one."
    )
    announce: list[Multiaddress] = Field(
        default=[], description="Addresses to tell peers, where they differ from the listening ones (NAT, proxies)."
    )
    bootstrap: list[Multiaddress] = Field(default=[], description="Peers to join through: /ip4/…/tcp/…/p2p/12D3Koo…")
    dht: Literal["auto", "server", "client", "off"] = Field(
        default="auto",
        description="Part in the DHT, by which peers and content are found: `server` answers others, `client` only\n"
        "asks, `auto` answers unless peers find that this node cannot be dialled.",
    )
    dht_protocol: str | None = Field(
        default=None,
        pattern=r"^/[!-~]{1,127}$",
        description="Protocol of the DHT; without it, one of this network. /ipfs/kad/1.0.0 joins the public IPFS.",
    )
    mdns: bool = Field(
        default=True, description="Find nodes on the local network; never done where all listening is on loopback."
    )
    relay: bool = Field(
        default=True,
        description='Be reached through relays while nobody gets through directly. Being one is the role "relay".',
    )
    autonat: bool = Field(default=True, description="Have peers try to dial this node, to know whether they can.")
    upnp: bool = Field(
        default=False,
        description="Ask the router to forward the listening port. Off, because it opens a way into your network.",
    )
    hole_punching: bool = Field(
        default=True, description="Turn connections through relays into direct ones where routers allow it."
    )
