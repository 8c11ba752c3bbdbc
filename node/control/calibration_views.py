"""What the daemon tells of an engine that is to be calibrated."""

from node.control.views import View


class CalibrationPlaceView(View):
    """An ML node with the model ready, as `quern calibrate` needs it."""

    node_id: str
    model_version: int
    """The version that the registry has."""
    endpoint: str
    """Where its server answers: `unix:/path` or a URL."""
    needs_key: bool
    """The server asks for a key, which is not told: it is in the file that the settings name."""
    engine: str
    """Engine and version."""
    hardware: str
    """As registered on chain; empty while it is not."""
    vocabulary_size: int
