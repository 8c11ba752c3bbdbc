"""Which ML nodes an executor may name in its receipts: those that it has.

Purpose: evidence adds up by node. If any name would do, each answer could be a new node's, and nothing would ever add
up; and results, which remember nodes, would grow with every name. So a name counts if the group in charge has it frozen
for the executor, or the chain has it registered: what was registered after the group was frozen serves too. All
others are one node, which has no name.
"""

from collections.abc import Callable

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, NodeId
from node.protocol.records import EpochGroup

UNNAMED = NodeId("")
"""In a receipt: a node that the chain does not know (yet). In a result: all nodes of an executor that it does not have.
No node is registered under it."""

HasNode = Callable[[Address, NodeId], bool]


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


def known_nodes(group: EpochGroup | None, *states: ChainState) -> HasNode:
    """Return what tells whether an executor has a node, in the group or in one of the states: to be asked often, so
    that the group is looked through once."""
    members = () if group is None else group.members
    frozen = {(member.participant, node.node_id) for member in members for node in member.ml_nodes}

    def found(executor: Address, node_id: NodeId) -> bool:
        is_frozen = (executor, node_id) in frozen
        return is_frozen or any(is_registered_node(state, executor, node_id) for state in states)

    return found
