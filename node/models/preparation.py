"""Makes models ready to be published: fetched, validated, encrypted where wanted, imported. Nothing here knows a chain.

All of them are looked at before any fault is told, so that an owner mends everything at once. What needs no download
is looked at first; a download that was cut off goes on where it stopped. Files are imported in place: the daemon serves
them from where they lie, so downloads and ciphertext stay.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio
import trio.from_thread

from node.models.encryption.container import SealBrokenError, SourceChangedError
from node.models.encryption.keyring import KeyRing, KeyRingError
from node.models.encryption.sealing import SealedModel, SealingError, seal_directory
from node.models.hub import HubAccess, HubDownloads, HubError
from node.models.manifest import UploadRequest
from node.models.publish import ModelDescription
from node.models.record_fields import UINT32_MAX
from node.models.reporting import Advance, Reporter
from node.models.validation import ModelFacts, ModelInvalidError, validate_model
from node.private_files import PrivateFileError
from node.protocol.identifiers import Cid, ModelId
from p2p.content.blockstore import BlockStore
from p2p.content.unixfs import UnixFsError
from p2p.content.unixfs_import import Imported, import_path

PIN_NAME = "published"
"""The pin that keeps what an owner published from being collected."""


class UploadsInvalidError(Exception):
    """Some models cannot be published; the message has the faults of each."""


@dataclass(frozen=True, slots=True)
class UploadPlaces:
    """Where an upload keeps what it makes."""

    content: Path
    """The block store of the daemon that serves."""
    downloads: Path
    sealed: Path
    """Ciphertext of encrypted models."""
    keys: Path

    @classmethod
    def below(cls, data_dir: Path, keys: Path) -> "UploadPlaces":
        """Return the places in a daemon's data directory."""
        models = data_dir / "models"
        return cls(data_dir / "content", models / "published", models / "sealed", keys)


@dataclass(frozen=True, slots=True)
class PreparedUpload:
    """A model whose files are in the content directory, described in full."""

    description: ModelDescription
    cid: Cid


@dataclass(frozen=True, slots=True)
class _Found:
    """A model that is on this machine and valid."""

    request: UploadRequest
    directory: Path
    description: ModelDescription


async def prepare_uploads(
    requests: Sequence[UploadRequest],
    places: UploadPlaces,
    reporter: Reporter,
    hub_access: HubAccess,
    *,
    skip_download: bool = False,
) -> tuple[PreparedUpload, ...]:
    """Validate, encrypt and import all models; return them in the order asked for. Raises UploadsInvalidError.

    If one is at fault none is encrypted or imported; what was downloaded stays for the next run. With `skip_download`
    the Hub is not asked: what an earlier run downloaded is used.
    """
    hub = HubDownloads(places.downloads, hub_access, reporter)
    found: dict[ModelId, _Found] = {}
    prepared: dict[ModelId, PreparedUpload] = {}
    faults: list[str] = []
    for request in sorted(requests, key=lambda request: request.directory is None):
        with _noting(faults, request):
            found[request.wanted.model_id] = await _find(request, hub, reporter, skip_download=skip_download)
    if not faults:
        store = await trio.to_thread.run_sync(BlockStore, places.content)
        try:
            for request in requests:
                with _noting(faults, request):
                    model_id = request.wanted.model_id
                    prepared[model_id] = await _publish(found[model_id], store, places, reporter)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store.close)
    if faults:
        raise UploadsInvalidError("nothing was sent to the chain, because of these faults:\n  " + "\n  ".join(faults))
    return tuple(prepared[request.wanted.model_id] for request in requests)


def complete_description(wanted: ModelDescription, facts: ModelFacts) -> ModelDescription:
    """Fill in what was left to config.json. Raises ModelInvalidError if that does not say."""
    length = wanted.context_length or facts.context_length
    if length is None or not 0 < length <= UINT32_MAX:
        raise ModelInvalidError("config.json does not say a usable context length: give context_length")
    arguments = wanted.model_args or ("--max-model-len", str(length))
    return replace(wanted, context_length=length, model_args=arguments)


