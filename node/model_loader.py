"""Brings the models that the settings name onto this machine and into their engines, and keeps them current."""

from collections.abc import Sequence

import structlog
import trio

from node.engine.adapter import EngineNode
from node.engine.arguments import EngineArgumentsError
from node.models.library import ModelLibrary
from node.models.validation import ModelInvalidError
from node.models.vault import KeyUnavailableError, ModelVault
from node.ports import Chain
from node.protocol.identifiers import Cid, ModelId
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

KEY_RETRY_SECONDS = 15.0
"""How often the chain is asked for a key that is not there yet: an owner deposits it when it sees the request."""


class ModelLoader:
    """Loads one model into one engine."""

    def __init__(
        self, chain: Chain, library: ModelLibrary, vault: ModelVault, engine: EngineNode, model_id: ModelId
    ) -> None:
        self._chain = chain
        self._library = library
        self._vault = vault
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
                await self._load(model)
            except KeyUnavailableError as error:
                log.warning("an encrypted model waits for its key", model=self._model_id, reason=str(error))
                await trio.sleep(KEY_RETRY_SECONDS)
            except (ModelInvalidError, EngineArgumentsError) as error:
                log.error("the registry's model is not loaded", model=self._model_id, cid=model.cid, reason=str(error))
                self._refused.add(model.cid)
                await self._vault.keep(self._engine.node_id, self._loaded)
            else:
                if self._loaded is not None:
                    self._library.release(self._loaded)
                self._loaded = model.cid
                await self._vault.keep(self._engine.node_id, model.cid)

    async def _load(self, model: ModelRecord) -> None:
        path = await self._library.ensure(model)
        try:
            if model.encrypted:
                path = await self._vault.open(model, path, self._engine.node_id)
            self._engine.load(model, path)
        except BaseException:
            self._library.release(model.cid)  # it is here, and not loaded
            raise


def loaded_models(engines: Sequence[EngineNode]) -> list[ModelId]:
    """Return the models that are ready to serve."""
    return sorted({engine.model_id for engine in engines if engine.model_id is not None})
