"""What a receipt says of the ML node that answered: the executor names one that it has, and its payer signs no other.

*Detail.* Both sides go by their own view of the group and the registry. An engine that serves before the chain knows
its node is not named. A payer may hear of a registration some blocks after the executor did, so it waits for these.
"""

import trio

from node.ports import Chain
from node.protocol.audit_evidence import are_names_short
from node.protocol.identifiers import NodeId
from node.protocol.node_names import UNNAMED, has_node
from node.protocol.records import Receipt
from node.services.epochs import EpochBook

REGISTERED_SECONDS_MAX = 5.0
"""How far this node's view of the chain may be behind an executor's: endpoints differ by a block or two. A longer wait
would let who names nonsense hold up the ends of its answers."""


def named_node(chain: Chain, epochs: EpochBook, node_id: NodeId) -> NodeId:
    """Return what this account's receipt says of its node: the name, if others can know it."""
    return node_id if has_node(epochs.group(), chain.state, chain.account, node_id) else UNNAMED


async def is_its_node(chain: Chain, epochs: EpochBook, receipt: Receipt) -> bool:
    """Whether a receipt names a node that its executor has, or none; and has no name that votes have no room for."""
    if not are_names_short(receipt):
        return False
    if _has(chain, epochs, receipt):
        return True
    with trio.move_on_after(REGISTERED_SECONDS_MAX):
        async for _ in chain.heads():
            if _has(chain, epochs, receipt):
                return True
    return False


def _has(chain: Chain, epochs: EpochBook, receipt: Receipt) -> bool:
    named = receipt.node_id
    return named == UNNAMED or has_node(epochs.group(), chain.state, receipt.executor, named)
