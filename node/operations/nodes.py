"""What the daemon tells of and does with its ML nodes for its operator."""

from collections.abc import Mapping, Sequence

import structlog

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.node_methods import NodeParams
from node.control.node_views import NodesView, NodeView
from node.engine.adapter import EngineNode
from node.ports import Chain
from node.protocol.identifiers import NodeId
from node.settings.sections.engines import EngineSettings

log = structlog.get_logger(__name__)


class DaemonNodeOperations:
    """Implements node.control.node_methods.NodeOperations."""

    def __init__(self, chain: Chain, engines: Sequence[EngineNode], settings: Sequence[EngineSettings]) -> None:
        self._chain = chain
        self._engines: Mapping[str, EngineNode] = {engine.node_id: engine for engine in engines}
        self._models = {wanted.node_id: wanted.model_id for wanted in settings}

    async def nodes(self) -> NodesView:
        """All ML nodes."""
        return NodesView(nodes=[self._view(engine) for engine in self._engines.values()])

    async def drain(self, params: NodeParams) -> NodeView:
        """Drain a node."""
        engine = self._find(params)
        log.info("the operator drains an ML node", node=engine.node_id)
        engine.hold()
        return self._view(engine)

    async def resume(self, params: NodeParams) -> NodeView:
        """Have a drained node serve again."""
        engine = self._find(params)
        log.info("the operator has an ML node serve again", node=engine.node_id)
        engine.release()
        return self._view(engine)

    async def restart(self, params: NodeParams) -> NodeView:
        """Start a node's server anew."""
        engine = self._find(params)
        log.info("the operator restarts an ML node", node=engine.node_id)
        await engine.restart()
        return self._view(engine)

    def _find(self, params: NodeParams) -> EngineNode:
        engine = self._engines.get(params.node_id)
        if engine is None:
            known = ", ".join(sorted(self._engines)) or "none"
            raise RpcError(ErrorCode.REFUSED, f"there is no ML node {params.node_id} here", f"ML nodes: {known}.")
        return engine

    def _view(self, engine: EngineNode) -> NodeView:
        status = engine.status()
        return NodeView(
            node_id=status.node_id,
            state=status.state.value,
            state_seconds=round(status.state_seconds),
            model_id=self._models[status.node_id],
            place=status.place,
            engine=status.engine,
            hardware=self._hardware(status.node_id),
            phase=status.phase,
            running_requests=status.running_requests,
            restarts=status.restarts,
            last_error=status.last_error,
            given_up=status.given_up,
            drained=status.held,
            why_not_drawn=status.why_not_drawn,
            caution=status.caution,
            remedy=status.remedy,
        )

    def _hardware(self, node_id: NodeId) -> str:
        participant = self._chain.state.participants.get(self._chain.account)
        registered = () if participant is None else participant.ml_nodes
        return next((node.hardware for node in registered if node.node_id == node_id), "")
