"""`[content]`: what is given to peers and fetched from them by CID."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Host, OptionalMultiaddress, Port, Url


class ContentSettings(Section):
    """The content gateway from which peers fetch models and proofs by CID."""

    host: str = Field(default="0.0.0.0", description="Address to listen on.")  # noqa: S104 - peers must reach it
    port: Port = Field(default=4802, description="Port to listen on; 0 takes a free one.")
    announce_host: Host | None = Field(
        default=None, description="Host to tell peers; without it, the first announced or listening address of [p2p]."
    )
    cache_bytes_max: int = Field(
        default=64 * 1024**3,
        ge=0,
        description="Disk that content may take beside the files of models, in bytes; 0 leaves it to the disk. What\n"
        "is pinned, and proofs that a verdict may still rest on, stay; else what was unused longest makes room.",
    )
    token_file: Path | None = Field(
        default=None,
        description="File (0600) with a token that whoever fetches from here must send; without it, all may.",
    )
    provider_tokens_file: Path | None = Field(
        default=None,
        description="File (0600) with the tokens that other gateways ask for, each line `host:port token`.",
    )
    upload_bytes_per_second: int = Field(
        default=0, ge=0, description="What the gateway sends at most, to all together; 0 is no limit."
    )
    download_bytes_per_second: int = Field(
        default=0, ge=0, description="What is fetched from peers at most; 0 is no limit."
    )
    connections_max: int = Field(default=256, ge=1, description="Connections that the gateway serves at once.")
    connections_per_address_max: int = Field(default=32, ge=1, description="Those from one address (IPv6: /64).")
    requests_per_second: int = Field(
        default=0, ge=0, description="Requests that one address may make; 0 is no limit. A block is one request."
    )
    bitswap: bool = Field(
        default=True,
        description="Exchange blocks with IPFS peers over Bitswap too. Slow: daemons' gateways come first.",
    )
    web_gateways: list[Url] = Field(
        default=[],
        max_length=8,
        description="Public IPFS gateways to ask for what nobody else has, e.g. https://trustless-gateway.link; they\n"
        "learn what you fetch. Every block is verified.",
    )
    kubo_api: OptionalMultiaddress = Field(
        default="",
        description="RPC address of your own Kubo, e.g. /ip4/127.0.0.1/tcp/5001, to fetch from and publish to.",
    )
