"""Makes models ready to be published: fetched, validated, imported. Nothing here knows a chain.

All of them are looked at before any fault is told, so that an owner mends everything at once. What needs no download
is looked at first; a download that was cut off goes on where it stopped.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from node.models.content import ContentAdapter, open_content
from node.models.hub import HubError, download_model
from node.models.manifest import UploadRequest
from node.models.publish import ModelDescription
from node.models.record_fields import UINT32_MAX
from node.models.validation import ModelFacts, ModelInvalidError, validate_model
from node.protocol.identifiers import Cid, ModelId
from p2p.content.unixfs import UnixFsError

PROGRESS_BYTES = 256 * 1024 * 1024
Tell = Callable[[str], None]


class UploadsInvalidError(Exception):
    """Some models cannot be published; the message has the faults of each."""


@dataclass(frozen=True, slots=True)
class PreparedUpload:
    """A model whose files are in the content directory, described in full."""

    description: ModelDescription
    cid: Cid


async def prepare_uploads(
    requests: Sequence[UploadRequest],
    content_dir: Path,
    downloads_dir: Path,
    tell: Tell,
    *,
    hub_endpoint: str | None = None,
) -> tuple[PreparedUpload, ...]:
    """Validate and import all models; return them in the order asked for. Raises UploadsInvalidError.

    If one is at fault no local directory is imported; what was downloaded may have been, which harms nothing.
    """
    found: dict[ModelId, PreparedUpload] = {}
    described: dict[ModelId, ModelDescription] = {}
    faults: list[str] = []
    async with open_content(content_dir, host="", port=0, cache_bytes_max=0, serve=False) as content:
        for request in sorted(requests, key=lambda request: request.directory is None):
            model_id = request.wanted.model_id
            with _noting(faults, model_id):
                if request.directory is not None:
                    described[model_id] = await _examine(request.wanted, request.directory, tell)
                else:
                    found[model_id] = await _from_hub(request.wanted, downloads_dir, content, tell, hub_endpoint)
        for request in requests if not faults else ():
            model_id = request.wanted.model_id
            if request.directory is not None:
                with _noting(faults, model_id):
                    cid = await _import(model_id, request.directory, content, tell, in_place=True)
                    found[model_id] = PreparedUpload(described[model_id], cid)
    if faults:
        raise UploadsInvalidError("nothing was sent to the chain, because of these faults:\n  " + "\n  ".join(faults))
    return tuple(found[request.wanted.model_id] for request in requests)


def complete_description(wanted: ModelDescription, facts: ModelFacts) -> ModelDescription:
    """Fill in what was left to config.json. Raises ModelInvalidError if that does not say."""
    length = wanted.context_length or facts.context_length
    if length is None or not 0 < length <= UINT32_MAX:
        raise ModelInvalidError("config.json does not say a usable context length: give context_length")
    arguments = wanted.model_args or ("--max-model-len", str(length))
    return replace(wanted, context_length=length, model_args=arguments)


@contextmanager
def _noting(faults: list[str], model_id: ModelId) -> Iterator[None]:
    """Note a model's fault and go on with the next one."""
    try:
        yield
    except (HubError, ModelInvalidError, UnixFsError, OSError) as error:
        faults.append(f"{model_id}: {error}")


async def _examine(wanted: ModelDescription, directory: Path, tell: Tell) -> ModelDescription:
    facts = await trio.to_thread.run_sync(lambda: validate_model(directory, encrypted=wanted.encrypted))
    description = complete_description(wanted, facts)
    tell(f"{wanted.model_id} is valid: {facts.architecture}, {facts.weight_bytes} bytes of weights")
    return description


async def _from_hub(
    wanted: ModelDescription, downloads_dir: Path, content: ContentAdapter, tell: Tell, endpoint: str | None
) -> PreparedUpload:
    """Download, examine and import a model. Its download is kept until it is whole, and no longer."""
    directory = downloads_dir / wanted.hf_commit
    tell(f"{wanted.model_id}: downloading {wanted.hf_repo} at {wanted.hf_commit[:12]}")
    await trio.to_thread.run_sync(
        lambda: download_model(wanted.hf_repo, wanted.hf_commit, directory, endpoint=endpoint)
    )
    try:
        description = await _examine(wanted, directory, tell)
        return PreparedUpload(description, await _import(wanted.model_id, directory, content, tell))
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def _import(
    model_id: ModelId, directory: Path, content: ContentAdapter, tell: Tell, *, in_place: bool = False
) -> Cid:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if before // PROGRESS_BYTES != done // PROGRESS_BYTES:
            tell(f"  {model_id}: imported {done // 2**20} MiB")

    cid, size = await content.import_directory(directory, advance, in_place=in_place)
    tell(f"{model_id} is imported: {size} bytes")
    tell(f"CID: {cid}")
    return cid
