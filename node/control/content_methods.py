"""The control socket's methods about content: their parameters, checked, and what each calls."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol

from pydantic import Field

from node.control.content_views import (
    AddedView,
    ContentProgress,
    FoundView,
    GarbageView,
    ListingView,
    PinsView,
    ScrubView,
    StatView,
    UsageView,
)
from node.control.methods import Emit, Method, NoParams, Params
from node.control.views import View

ContentPath = Annotated[str, Field(min_length=1, max_length=16 * 1024)]
"""A CID, or a path below one: `<cid>/a/b`."""
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^/")]
"""An absolute path on this machine."""
PinName = Annotated[str, Field(min_length=1, max_length=256)]

CHUNK_BYTES_DEFAULT = 1024 * 1024
WIDTH_DEFAULT = 1024


class AddParams(Params):
    """Take in a file or directory."""

    path: FilePath
    chunk_bytes: int = Field(default=CHUNK_BYTES_DEFAULT, ge=1, le=2 * 1024 * 1024)
    width: int = Field(default=WIDTH_DEFAULT, ge=2, le=16_384)
    copy_files: bool = False
    """Store copies of all blocks; otherwise files are held where they are."""
    hidden: bool = False
    """Take entries whose names begin with a dot as well."""


class PathParams(Params):
    """Something by its path."""

    path: ContentPath


class FindParams(Params):
    """Something to be read."""

    path: ContentPath
    whole: bool = True
    """Fetch what is missing of it, not only the nodes on the way."""


class ListParams(Params):
    """A page of a directory."""

    path: ContentPath
    after: int = Field(default=0, ge=0)
    """Entries to pass over."""


class GetParams(Params):
    """Write something to disk."""

    path: ContentPath
    destination: FilePath


class PinParams(Params):
    """Keep something."""

    path: ContentPath
    name: PinName


class GarbageParams(Params):
    """Remove what is not kept."""

    grace_seconds: float = Field(ge=0, le=10 * 365 * 86400)


class VerifyParams(Params):
    """Hash all that is held."""

    repair: bool = False
    """Forget what is damaged, so that it is fetched again."""


class ContentOperations(Protocol):
    """What is done with content for an operator. Methods raise RpcError for what can be acted on; long ones `emit`."""

    async def add(self, params: AddParams, emit: Callable[[ContentProgress], Awaitable[None]]) -> AddedView:
        """Take in a file or directory, and pin it."""

    async def find(self, params: FindParams, emit: Callable[[ContentProgress], Awaitable[None]]) -> FoundView:
        """Have the store hold what a path leads to."""

    async def entries(self, params: ListParams) -> ListingView:
        """Return a page of a directory."""

    async def stat(self, params: PathParams) -> StatView:
        """Return what is known and held of a tree."""

    async def get(self, params: GetParams, emit: Callable[[ContentProgress], Awaitable[None]]) -> FoundView:
        """Write a file or directory to disk."""

    async def pin(self, params: PinParams, emit: Callable[[ContentProgress], Awaitable[None]]) -> FoundView:
        """Keep a tree, and fetch what is missing of it."""

    async def unpin(self, params: PinParams) -> PinsView:
        """Remove a pin; return those of the same root that are left."""

    async def pins(self) -> PinsView:
        """Return all pins."""

    async def usage(self) -> UsageView:
        """Return what the store holds."""

    async def collect_garbage(self, params: GarbageParams) -> GarbageView:
        """Remove what no pin keeps."""

    async def verify(self, params: VerifyParams, emit: Callable[[ContentProgress], Awaitable[None]]) -> ScrubView:
        """Hash all that is held."""


def content_method_table(operations: ContentOperations) -> dict[str, Method]:
    """Return all methods by name."""

    def plain(run: Callable[[], Awaitable[View]]) -> Method:
        async def call(_params: NoParams, _emit: Emit) -> View:
            return await run()

        return Method(NoParams, call)

    async def list_entries(params: ListParams, _emit: Emit) -> View:
        return await operations.entries(params)

    async def stat(params: PathParams, _emit: Emit) -> View:
        return await operations.stat(params)

    async def unpin(params: PinParams, _emit: Emit) -> View:
        return await operations.unpin(params)

    async def collect_garbage(params: GarbageParams, _emit: Emit) -> View:
        return await operations.collect_garbage(params)

    return {
        "content_add": Method(AddParams, operations.add),
        "content_find": Method(FindParams, operations.find),
        "content_list": Method(ListParams, list_entries),
        "content_stat": Method(PathParams, stat),
        "content_get": Method(GetParams, operations.get),
        "content_pin": Method(PinParams, operations.pin),
        "content_unpin": Method(PinParams, unpin),
        "content_pins": plain(operations.pins),
        "content_usage": plain(operations.usage),
        "content_collect_garbage": Method(GarbageParams, collect_garbage),
        "content_verify": Method(VerifyParams, operations.verify),
    }
