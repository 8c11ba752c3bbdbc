"""`[mining]`: Proof of Compute."""

from pydantic import Field

from node.settings.section import Section


class MiningSettings(Section):
    """Proof of Compute."""

    nonces_max: int = Field(
        default=4096,
        ge=1,
        le=2**20,
        description="Nonces to compute per ML node and epoch at most; each counts towards your weight.",
    )
