"""Warns of what stays wrong: once, and again only if the reason changes."""

import structlog

log = structlog.get_logger(__name__)


class Complaints:
    """What was warned of. Whoever complains of things of bounded number forgets them when they are over."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def complain(self, about: str, what: str, reason: str) -> None:
        """Warn once as long as the reason is the same."""
        if self._reasons.get(about) != reason:
            self._reasons[about] = reason
            log.warning(what, about=about, reason=reason)

    def forget(self, about: str) -> None:
        """Note that it is over."""
        self._reasons.pop(about, None)
