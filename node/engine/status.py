"""An ML node as its operator sees it, with what to do."""

from dataclasses import dataclass

from node.engine.states import READY_STATES, NodeState
from node.protocol.identifiers import ModelId, NodeId


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """How an ML node is."""

    node_id: NodeId
    state: NodeState
    state_seconds: float
    """How long it has been in this state."""
    model_id: ModelId | None
    """What it is to serve; None while that is not there yet."""
    place: str
    """Where its server is; empty for this machine."""
    engine: str
    """Engine and version, as far as known."""
    phase: str
    """How far a start has come; empty otherwise."""
    running_requests: int
    restarts: int
    """Since the daemon's start."""
    last_error: str
    """Of the newest failure since the daemon's start; empty if there was none."""
    outside: str
    """Why the engine's version is outside the network's range; empty if it is not known to be."""
    given_up: bool
    held: bool
    """Drained by the operator."""
    no_model: str = ""
    """Why it was given no model; empty if it was."""
    caution: str = ""
    """What its server lacks although it serves; empty if nothing."""

    @property
    def why_not_drawn(self) -> str:
        """Why the network does not draw this node now, as far as it can tell itself; empty if nothing is wrong."""
        if self.outside:
            return self.outside
        if self.held:
            return "its operator drains it"
        if self.model_id is None:
            return self.no_model
        return "" if self.state in READY_STATES else f"it is {self.state}"

    @property
    def remedy(self) -> str:
        """What to do; empty if nothing."""
        if self.held:
            return f"quern nodes resume {self.node_id}"
        if self.outside:
            return "install a version of vLLM within the range, or ask the model's owner to allow this one"
        if self.given_up:
            return f"mend the cause, then: quern nodes restart {self.node_id}"
        if self.state is not NodeState.FAILED:
            return ""
        if self.place:
            return f"is the server at {self.place} running? It is asked again by itself"
        return f"it is started again by itself; see logs/engine-{self.node_id}.log"
