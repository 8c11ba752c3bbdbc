"""What the daemon does with models for its operator: the control socket's model methods over the model manager."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from node.control.jsonrpc import ErrorCode, RpcError
from node.control.model_methods import (
    ModelAuditParams,
    ModelDownloadParams,
    ModelExportParams,
    ModelListParams,
    ModelParams,
    ModelPinParams,
)
from node.control.model_views import (
    AuditEntryView,
    AuditView,
    LocalModelsView,
    LocalModelView,
    ModelExportView,
    ModelFilesView,
    ModelProgressView,
    ModelRemovedView,
    ModelVerifiedView,
    ModelVerifyProgress,
)
from node.models.identity import BadNameError, parse_model_id
from node.models.manager import ManagerRefusedError, ModelManager
from node.models.presenting import files_facts, model_facts, parse_request, progress_facts
from node.models.progress import Progress
from node.models.registry import ModelEntry, ModelQuery, UnknownModelError
from node.models.states import ModelStatus, ModelType

PROGRESS_SECONDS = 0.25
"""Between two words about a download."""
MODELS_SHOWN_MAX = 500
"""An answer over the control socket is at most a mebibyte."""
OPERATOR = "operator"
"""In the audit log: whoever can open the control socket."""


class DaemonModelOperations:
    """Implements node.control.model_methods.ModelOperations."""

    def __init__(self, manager: ModelManager, bytes_max: int) -> None:
        self._manager = manager
        self._bytes_max = bytes_max

    async def list_models(self, params: ModelListParams) -> LocalModelsView:
        """Return the models."""
        with _telling():
            query = ModelQuery(
                model_type=None if params.model_type is None else ModelType(params.model_type),
                status=None if params.status is None else ModelStatus(params.status),
                text=params.text,
            )
        return LocalModelsView(
            models=[_model(self._manager, entry) for entry in self._manager.registry.query(query)][:MODELS_SHOWN_MAX],
            bytes_held=sum(model.size_bytes for model in self._manager.held()),
            bytes_max=self._bytes_max,
        )

    async def show(self, params: ModelParams) -> LocalModelView:
        """Return one model."""
        with _telling():
            return _model(self._manager, self._manager.registry.get(parse_model_id(params.model_id)))

    async def files(self, params: ModelParams) -> ModelFilesView:
        """Return a model's files."""
        with _telling():
            entry = self._manager.registry.get(parse_model_id(params.model_id))
            return ModelFilesView.model_validate(files_facts(self._manager, entry))

    async def progress(self, params: ModelParams) -> ModelProgressView:
        """Return how far a model is."""
        with _telling():
            return _progress(self._manager.progress(parse_model_id(params.model_id)))

    async def download(
        self, params: ModelDownloadParams, emit: Callable[[ModelProgressView], Awaitable[None]]
    ) -> ModelProgressView:
        """Download a model; leaving does not cancel it."""
        with _telling():
            entry = self._manager.download(parse_request(params.request), OPERATOR)
        last = _progress(self._manager.progress(entry.model_id))
        if not params.wait:
            return last
        with _telling():
            async for progress in self._manager.watch(entry.model_id, PROGRESS_SECONDS):
                now = _progress(progress)
                if now != last:
                    await emit(now)
                last = now
        if last.status != ModelStatus.AVAILABLE.value:
            raise RpcError(
                ErrorCode.UNAVAILABLE,
                f"{last.model_id} is not available: {last.message}",
                "What came of it is kept for seven days: ask again to go on.",
            )
        return last

    async def cancel(self, params: ModelParams) -> ModelProgressView:
        """Cancel a download."""
        with _telling():
            model_id = parse_model_id(params.model_id)
            self._manager.cancel(model_id, OPERATOR)
            async for progress in self._manager.watch(model_id, PROGRESS_SECONDS):
                last = progress
            return _progress(last)

    async def remove(self, params: ModelParams) -> ModelRemovedView:
        """Remove a model."""
        with _telling():
            model_id = parse_model_id(params.model_id)
            await self._manager.remove(model_id, OPERATOR)
            return ModelRemovedView(model_id=model_id)

    async def pin(self, params: ModelPinParams) -> LocalModelView:
        """Keep a model from eviction, or no longer."""
        with _telling():
            entry = self._manager.pin(parse_model_id(params.model_id), OPERATOR, pinned=params.pinned)
            return _model(self._manager, entry)

    async def verify(
        self, params: ModelParams, emit: Callable[[ModelVerifyProgress], Awaitable[None]]
    ) -> ModelVerifiedView:
        """Read all bytes of a model and compare."""
        with _telling():
            model_id = parse_model_id(params.model_id)
            total, read = self._manager.registry.get(model_id).size_bytes, 0

            def advance(count: int) -> None:  # called in a thread
                nonlocal read
                read += count

            async def tell() -> None:
                while True:
                    await trio.sleep(PROGRESS_SECONDS)
                    await emit(ModelVerifyProgress(bytes_done=read, bytes_total=total))

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(tell)
                    faults = await self._manager.verify(model_id, OPERATOR, advance)
                    nursery.cancel_scope.cancel()
            except* (ManagerRefusedError, UnknownModelError) as group:
                error = group.exceptions[0]
            else:
                return ModelVerifiedView(model_id=model_id, faults=faults)
            raise error

    async def export(self, _params: ModelExportParams) -> ModelExportView:
        """Return the registry."""
        return ModelExportView(json_text=self._manager.export(OPERATOR))

    async def audit(self, params: ModelAuditParams) -> AuditView:
        """Return the audit log."""
        with _telling():
            wanted = None if params.model_id is None else parse_model_id(params.model_id)
            return AuditView(
                entries=[
                    AuditEntryView(
                        at=row.at, actor=row.actor, action=row.action, model_id=row.model_id, detail=row.detail
                    )
                    for row in self._manager.audit.newest(limit=params.limit, model_id=wanted)
                ]
            )


def _model(manager: ModelManager, entry: ModelEntry) -> LocalModelView:
    return LocalModelView.model_validate(model_facts(manager, entry))


def _progress(progress: Progress) -> ModelProgressView:
    return ModelProgressView.model_validate(progress_facts(progress))


@contextmanager
def _telling() -> Iterator[None]:
    """Tell the operator of what he can act on."""
    try:
        yield
    except UnknownModelError as error:
        raise RpcError(ErrorCode.REFUSED, str(error), "See `quern model list`.") from error
    except ManagerRefusedError as error:
        raise RpcError(ErrorCode.REFUSED, str(error), error.remedy) from error
    except (BadNameError, ValueError) as error:
        raise RpcError(ErrorCode.INVALID_PARAMS, str(error)) from error
