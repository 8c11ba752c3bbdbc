"""`[vault]`: encrypted models."""

from pathlib import Path

from pydantic import Field

from node.settings.section import Section


class VaultSettings(Section):
    """Encrypted models and their keys."""

    keys_dir: Path = Field(
        default=Path("model-keys"),
        description="Directory of content keys, one private file each. Back it up: a lost key is a lost model.",
    )
    unsealed_dir: Path = Field(
        default=Path("unsealed"),
        description="Directory where encrypted models lie decrypted while they are served; others must not read it.\n"
        "On a file system in memory, such as below /dev/shm, nothing of them reaches a disk.",
    )
