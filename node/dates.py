"""UNIX seconds as people read them, whatever a contract's 64 bits hold."""

import time


def date_in_words(seconds: int) -> str:
    """Return `2026-11-21 09:00:00 UTC`, or the number itself where no calendar reaches."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"UNIX second {seconds}"
