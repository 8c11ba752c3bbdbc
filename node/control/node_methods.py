"""The control socket's methods about ML nodes: their parameters, checked, and what each calls."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from pydantic import Field

from node.control.methods import Emit, Method, NoParams, Params
from node.control.node_views import NodesView, NodeView
from node.control.views import View


class NodeParams(Params):
    """Which ML node."""

    node_id: str = Field(min_length=1, max_length=32)


class NodeOperations(Protocol):
    """What the daemon tells of and does with its ML nodes. Methods raise RpcError for what can be acted on."""

    async def nodes(self) -> NodesView:
        """Return all ML nodes."""

    async def drain(self, params: NodeParams) -> NodeView:
        """Have a node finish what runs and serve nothing more; returns at once."""

    async def resume(self, params: NodeParams) -> NodeView:
        """Have a drained node serve again."""

    async def restart(self, params: NodeParams) -> NodeView:
        """End a node's server and start it anew; also one that was given up."""


def node_method_table(operations: NodeOperations) -> dict[str, Method]:
    """Return all methods by name."""

    async def nodes(_params: NoParams, _emit: Emit) -> View:
        return await operations.nodes()

    def of_node(run: Callable[[NodeParams], Awaitable[NodeView]]) -> Method:
        async def call(params: NodeParams, _emit: Emit) -> View:
            return await run(params)

        return Method(NodeParams, call)

    return {
        "nodes": Method(NoParams, nodes),
        "node_drain": of_node(operations.drain),
        "node_resume": of_node(operations.resume),
        "node_restart": of_node(operations.restart),
    }
