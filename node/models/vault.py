"""Opens encrypted models for engines: into a private directory, whole and valid or not at all, and gone when unloaded.

Detail: the key comes from a key file on this machine, else from what the model's owner deposited for this account in
the AccessVault. Everything is decrypted and authenticated into a directory of another name, validated there, and only
then given its own name: no engine ever sees a byte that was not checked. Plain models of an earlier life of the daemon,
which a crash may leave, are removed at the start.

*Non-goal*: to keep a model from its operator. Whoever serves a model has it.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
import trio
import trio.from_thread

from node.models.encryption.container import SealBrokenError, WrongKeyError
from node.models.encryption.directory import SealedDirectory, open_directory, read_sealed
from node.models.encryption.keyring import KeyRing, KeyRingError
from node.models.encryption.keys import ContentKey
from node.models.encryption.wrapping import Unwrapper
from node.models.validation import ModelInvalidError, validate_model
from node.private_files import PrivateFileError, create_private_directory, exposed_mode
from node.protocol.identifiers import Cid, ModelId
from node.protocol.records import ModelRecord

log = structlog.get_logger(__name__)

OPENED_PREFIX = "opened-"
OPENING_PREFIX = "opening-"
"""Only directories that are named so are ever removed, whatever else an operator keeps beside them."""

DepositedKey = Callable[[ModelId], Awaitable[bytes]]
"""Returns what the AccessVault holds for this account, empty if nothing. Raises KeyUnavailableError."""


class KeyUnavailableError(Exception):
    """The key of a model is not here, or not yet; the message says where it could come from."""


class ModelVault:
    """The opened models of one daemon. Made by `open_vault`."""

    def __init__(self, directory: Path, keys: KeyRing, unwrapper: Unwrapper, deposited: DepositedKey) -> None:
        self._directory = directory
        self._keys = keys
        self._unwrapper = unwrapper
        self._deposited = deposited
        self._one_at_a_time = trio.Lock()
        self._users: dict[Cid, set[str]] = {}

    async def open(self, model: ModelRecord, sealed: Path, user: str) -> Path:
        """Return where the files of `model` lie in plain, for `user` until it keeps another one.

        Raises KeyUnavailableError, ModelInvalidError if the files are damaged or hold no model, OSError.
        """
        async with self._one_at_a_time:
            target = self._directory / f"{OPENED_PREFIX}{model.cid}"
            if model.cid not in self._users:
                await self._open(model, sealed, target)
                self._users[model.cid] = set()
            self._users[model.cid].add(user)
            return target

    async def keep(self, user: str, cid: Cid | None) -> None:
        """Say that `user` reads no opened model but `cid` any more; what nobody reads is removed."""
        async with self._one_at_a_time:
            for users in (users for held, users in self._users.items() if held != cid):
                users.discard(user)
            for unused in [held for held, users in self._users.items() if not users]:
                del self._users[unused]
                await trio.to_thread.run_sync(_remove, self._directory / f"{OPENED_PREFIX}{unused}")
                log.info("a decrypted model is removed", cid=unused)

    async def _open(self, model: ModelRecord, path: Path, target: Path) -> None:
        staging = self._directory / f"{OPENING_PREFIX}{model.cid}"
        try:
            sealed = await trio.to_thread.run_sync(read_sealed, path)
            key = await self._find_key(model, sealed)
            log.info("decrypting a model", model=model.model_id, bytes=sealed.plain_bytes)
            await trio.to_thread.run_sync(_decrypt, sealed, staging, key)
            await trio.to_thread.run_sync(staging.rename, target)
        except SealBrokenError as error:
            raise ModelInvalidError(f"{model.model_id} cannot be decrypted: {error}") from error
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, staging)

    async def _find_key(self, model: ModelRecord, sealed: SealedDirectory) -> ContentKey:
        try:
            held = self._keys.find(sealed.key_id)
        except KeyRingError as error:
            raise KeyUnavailableError(str(error)) from error
        if held is not None and held.model_id == model.model_id:
            return held.key
        wrapped = await self._deposited(model.model_id)
        if not wrapped:
            raise KeyUnavailableError(
                f"there is no key {sealed.key_id.hex()[:16]}… for {model.model_id}: ask its owner to deposit one for "
                "this account (`owner_tools.py gate wrap-key`), or import one (`quern vault import-key`)"
            )
        try:
            return self._unwrapper.unwrap(wrapped, model.model_id, sealed.key_id)
        except WrongKeyError as error:
            raise KeyUnavailableError(f"the key in the AccessVault does not open {model.model_id}: {error}") from error


@asynccontextmanager
async def open_vault(
    directory: Path, keys: KeyRing, unwrapper: Unwrapper, deposited: DepositedKey
) -> AsyncIterator[ModelVault]:
    """Give a vault that opens models below `directory`; when the context is left they are removed.

    Raises PrivateFileError if others can read the directory.
    """
    await trio.to_thread.run_sync(_prepare, directory)
    try:
        yield ModelVault(directory, keys, unwrapper, deposited)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_clear, directory)


def _decrypt(sealed: SealedDirectory, staging: Path, key: ContentKey) -> None:
    """Make `staging` the plain model. Runs in a thread; stops when its caller is cancelled."""
    _remove(staging)
    create_private_directory(staging)
    open_directory(sealed, staging, key, advance=lambda _: trio.from_thread.check_cancelled())
    validate_model(staging)


def _prepare(directory: Path) -> None:
    create_private_directory(directory)
    if exposed_mode(directory.stat().st_mode):
        raise PrivateFileError(f"{directory} can be read by other users, and models are decrypted there: chmod 700 it")
    _clear(directory)


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.name.startswith((OPENED_PREFIX, OPENING_PREFIX)):
            _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("a decrypted model is still there: remove it by hand", path=str(path))
