"""How an executor says that it is too busy, and when to come again: one code, one form of words, read back strictly."""

import math
import re

from node.ports import CallFailedError

BUSY = "busy"
"""The code of all refusals for want of room; the network layer uses it too, without a time."""
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 60.0
"""Nobody is sent away for longer: loads change, and so might what a liar says."""
_FORM = re.compile(r"retry-after-ms=([1-9][0-9]{0,8})(?:; |$)")


def busy_error(retry_after_seconds: float, reason: str) -> CallFailedError:
    """Return the refusal of a call for which there may be room in `retry_after_seconds`."""
    seconds = min(max(retry_after_seconds, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX)
    return CallFailedError(BUSY, f"retry-after-ms={math.ceil(1000 * seconds)}; {reason}")


def retry_after_seconds(error: CallFailedError) -> float | None:
    """Return when a `busy` peer says that it may have room, within the limits above; None if it does not say."""
    found = _FORM.match(error.message) if error.code == BUSY else None
    if found is None:
        return None
    return min(max(int(found[1]) / 1000, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX)
