"""Which ML nodes an executor may name in its receipts: those that it has.

Purpose: an answer is held against the band of the hardware that its node registered. So a name counts if the group in
charge has it frozen for the executor, or the chain has it registered: what was registered after the group was frozen
serves too. All other names say as much as none: nobody knows what hardware it is.
"""

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, NodeId
from node.protocol.records import EpochGroup

UNNAMED = NodeId("")
"""In a receipt: a node that the chain does not know (yet). No node is registered under it."""


def is_frozen_node(group: EpochGroup, executor: Address, node_id: NodeId) -> bool:
    """Whether a group has `executor` as a member with that node."""
    member = next((member for member in group.members if member.participant == executor), None)
    return member is not None and any(node.node_id == node_id for node in member.ml_nodes)


def is_registered_node(state: ChainState, executor: Address, node_id: NodeId) -> bool:
    """Whether the chain has that node registered for `executor`."""
    participant = state.participants.get(executor)
    return participant is not None and any(node.node_id == node_id for node in participant.ml_nodes)


def has_node(group: EpochGroup | None, state: ChainState, executor: Address, node_id: NodeId) -> bool:
    """Whether an executor has a node, in the group or in the state."""
    is_frozen = group is not None and is_frozen_node(group, executor, node_id)
    return is_frozen or is_registered_node(state, executor, node_id)
