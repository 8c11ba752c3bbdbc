"""The states of an ML node and the steps between them that are allowed."""

from collections.abc import Mapping
from enum import StrEnum


class NodeState(StrEnum):
    """How an ML node is. The values are what operators read."""

    STOPPED = "stopped"
    """No server runs and none is wanted."""
    LOADING = "loading"
    """A server starts, or a remote one is being looked at."""
    SERVING = "serving"
    """A model is ready: it gave a real token."""
    MINING = "mining"
    """As serving, while nonces are computed; users' requests still run first."""
    DRAINING = "draining"
    """What runs is finished; nothing new is taken."""
    FAILED = "failed"
    """The server died, wedged or did not start. It is started again after a pause, unless it was given up."""


READY_STATES = frozenset({NodeState.SERVING, NodeState.MINING})
"""The states in which new work is taken."""

NEXT_STATES: Mapping[NodeState, frozenset[NodeState]] = {
    NodeState.STOPPED: frozenset({NodeState.LOADING, NodeState.SERVING}),
    NodeState.LOADING: frozenset({NodeState.SERVING, NodeState.FAILED, NodeState.STOPPED}),
    NodeState.SERVING: frozenset({NodeState.MINING, NodeState.DRAINING, NodeState.FAILED}),
    NodeState.MINING: frozenset({NodeState.SERVING, NodeState.DRAINING, NodeState.FAILED}),
    NodeState.DRAINING: frozenset({NodeState.SERVING, NodeState.STOPPED, NodeState.FAILED}),
    NodeState.FAILED: frozenset({NodeState.LOADING, NodeState.SERVING, NodeState.STOPPED}),
}
"""From each state those that may follow. A server that served is never stopped without draining, but by its failure.
To serving without loading leads a second server, loaded beside, that takes over."""


class IllegalStepError(Exception):
    """A step that NEXT_STATES does not have: a fault of this program."""


def step(state: NodeState, following: NodeState) -> NodeState:
    """Return `following`; raise IllegalStepError if it may not follow `state`."""
    if following not in NEXT_STATES[state]:
        raise IllegalStepError(f"an ML node cannot go from {state} to {following}")
    return following