@contextmanager
def _noting(faults: list[str], request: UploadRequest) -> Iterator[None]:
    """Note a model's fault and go on with the next one."""
    try:
        yield
    except (
        HubError,
        ModelInvalidError,
        UnixFsError,
        SealingError,
        SealBrokenError,
        SourceChangedError,
        KeyRingError,
        PrivateFileError,
        OSError,
    ) as error:
        faults.append(f"{request.wanted.model_id}: {error}")


async def _find(request: UploadRequest, hub: HubDownloads, reporter: Reporter, *, skip_download: bool) -> _Found:
    wanted, directory = request.wanted, request.directory
    if directory is None:
        repository, revision, with_pickles = wanted.hf_repo, request.revision, request.allow_pickle
        if skip_download:
            known = partial(hub.known, repository, revision, with_pickles=with_pickles)
            found = await trio.to_thread.run_sync(known)
        else:
            found = await hub.bring(repository, revision, with_pickles=with_pickles)
        wanted, directory = replace(wanted, hf_commit=found.commit), found.directory
    examine = partial(validate_model, directory, encrypted=wanted.encrypted, allow_pickle=request.allow_pickle)
    facts = await trio.to_thread.run_sync(examine)
    description = complete_description(wanted, facts)
    what = "encrypted" if wanted.encrypted else facts.architecture
    reporter.tell(f"{wanted.model_id} is valid: {what}, {facts.weight_bytes} bytes of weights")
    if facts.pickled:
        reporter.tell(
            f"WARNING: {wanted.model_id} has pickled weights ({', '.join(facts.pickled[:5])}), which can run code when "
            "they are loaded. You asked to publish them; no daemon of this network will load this model"
        )
    if not facts.generates:
        reporter.tell(f"{wanted.model_id} does not answer in words: daemons serve chats only so far")
    return _Found(request, directory.absolute(), description)


async def _publish(found: _Found, store: BlockStore, places: UploadPlaces, reporter: Reporter) -> PreparedUpload:
    directory, description = found.directory, found.description
    if found.request.encrypt:
        sealed = await _encrypt(found, places, reporter)
        directory = sealed.directory.path
        # On chain a repository would say which model it is.
        description = replace(description, encrypted=True, hf_repo="", hf_commit="")
    total = await trio.to_thread.run_sync(_total_bytes, directory)
    model_id = description.model_id

    def run(advance: Advance) -> Imported:
        imported = import_path(
            directory,
            store.put,
            include_hidden=False,
            advance=_cancellable(advance),
            reference=None if found.request.copy else store.reference_file,
        )
        store.pin(imported.cid, PIN_NAME)
        return imported

    with reporter.step(f"{model_id}: importing", total) as advance:
        imported = await trio.to_thread.run_sync(run, advance)
    kept = "copied into the content directory" if found.request.copy else f"served from {directory}, so keep that"
    reporter.tell(f"{model_id} is imported: {imported.file_bytes} bytes, {kept}")
    reporter.tell(f"CID: {imported.cid}")
    return PreparedUpload(description, Cid(str(imported.cid)))


async def _encrypt(found: _Found, places: UploadPlaces, reporter: Reporter) -> SealedModel:
    model_id = found.description.model_id
    total = 2 * await trio.to_thread.run_sync(_total_bytes, found.directory)

    def run(advance: Advance) -> SealedModel:
        keys = KeyRing(places.keys)
        stoppable = _cancellable(advance)
        return seal_directory(
            found.directory, places.sealed, keys, model_id, new_key=found.request.new_key, advance=stoppable
        )

    with reporter.step(f"{model_id}: encrypting", total) as advance:
        sealed = await trio.to_thread.run_sync(run, advance)
    key_file = places.keys / f"{sealed.key_id.hex()}.json"
    state = "was encrypted before" if sealed.resumed else "is encrypted"
    reporter.tell(f"{model_id} {state}. Its key is in {key_file}: back it up, without it nobody opens the model again")
    return sealed


def _cancellable(advance: Advance) -> Advance:
    """Let work in a thread stop at the next step when its caller was cancelled."""

    def checked(count: int) -> None:
        trio.from_thread.check_cancelled()
        advance(count)

    return checked


def _total_bytes(directory: Path) -> int:
    """Return the size of what will be published; a hidden file is not."""
    shown = (path for path in directory.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in shown if not str(path.relative_to(directory)).startswith("."))
