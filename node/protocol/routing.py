"""Who serves a request: weighted rendezvous hashing over an epoch group, in integers.

Each node draws a lot (lots.py) by the hash of (request, node), weighted by its throughput and its participant's score.
So a node is first with probability in proportion to them, and when a node leaves, only its requests move.
"""

from dataclasses import dataclass

from node.protocol.findings import SCORE_FULL
from node.protocol.identifiers import Address, ModelId, NodeId, PeerId, RequestId
from node.protocol.lots import lot
from node.protocol.records import EpochGroup


@dataclass(frozen=True, slots=True)
class ExecutorChoice:
    """A node that may serve a request."""

    participant: Address
    peer_id: PeerId
    node_id: NodeId


def rank_executors(request_id: RequestId, group: EpochGroup, model_id: ModelId) -> tuple[ExecutorChoice, ...]:
    """Return all nodes of the group that serve `model_id`, best first. Nodes without throughput are left out."""
    scored = []
    for member in group.members:
        for node in member.ml_nodes:
            if node.model_id != model_id or node.throughput <= 0:
                continue
            identity = f"{member.participant.lower()}/{node.node_id}".encode()
            choice = ExecutorChoice(member.participant, member.peer_id, node.node_id)
            # Half of a node's share of requests goes with its proved throughput, half with its participant's score.
            share = max(1, node.throughput * (SCORE_FULL + member.score) // (2 * SCORE_FULL))
            scored.append((lot(request_id, identity, share), identity, choice))
    return tuple(choice for _, _, choice in sorted(scored, key=lambda item: item[:2]))
