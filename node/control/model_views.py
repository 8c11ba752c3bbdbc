"""What the daemon answers about models on this machine over the control socket. Times are UNIX seconds."""

from node.control.views import View


class LocalModelView(View):
    """A model on this machine."""

    model_id: str
    model_type: str
    status: str
    version: str
    size_bytes: int
    path: str
    download_date: int | None
    last_used_at: int
    pinned: bool
    loaded: bool
    reason: str
    """Why it is in error; empty otherwise."""
    metadata: dict[str, str | int | bool]


class LocalModelsView(View):
    """Models on this machine, by id."""

    models: list[LocalModelView]
    bytes_held: int
    bytes_max: int
    """0: no limit."""


class ModelFileView(View):
    """A file of a model."""

    path: str
    size_bytes: int
    sha256: str | None
    """None where a CID vouches for the bytes."""


class ModelFilesView(View):
    """The files of a model."""

    model_id: str
    path: str
    """Directory that holds them."""
    files: list[ModelFileView]


class ModelProgressView(View):
    """How far a download is."""

    model_id: str
    status: str
    bytes_done: int
    bytes_total: int
    """0 while it is not known."""
    files_done: int
    files_total: int
    bytes_per_second: int
    tries: int
    message: str


class ModelVerifiedView(View):
    """A model all of whose bytes were read."""

    model_id: str
    faults: list[str]
    """Empty if it is whole."""


class ModelVerifyProgress(View):
    """How far a verification is."""

    bytes_done: int
    bytes_total: int


class ModelRemovedView(View):
    """A model that is gone."""

    model_id: str


class ModelExportView(View):
    """The registry."""

    json_text: str


class AuditEntryView(View):
    """Who did what to which model, and when."""

    at: int
    actor: str
    action: str
    model_id: str
    detail: str


class AuditView(View):
    """The newest entries of the audit log, newest first."""

    entries: list[AuditEntryView]
