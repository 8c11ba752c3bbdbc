"""The control socket's methods about models on this machine: their parameters, checked, and what each calls."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from node.control.methods import Emit, Method, Params
from node.control.model_views import (
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
from node.control.views import View

ModelIdText = Annotated[str, Field(min_length=1, max_length=200)]


class ModelListParams(Params):
    """Which models; what is absent does not matter."""

    model_type: str | None = Field(default=None, max_length=40)
    status: str | None = Field(default=None, max_length=40)
    text: str | None = Field(default=None, max_length=200)
    """Part of the id."""


class ModelParams(Params):
    """One model."""

    model_id: ModelIdText


class ModelDownloadParams(Params):
    """A model to download."""

    request: dict[str, Any]
    """As `node.models.requests` has it, which checks it."""
    wait: bool = True
    """Tell of the progress until it ends; otherwise the answer is how it stands now."""


class ModelPinParams(ModelParams):
    """A model to keep, or no longer."""

    pinned: bool


class ModelAuditParams(Params):
    """Which part of the audit log."""

    limit: int = Field(default=50, ge=1, le=1000)
    model_id: ModelIdText | None = None


class ModelExportParams(Params):
    """The registry as a file's content."""

    form: Literal["json"] = "json"


class ModelOperations(Protocol):
    """What the daemon does with models for its operator. Methods raise RpcError for what can be acted on."""

    async def list_models(self, params: ModelListParams) -> LocalModelsView:
        """Return the models."""

    async def show(self, params: ModelParams) -> LocalModelView:
        """Return one model."""

    async def files(self, params: ModelParams) -> ModelFilesView:
        """Return a model's files."""

    async def progress(self, params: ModelParams) -> ModelProgressView:
        """Return how far a model is."""

    async def download(
        self, params: ModelDownloadParams, emit: Callable[[ModelProgressView], Awaitable[None]]
    ) -> ModelProgressView:
        """Download a model; `emit` is called as it goes on."""

    async def cancel(self, params: ModelParams) -> ModelProgressView:
        """Cancel a download."""

    async def remove(self, params: ModelParams) -> ModelRemovedView:
        """Remove a model."""

    async def pin(self, params: ModelPinParams) -> LocalModelView:
        """Keep a model from eviction, or no longer."""

    async def verify(
        self, params: ModelParams, emit: Callable[[ModelVerifyProgress], Awaitable[None]]
    ) -> ModelVerifiedView:
        """Read all bytes of a model and compare."""

    async def export(self, params: ModelExportParams) -> ModelExportView:
        """Return the registry."""

    async def audit(self, params: ModelAuditParams) -> AuditView:
        """Return the audit log."""


def model_method_table(operations: ModelOperations) -> dict[str, Method]:
    """Return all methods by name."""

    def quiet(params: type[Params], run: Callable[[Any], Awaitable[View]]) -> Method:
        async def call(given: Params, _emit: Emit) -> View:
            return await run(given)

        return Method(params, call)

    return {
        "model_list": quiet(ModelListParams, operations.list_models),
        "model_show": quiet(ModelParams, operations.show),
        "model_files": quiet(ModelParams, operations.files),
        "model_status": quiet(ModelParams, operations.progress),
        "model_download": Method(ModelDownloadParams, operations.download),
        "model_cancel": quiet(ModelParams, operations.cancel),
        "model_remove": quiet(ModelParams, operations.remove),
        "model_pin": quiet(ModelPinParams, operations.pin),
        "model_verify": Method(ModelParams, operations.verify),
        "model_export": quiet(ModelExportParams, operations.export),
        "model_audit": quiet(ModelAuditParams, operations.audit),
    }
