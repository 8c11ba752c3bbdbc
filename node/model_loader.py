"""Brings the models that the settings name onto this machine and into their engines, and keeps them current."""

from collections.abc import Sequence

import structlog

from node.engine.adapter import EngineNode
from node.engine.arguments import EngineArgumentsError
from node.models.library import ModelLibrary
from node.models.validation import ModelInvalidError
from node.ports import Chain
from node.protocol.identifiers import Cid, ModelId

log = structlog.get_logger(__name__)


class ModelLoader:
    """Loads one model into one engine."""

    def __init__(self, chain: Chain, library: ModelLibrary, engine: EngineNode, model_id: ModelId) -> None:
        self._chain = chain
        self._library = library
        self._engine = engine
        self._model_id = model_id
        self._loaded: Cid | None = None
        self._refused: set[Cid] = set()

    async def run(self) -> None:
        """Load the model when it is registered, and every new version of it."""
        async for _ in self._chain.heads():
            model = self._chain.state.models.get(self._model_id)
            if model is None or not model.active or model.cid == self._loaded or model.cid in self._refused:
                continue
            try:
                path = await self._library.ensure(model)
                self._engine.load(model, path)
            except (ModelInvalidError, EngineArgumentsError) as error:
                if isinstance(error, EngineArgumentsError):
                    self._library.release(model.cid)  # it is here, and will not be loaded
                log.error("the registry's model is not loaded", model=self._model_id, cid=model.cid, reason=str(error))
                self._refused.add(model.cid)
            else:
                if self._loaded is not None:
                    self._library.release(self._loaded)
                self._loaded = model.cid


def loaded_models(engines: Sequence[EngineNode]) -> list[ModelId]:
    """Return the models that are ready to serve."""
    return sorted({engine.model_id for engine in engines if engine.model_id is not None})
