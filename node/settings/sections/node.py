"""`[node]`: what the daemon is for, where it keeps its data, what it logs."""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field

from node.settings.section import Section


class Role(StrEnum):
    """What a daemon does for the network; several may be combined."""

    MINER = "miner"
    GATEWAY = "gateway"
    SEEDER = "seeder"
    RELAY = "relay"


class NodeSettings(Section):
    """What this daemon is and where it keeps its data."""

    data_dir: Path = Field(
        default=Path(), description="Directory of keys, books and content; `.` is where this file lies."
    )
    roles: list[Role] = Field(
        default=[Role.MINER, Role.GATEWAY, Role.SEEDER],
        description="What this daemon does: `miner` serves and proves models, `gateway` takes requests of users,\n"
        "`seeder` gives content to peers (a miner always does), `relay` carries connections to peers behind NAT.",
    )
    vectors_kept_bytes_max: int = Field(
        default=4 << 30,
        ge=1 << 26,
        description="Disk for what auditors may ask of vectors that this node gave, in bytes. When it is full, no\n"
        "more are given until some are not due any more: 2.5 KB for each text of 400 tokens of the newest epochs,\n"
        "so 1.6 million such texts.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug` also writes the tracebacks of errors."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="`console` for people, `json` for machines."
    )
    log_file: Path | None = Field(default=None, description="Write the log here; without it, to standard error.")
