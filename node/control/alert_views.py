"""What the daemon answers about alerts over the control socket."""

from node.control.views import View


class AlertView(View):
    """Some trouble there is now."""

    kind: str
    severity: str
    subject: str
    message: str
    remedy: str
    since: int
    """UNIX seconds."""


class AlertsView(View):
    """All trouble there is now, and how telling it goes."""

    alerts: list[AlertView]
    webhook: str | None
    """The server that is told; None if there is none. Its URL is not shown, for it is often a secret."""
    kinds: list[str]
    """What the webhook is told of."""
    delivered: int
    failed: int
    """Notices that were given up, since the daemon's start."""
    dropped: int
    """Notices that found the queue full."""


class AlertTestView(View):
    """How a test notice fared."""

    webhook: str
    delivered: bool
    reason: str
    """Why it did not arrive; empty if it did."""
