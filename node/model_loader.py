"""Brings the models that ML nodes are to run onto this machine and into their engines, and keeps them current."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog
import trio

from node.engine.adapter import EngineNode
from node.engine.arguments import EngineArgumentsError
from node.models.library import ModelLibrary
from node.models.validation import ModelInvalidError
from node.models.vault import KeyUnavailableError, ModelVault
from node.node_assignments import NodeAssignment, server_key
from node.ports import Chain
from node.protocol.identifiers import Cid, ModelId
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

KEY_RETRY_SECONDS = 15.0
"""How often the chain is asked for a key that is not there yet: an owner deposits it when it sees the request."""

ServerKey = tuple[Cid, tuple[str, ...], int]


class ModelLoader:
    """Keeps one engine at its assignment; by default what the registry has of one model."""

    def __init__(
        self,
        chain: Chain,
        library: ModelLibrary,
        vault: ModelVault,
        engine: EngineNode,
        model_id: ModelId,
        assignment: Callable[[], NodeAssignment] | None = None,
    ) -> None:
        self._chain = chain
        self._library = library
        self._vault = vault
        self._engine = engine
        self._model_id = model_id
        self._assignment = assignment or self._from_registry
        self._paths: dict[Cid, Path] = {}
        """What was fetched and is held: the served version and the coming one."""
        self._loaded: ModelRecord | None = None
        self._refused: set[ServerKey] = set()

    async def run(self) -> None:
        """Load what is assigned, and every new version of it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_stages)
            async for _ in self._chain.heads():
                try:
                    await self._bring(self._assignment())
                except KeyUnavailableError as error:
                    log.warning("an encrypted model waits for its key", model=self._model_id, reason=str(error))
                    self._engine.explain(f"its encrypted model waits for its key: {error}")
                    await trio.sleep(KEY_RETRY_SECONDS)

    async def _follow_stages(self) -> None:
        """Tell the engine when nonces are computed, also while a model is fetched."""
        async for _ in self._chain.heads():
            self._engine.mine(self._assignment().mining)

    async def _bring(self, assigned: NodeAssignment) -> None:
        """Take the most urgent step towards the assignment."""
        model, coming = assigned.model, assigned.coming
        if model is None:
            if self._loaded is not None:
                log.warning("the network no longer serves this model", model=self._model_id)
                self._engine.unload()
                self._engine.explain("the network no longer serves its model")
                self._loaded = None
                await self._keep_only(None)
            return
        if self._is_new(model) and (self._loaded is None or server_key(model) != server_key(self._loaded)):
            await self._attempt(model, self._load)
            return
        if not assigned.load_coming:
            self._engine.load_next(None)
        if coming is not None and self._is_new(coming):
            await self.load_models_for_next_epoch(coming, is_ready=assigned.load_coming)

    async def load_models_for_next_epoch(self, coming: ModelRecord, *, is_ready: bool) -> None:
        """Have what comes on the disk, and beside what is served once the next epoch `is_ready`."""
        if coming.cid not in self._paths:
            await self._attempt(coming, self._fetch)
        elif is_ready:
            await self._attempt(coming, self._load_beside)

    def _is_new(self, model: ModelRecord) -> bool:
        return server_key(model) not in self._refused

    async def _attempt(self, model: ModelRecord, what: Callable[[ModelRecord], Awaitable[None]]) -> None:
        """Do something with a version; one that cannot be used is not tried again."""
        try:
            await what(model)
        except (ModelInvalidError, EngineArgumentsError) as error:
            log.error("the registry's model is not loaded", model=self._model_id, cid=model.cid, reason=str(error))
            self._engine.explain(f"its model is refused: {error}")
            self._refused.add(server_key(model))
            await self._keep_only(self._loaded)

    async def _fetch(self, model: ModelRecord) -> None:
        """Have the files of a version here, in plain."""
        if model.cid in self._paths:
            return
        if self._loaded is None:
            self._engine.explain("its model is being fetched; see quern model list")
        path = await self._library.ensure(model)
        try:
            if model.encrypted:
                path = await self._vault.open(model, path, self._engine.node_id)
        except BaseException:
            self._library.release(model.cid)  # it is here, and not loaded
            raise
        self._paths[model.cid] = path

    async def _load(self, model: ModelRecord) -> None:
        await self._fetch(model)
        self._engine.load(model, self._paths[model.cid])
        self._loaded = model
        await self._keep_only(model)

    async def _load_beside(self, model: ModelRecord) -> None:
        self._engine.load_next(model, self._paths[model.cid])

    async def _keep_only(self, model: ModelRecord | None) -> None:
        """Let go of all versions but one."""
        kept = None if model is None else model.cid
        for cid in [cid for cid in self._paths if cid != kept]:
            del self._paths[cid]
            self._library.release(cid)
        await self._vault.keep(self._engine.node_id, kept)

    def _from_registry(self) -> NodeAssignment:
        return NodeAssignment(self._chain.state.get_governance_model(self._model_id))


def loaded_models(engines: Sequence[EngineNode]) -> list[ModelId]:
    """Return the models that are ready to serve."""
    return sorted({engine.model_id for engine in engines if engine.model_id is not None})
