"""`[alerts]`: what the operator is told of at once."""

from pathlib import Path

from pydantic import Field

from node.alerts.kinds import AlertKind
from node.settings.section import Section
from node.settings.value_types import OptionalUrl


class AlertSettings(Section):
    """What the operator is told of at once, over a webhook. `quern alerts test` tries it."""

    webhook_url: OptionalUrl = Field(
        default="",
        description="Where to post alerts as JSON: your own program, or an incoming webhook of Slack or Discord.\n"
        "Without it they are only in the log and in `quern alerts list`.",
    )
    secret_file: Path | None = Field(
        default=None,
        description="File (0600) with a secret by which each post is signed (HMAC-SHA256): proof that it is ours.",
    )
    kinds: list[AlertKind] = Field(default=list(AlertKind), description="Which kinds are posted.")
    min_interval_seconds: int = Field(
        default=3600, ge=60, le=7 * 86400, description="How often the same trouble is posted again while it lasts."
    )
    chain_silent_seconds_max: int = Field(
        default=120, ge=10, le=86400, description="How long no block may come before that is trouble."
    )
    disk_free_gib_min: int = Field(default=10, ge=1, le=100_000, description="Less free disk than this is trouble.")
