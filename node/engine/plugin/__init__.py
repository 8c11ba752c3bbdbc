"""What runs inside the engine's own process and environment (torch, numpy, vLLM); the daemon imports nothing of it."""

import os
from pathlib import Path

DIRECTORY = Path(__file__).parent
"""What the PYTHONPATH of an engine on CPUs names."""
COMMON_DIRECTORY = DIRECTORY / "common"
"""What that of every engine names: this part is the same on GPUs."""


def search_path(*, on_cpu: bool) -> str:
    """Return the PYTHONPATH by which vLLM finds the plug-ins; what this program's own names comes after."""
    own = (str(DIRECTORY), str(COMMON_DIRECTORY)) if on_cpu else (str(COMMON_DIRECTORY),)
    return os.pathsep.join((*own, *filter(None, (os.environ.get("PYTHONPATH"),))))
