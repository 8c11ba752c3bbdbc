"""Content keys on this machine: one private file per key, written before anything that needs it is published.

Detail: the files are 0600 and not encrypted themselves, as the peer key is: a daemon must open its models without
being asked, and whoever can read them can read the plain model as well. Back them up: a lost key is a lost model.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from node.models.encryption.keys import KEY_BYTES, KEY_ID_BYTES, ContentKey, KeyId
from node.private_files import PrivateFileError, create_private_directory, create_private_file, read_private_file
from node.protocol.identifiers import ModelId

KEY_FORMAT = "quern-model-key"
WRAPPED_FORMAT = "quern-wrapped-model-key"
VERSION = 1
KEYS_MAX = 4096
"""Files that are looked at: as many models as a registry holds, with some versions each."""


class KeyRingError(Exception):
    """A key file is missing, damaged or contradicts another; the message says what to do."""


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key on this machine."""

    model_id: ModelId
    key: ContentKey


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key on its way to one recipient."""

    model_id: ModelId
    key_id: KeyId
    wrapped: bytes


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    format: str
    version: int
    model_id: str
    key_id: str
    key: str = ""
    wrapped: str = ""


class KeyRing:
    """The keys in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, model_id: ModelId, key: ContentKey) -> None:
        """Keep `key`, on disk before this returns; nothing happens if it is kept already.

        Raises KeyRingError, PrivateFileError.
        """
        create_private_directory(self._directory)
        try:
            create_private_file(self._path(key.key_id), render_key(HeldKey(model_id, key)))
        except FileExistsError:
            held = self.find(key.key_id)
            if held is None or held.model_id != model_id:
                raise KeyRingError(
                    f"{self._path(key.key_id)} has this key for another model: keys are never shared between models"
                ) from None

    def find(self, key_id: KeyId) -> HeldKey | None:
        """Return the key with this id, or None. Raises KeyRingError if its file is damaged or not private."""
        path = self._path(key_id)
        if not path.exists():
            return None
        try:
            held = parse_key(read_private_file(path), path.name)
        except PrivateFileError as error:
            raise KeyRingError(str(error)) from error
        if not isinstance(held, HeldKey) or held.key.key_id != key_id:
            raise KeyRingError(f"{path} holds another key than its name says; restore it from your backup")
        return held

    def held(self) -> Iterator[HeldKey]:
        """Yield all keys, ascending by id. Raises KeyRingError."""
        names = sorted(path.stem for path in self._directory.glob("*.json")) if self._directory.is_dir() else []
        for name in names[:KEYS_MAX]:
            if len(name) == 2 * KEY_ID_BYTES and (held := self.find(KeyId(_hex(name, name)))) is not None:
                yield held

    def _path(self, key_id: KeyId) -> Path:
        return self._directory / f"{key_id.hex()}.json"


def render_key(held: HeldKey) -> bytes:
    """Return the file that holds a key. It is a secret."""
    return _render(KEY_FORMAT, held.model_id, held.key.key_id, key=held.key.secret.hex())


def render_wrapped(wrapped: WrappedKey) -> bytes:
    """Return the file that brings a wrapped key to its recipient. Nobody else can use it."""
    return _render(WRAPPED_FORMAT, wrapped.model_id, wrapped.key_id, wrapped=wrapped.wrapped.hex())


def parse_key(data: bytes, name: str) -> HeldKey | WrappedKey:
    """Read a file of either kind. Raises KeyRingError, whose message never holds the key."""
    try:
        record = _Record.model_validate_json(data)
    except ValidationError as error:
        raise KeyRingError(f"{name} is not a key file: {error.errors(include_input=False)[0]['msg']}") from None
    if record.version != VERSION or record.format not in (KEY_FORMAT, WRAPPED_FORMAT):
        raise KeyRingError(f"{name} is not a key file of version {VERSION}, the one that this software knows")
    key_id = KeyId(_hex(record.key_id, name))
    model_id = ModelId(record.model_id)
    if record.format == WRAPPED_FORMAT:
        return WrappedKey(model_id, key_id, _hex(record.wrapped, name))
    secret = _hex(record.key, name)
    if len(secret) != KEY_BYTES or (key := ContentKey(secret)).key_id != key_id:
        raise KeyRingError(f"{name} is damaged: its key is not the one that its id says")
    return HeldKey(model_id, key)


def _render(kind: str, model_id: ModelId, key_id: KeyId, **secret: str) -> bytes:
    record = {"format": kind, "version": VERSION, "model_id": model_id, "key_id": key_id.hex(), **secret}
    return json.dumps(record, indent=2).encode() + b"\n"


def _hex(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise KeyRingError(f"{name} is not a key file: expected hex") from None
