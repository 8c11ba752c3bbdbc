"""What the daemon answers about its ML nodes over the control socket."""

from node.control.views import View


class NodeView(View):
    """An ML node of this daemon."""

    node_id: str
    state: str
    """`stopped`, `loading`, `serving`, `mining`, `draining` or `failed`."""
    state_seconds: int
    """How long it has been in this state."""
    model_id: str
    """The model it is to serve."""
    place: str
    """Where its server is; empty for this machine."""
    engine: str
    """Engine and version, as far as known."""
    hardware: str
    """As registered on chain; empty while it is not."""
    phase: str
    """How far a start has come; empty otherwise."""
    running_requests: int
    restarts: int
    last_error: str
    given_up: bool
    """It failed too often: only a restart by the operator brings it back."""
    drained: bool
    """By the operator."""
    why_not_drawn: str
    """Why the network does not draw it now, as far as it can tell itself; empty if nothing is wrong."""
    caution: str = ""
    """What its server lacks although it serves; empty if nothing."""
    remedy: str
    """What to do; empty if nothing."""


class NodesView(View):
    """All ML nodes, in the order of the settings."""

    nodes: list[NodeView]
