"""What an ML node tells its operator without being asked."""

from collections.abc import Callable

ENGINE_FAILED = "engine-failed"
"""It died, wedged or did not start; it is started again."""
ENGINE_GIVEN_UP = "engine-given-up"
"""It failed too often; nothing more is done by itself."""
ENGINE_OUTSIDE_RANGE = "engine-outside-range"
"""Its version is none that the network runs the model with; it does not serve."""
ENGINE_RECOVERED = "engine-recovered"
"""It serves again after an alert."""

AlertHook = Callable[[str, str], None]
"""Called with the kind, one of those above, and a message of one line. Must neither block nor raise."""


def no_alerts(_kind: str, _message: str) -> None:
    """Tell nobody: the log has it all the same."""
