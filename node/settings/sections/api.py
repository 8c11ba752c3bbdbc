"""`[api]`: the HTTP face for users."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Port


class ApiSettings(Section):
    """The HTTP face for users: the OpenAI API and the miner API."""

    host: str = Field(
        default="127.0.0.1", description="Address to listen on; anything but loopback serves the whole net."
    )
    port: Port = Field(default=8080, description="Port to listen on; 0 takes a free one.")
    keys_file: Path = Field(
        default=Path("api.keys"),
        description="API keys of users, with their budgets (0600; `quern keys add` writes it). While there is none,\n"
        "whoever reaches the API spends this gateway's tokens; anywhere but on loopback it then refuses to start.",
    )
    open: bool = Field(
        default=False, description="Serve without keys on addresses other than loopback; whoever comes spends."
    )
    cors_origins: list[str] = Field(
        default=[],
        max_length=32,
        description="Web pages that may ask, e.g. https://chat.example; `*` is all. Pages from elsewhere are refused:\n"
        "without that, any page open in a browser on this machine could spend this gateway's tokens.",
    )
    cache_bytes_max: int = Field(
        default=0,
        ge=0,
        description="Memory for answers that are given again to equal requests, in bytes; 0 is off. Only what the\n"
        "request alone decides is kept: temperature 0, or a seed given. Users can tell by the time whether another\n"
        "one asked the same before.",
    )
