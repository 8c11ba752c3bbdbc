"""`[control]`: the socket of `quern`."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section


class ControlSettings(Section):
    """The Unix socket through which `quern` speaks to the daemon."""

    socket: Path = Field(default=Path("control.sock"), description="Path of the socket; only you can open it (0600).")
