"""What an ML node does next: one pure function of how it is and what is wanted of it.

The rules are few and in order of importance. `node.engine.adapter` carries out what they say, one action at a time, and
asks again; what an action leads to is in STATE_AFTER, so that tests can follow every path without an engine.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

from node.engine.states import NodeState
from node.protocol.identifiers import Cid, ModelId


@dataclass(frozen=True, slots=True)
class Choice:
    """What a server runs: one version of a model with its arguments. Another of these needs another server."""

    model_id: ModelId
    cid: Cid
    arguments: tuple[str, ...]
    """vLLM's, those of the epoch or registry and the operator's merged."""
    engine: str = ""
    """Engine and versions that the network allows, as in node.protocol.engines; empty for the protocol's own."""
    path: Path = field(default=Path(), compare=False)
    """Where the files lie on this machine."""
    context_length: int = field(default=0, compare=False)
    """Tokens, prompt and output together."""


@dataclass(frozen=True, slots=True)
class NodeWishes:
    """What is wanted of an ML node."""

    model: Choice | None = None
    """What to serve now."""
    next_model: Choice | None = None
    """What to have ready beside it, for the next epoch. Only where there is memory for both."""
    mining: bool = False
    """Nonces are to be computed now."""
    held: bool = False
    """Serve nothing, whatever the model: the operator drains the node, or the daemon stops."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """How an ML node is. Times are seconds of one clock."""

    state: NodeState
    now: float
    current: Choice | None = None
    """What the server runs that loads, serves or drains; of a failed node, what failed."""
    standby: Choice | None = None
    """What a second server has loaded or loads."""
    standby_ready: bool = False
    standby_retry_at: float = 0.0
    """When a second server that failed is tried again."""
    retiring: bool = False
    """A server that was replaced still finishes its requests: there is no memory for another."""
    running_requests: int = 0
    drain_until: float = 0.0
    """When requests that still run are cut off. Of a draining node only."""
    retry_at: float = 0.0
    """When a failed node is tried again."""
    given_up: bool = False
    """It failed too often: only the operator, or another choice, brings it back."""


@dataclass(frozen=True, slots=True)
class Load:
    """Start a server."""

    choice: Choice


@dataclass(frozen=True, slots=True)
class LoadBeside:
    """Start a second server beside the one that serves."""

    choice: Choice


@dataclass(frozen=True, slots=True)
class Promote:
    """Take new work with the second server; the first ends when its requests have."""


@dataclass(frozen=True, slots=True)
class DropStandby:
    """End the second server: nobody wants it any more."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take nothing new."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Take work again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the server."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Stop trying: nothing is wanted any more."""


@dataclass(frozen=True, slots=True)
class BeginMining:
    """Nonces are computed from now on."""


@dataclass(frozen=True, slots=True)
class EndMining:
    """No more nonces."""


Action = Load | LoadBeside | Promote | DropStandby | Drain | Resume | Stop | Settle | BeginMining | EndMining

STATE_AFTER: dict[type[Action], NodeState] = {
    Load: NodeState.LOADING,
    Promote: NodeState.SERVING,
    Drain: NodeState.DRAINING,
    Resume: NodeState.SERVING,
    Stop: NodeState.STOPPED,
    Settle: NodeState.STOPPED,
    BeginMining: NodeState.MINING,
    EndMining: NodeState.SERVING,
}
"""The state right after each action, which may be the present one; those not named leave it as it is."""


def plan(facts: NodeFacts, wishes: NodeWishes) -> Action | None:
    """Return the next action, or None if there is nothing to do before something changes or `wake_at`."""
    wanted = None if wishes.held else wishes.model
    coming = None if wishes.held else wishes.next_model
    current = None if facts.state in (NodeState.STOPPED, NodeState.FAILED) else facts.current
    if facts.standby is not None and (facts.standby not in (wanted, coming) or facts.standby == current):
        return DropStandby()
    if facts.state is NodeState.LOADING:
        return None if current == wanted else Stop()
    if wanted is not None and facts.standby == wanted:
        return Promote() if facts.standby_ready else None  # the old one serves until the new one can
    match facts.state:
        case NodeState.STOPPED:
            return None if wanted is None else Load(wanted)
        case NodeState.FAILED:
            return _after_failure(facts, wanted)
        case NodeState.DRAINING:
            if current == wanted:
                return Resume()
            return Stop() if facts.running_requests == 0 or facts.now >= facts.drain_until else None
        case _:
            return _while_ready(facts, wishes, wanted, coming)


def wake_at(facts: NodeFacts) -> float:
    """Return when to plan again though nothing changed; infinite if never."""
    times = [facts.standby_retry_at]
    if facts.state is NodeState.DRAINING:
        times.append(facts.drain_until)
    if facts.state is NodeState.FAILED and not facts.given_up:
        times.append(facts.retry_at)
    return min((time for time in times if time > facts.now), default=math.inf)


def _while_ready(facts: NodeFacts, wishes: NodeWishes, wanted: Choice | None, coming: Choice | None) -> Action | None:
    if facts.current != wanted:
        return Drain()
    if coming is not None and coming != wanted and _has_room(facts):
        return LoadBeside(coming)
    if wishes.mining != (facts.state is NodeState.MINING):
        return BeginMining() if wishes.mining else EndMining()
    return None


def _has_room(facts: NodeFacts) -> bool:
    return facts.standby is None and not facts.retiring and facts.now >= facts.standby_retry_at


def _after_failure(facts: NodeFacts, wanted: Choice | None) -> Action | None:
    if wanted is None:
        return Settle()
    if facts.current != wanted:
        return Load(wanted)  # another choice may well work
    return None if facts.given_up or facts.now < facts.retry_at else Load(wanted)
