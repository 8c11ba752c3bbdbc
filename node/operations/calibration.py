"""What the daemon tells `quern calibrate` of its engines: the measuring itself is the command's."""

from collections.abc import Sequence

from node.control.calibration_methods import CalibrationPlaceParams
from node.control.calibration_views import CalibrationPlaceView
from node.control.jsonrpc import ErrorCode, RpcError
from node.engine.adapter import EngineNode
from node.engine.endpoint import VLLM_API, Endpoint
from node.ports import Chain
from node.protocol.identifiers import ModelId


class DaemonCalibrationOperations:
    """Implements node.control.calibration_methods.CalibrationOperations."""

    def __init__(self, chain: Chain, engines: Sequence[EngineNode]) -> None:
        self._chain = chain
        self._engines = engines

    async def place(self, params: CalibrationPlaceParams) -> CalibrationPlaceView:
        """Return the ML node that is meant, if it has the model ready."""
        record = self._chain.state.models.get(ModelId(params.model_id))
        if record is None:
            raise RpcError(
                ErrorCode.REFUSED, f"the registry has no model {params.model_id}", "`quern models` lists those it has."
            )
        if params.node_id is not None and params.node_id not in {engine.node_id for engine in self._engines}:
            known = ", ".join(engine.node_id for engine in self._engines) or "none"
            raise RpcError(ErrorCode.REFUSED, f"there is no ML node {params.node_id} here", f"ML nodes: {known}.")
        for engine in self._engines:
            endpoint = engine.endpoint
            if engine.model_id != params.model_id or endpoint is None or endpoint.api != VLLM_API:
                continue
            if params.node_id in (None, engine.node_id):
                return self._view(engine, endpoint, record.version)
        where = "no ML node here has" if params.node_id is None else f"ML node {params.node_id} does not have"
        raise RpcError(
            ErrorCode.REFUSED,
            f"{where} {params.model_id} ready in an engine that tells log-probabilities",
            "See `quern nodes`; a model that still loads is ready in a few minutes.",
        )

    def _view(self, engine: EngineNode, endpoint: Endpoint, version: int) -> CalibrationPlaceView:
        participant = self._chain.state.participants.get(self._chain.account)
        registered = () if participant is None else participant.ml_nodes
        hardware = next((node.hardware for node in registered if node.node_id == engine.node_id), "")
        return CalibrationPlaceView(
            node_id=engine.node_id,
            model_version=version,
            endpoint=endpoint.url if endpoint.socket is None else f"unix:{endpoint.socket}",
            needs_key=bool(endpoint.api_key),
            engine=engine.status().engine,
            hardware=hardware,
            vocabulary_size=engine.vocabulary_size,
        )
