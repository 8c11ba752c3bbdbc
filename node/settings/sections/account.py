"""`[account]`: the participant's key."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section


class AccountSettings(Section):
    """The Ethereum account of this participant: it stakes, pays, earns and signs."""

    keystore: Path = Field(default=Path("account.json"), description="Encrypted key (Ethereum keystore v3).")
    passphrase_file: Path | None = Field(
        default=None, description="File whose first line unlocks the keystore; must be readable by you alone (0600)."
    )
    passphrase_env: str | None = Field(
        default="QUERN_PASSPHRASE",
        description="Environment variable that unlocks the keystore where no passphrase file is set. Without either\n"
        "the daemon asks at the terminal.",
    )
