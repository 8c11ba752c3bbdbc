"""Who serves a request: weighted rendezvous hashing over an epoch group, in integers.

Each node draws the score -log2(u) / throughput with u uniform from the hash of (request, node); the smallest wins. So a
node is first with probability in proportion to its throughput, and when a node leaves, only its requests move.
"""

import hashlib
from dataclasses import dataclass

from node.protocol.identifiers import Address, ModelId, NodeId, PeerId, RequestId
from node.protocol.records import EpochGroup

LOGARITHM_FRACTION_BITS = 32
"""-log2(u) is exact to 2^-32. The best of n equal nodes scores about 1/n, so even among 10,000 nodes the error changes
fewer than one choice in 100,000; what matters is that every node makes the same one."""
UNIFORM_BITS = 64


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
            uniform = int.from_bytes(hashlib.sha256(request_id + identity).digest()[: UNIFORM_BITS // 8])
            choice = ExecutorChoice(member.participant, member.peer_id, node.node_id)
            scored.append(((negative_log2(uniform) << UNIFORM_BITS) // node.throughput, identity, choice))
    return tuple(choice for _, _, choice in sorted(scored, key=lambda item: item[:2]))


def negative_log2(uniform: int) -> int:
    """Return -log2((uniform + 1) / 2^64) as a fixed-point integer, by repeated squaring of the mantissa."""
    value = uniform + 1
    exponent = value.bit_length() - 1
    mantissa = value << (UNIFORM_BITS - exponent)  # in [2^64, 2^65): 1.x as fixed point
    fraction = 0
    for _ in range(LOGARITHM_FRACTION_BITS):
        mantissa = mantissa * mantissa >> UNIFORM_BITS
        fraction <<= 1
        if mantissa >> (UNIFORM_BITS + 1):
            mantissa >>= 1
            fraction |= 1
    return (UNIFORM_BITS << LOGARITHM_FRACTION_BITS) - ((exponent << LOGARITHM_FRACTION_BITS) | fraction)
