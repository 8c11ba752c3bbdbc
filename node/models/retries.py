"""When a download that failed is tried again. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a download is."""

    tries_max: int = 6
    """Tries in a row that bring next to nothing; with the pauses half a minute. Longer outages are the operator's."""
    pause_seconds_min: float = 1.0
    pause_seconds_max: float = 60.0
    """Pauses double up to this."""
    progress_bytes_min: int = 1024 * 1024
    """A try that brought so much counts as the first again: a large model may be cut off often. Far less would let a
    server that sends a byte at a time keep a download for ever."""


def pause_before_retry(policy: RetryPolicy, fruitless_tries: int) -> float | None:
    """Return the seconds to wait after so many fruitless tries in a row (1 or more), or None to give up."""
    if fruitless_tries >= policy.tries_max:
        return None
    return min(policy.pause_seconds_min * 2.0 ** (fruitless_tries - 1), policy.pause_seconds_max)
