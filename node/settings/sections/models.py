"""`[models]`: models on this machine, and the API that manages them."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section
from node.settings.value_types import Port, Url


class ModelSettings(Section):
    """Models on this machine: where they lie, how they are downloaded, and the API that manages them."""

    storage_dir: Path = Field(default=Path("models"), description="Directory of models. A miner needs it to be fast.")
    cold_dir: Path | None = Field(
        default=None, description="Directory on a slower disk, to which models move that nobody uses."
    )
    cold_after_days: int = Field(default=30, ge=1, le=3650, description="How long a model is unused before it moves.")
    registry_file: Path | None = Field(
        default=None, description="File that always holds the list of models as JSON, for other programs."
    )
    bytes_max: int = Field(
        default=0,
        ge=0,
        description="Disk that models may take, in bytes; 0 leaves it to the disk. The longest unused give way, but\n"
        "never one that is pinned or loaded.",
    )
    max_concurrent_downloads: int = Field(
        default=3, ge=1, le=32, description="Downloads at once; those that engines wait for do not count."
    )
    download_timeout_seconds: int = Field(
        default=3600,
        ge=10,
        le=7 * 86400,
        description="Longest time of one try of a download; the next one goes on where it stopped.",
    )
    bandwidth_bytes_per_second_max: int = Field(
        default=0, ge=0, description="Limit of downloads from the Hub and web servers together; 0 is none."
    )
    verify_checksums: bool = Field(
        default=True, description="Compare each file with its source's checksum. What peers give is always checked."
    )
    private_addresses_allowed: bool = Field(
        default=False, description="Whether downloads by URL may reach this machine and its local network."
    )
    hub_url: Url = Field(default="https://huggingface.co", description="The Hugging Face Hub, or a mirror of it.")
    hub_token_file: Path = Field(
        default=Path("hub.token"),
        description="File with the Hub token, for gated models (0600; `quern model login` writes it).",
    )
    hub_cache_dir: Path | None = Field(
        default=None, description="Cache of huggingface_hub whose files are copied instead of downloaded."
    )
    api_host: str = Field(default="127.0.0.1", description="Address on which the management API listens.")
    api_port: Port = Field(default=8005, description="Its port; 0 takes a free one.")
    api_tokens_file: Path = Field(
        default=Path("model-api.tokens"),
        description="Tokens of the management API (0600; `quern model token add` writes it). While there is none,\n"
        "the API is off.",
    )
