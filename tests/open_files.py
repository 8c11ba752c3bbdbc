"""Which files this process has open."""

import contextlib
from pathlib import Path


def open_files(directory: Path) -> list[str]:
    """Return the paths, below `directory`, of files that are open, as often as they are. Deleted ones are named so."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor that lists them
            target = str(link.readlink())
            if target.startswith(f"{directory}/"):
                found.append(target.removeprefix(f"{directory}/"))
    return found
