"""API keys: who may ask this gateway, for how much, how often, for which models. A file that only the daemon can read.

Of a key itself only a digest is stored: whoever reads the file cannot use it. What keys have spent is in the store
(node/store/key_spending.py), under ids that outlive the file.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from node.private_files import PrivateFileError, read_private_file, replace_private_file

KEY_PREFIX = "qk_"
KEY_BYTES = 32
KEY_CHARACTERS_MAX = 256
KEYS_MAX = 100
"""Their file stays below what a private file may have."""
KEY_ID_CHARACTERS = 16
MODELS_MAX = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_AMOUNT = r"^[0-9]{1,38}$"


class ApiKey(BaseModel):
    """A key as it is stored. None is no limit; amounts are in base units of the payment token."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """sha256 of the key, which has 256 random bits: nothing is gained by a slower hash."""
    created_at: int
    """UNIX seconds, as `expires_at`."""
    expires_at: int | None = None
    day_amount_max: str | None = Field(default=None, pattern=_AMOUNT)
    """To be spent in one day, which begins at 00:00 UTC."""
    total_amount_max: str | None = Field(default=None, pattern=_AMOUNT)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    models: tuple[str, ...] = Field(default=(), max_length=MODELS_MAX)
    """Models that may be asked; all, if there are none."""

    @property
    def key_id(self) -> str:
        """Under which its spending is kept: a new key of an old name begins anew."""
        return self.digest[:KEY_ID_CHARACTERS]

    def may_ask(self, model_id: str) -> bool:
        """Whether this key opens a model."""
        return not self.models or model_id in self.models

    def is_expired(self, at: int) -> bool:
        """Whether it opens nothing any more."""
        return self.expires_at is not None and at >= self.expires_at


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    keys: tuple[ApiKey, ...] = Field(max_length=KEYS_MAX)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a new key is allowed; the fields are those of ApiKey."""

    expires_at: int | None = None
    day_amount_max: int | None = None
    total_amount_max: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: tuple[str, ...] = ()


class KeyBook:
    """The keys of a file, read again when the file was replaced: a revoked key is out at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] | None = None

    def keys(self) -> tuple[ApiKey, ...] | None:
        """Return the keys; None if there is no file, which is not the same as a file without keys.

        Raises PrivateFileError.
        """
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, None
            return None
        except OSError as error:
            raise PrivateFileError(f"can't read {self._file}: {error.strerror}") from error
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stamp != self._seen:
            self._keys = read_api_keys(self._file)
            self._seen = stamp
        return self._keys

    def find(self, presented: str) -> ApiKey | None:
        """Return the key that was presented, if it is one. Raises PrivateFileError."""
        return find_api_key(self.keys() or (), presented)


def read_api_keys(file: Path) -> tuple[ApiKey, ...] | None:
    """Return the keys in a file; None if there is no file. Raises PrivateFileError."""
    if not file.exists():
        return None
    try:
        return _KeyFile.model_validate_json(read_private_file(file)).keys
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise PrivateFileError(
            f"{file} is no file of API keys (at {place or 'its beginning'}). Make a new one with `quern keys add`."
        ) from error


def add_api_key(file: Path, name: str, limits: KeyLimits, *, at: int) -> str:
    """Make a key and return it: it can't be read again. Raises PrivateFileError, ValueError for a name in use."""
    if not _NAME.fullmatch(name):
        raise ValueError("a key's name has 1 to 64 letters, digits, `.`, `_` or `-`")
    keys = read_api_keys(file) or ()
    if any(key.name == name for key in keys):
        raise ValueError(f"there is a key named {name} already: revoke it, or choose another name")
    if len(keys) >= KEYS_MAX:
        raise ValueError(f"there are {KEYS_MAX} keys already: revoke some")
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    made = ApiKey(
        name=name,
        digest=_digest(secret),
        created_at=at,
        expires_at=limits.expires_at,
        day_amount_max=None if limits.day_amount_max is None else str(limits.day_amount_max),
        total_amount_max=None if limits.total_amount_max is None else str(limits.total_amount_max),
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        models=limits.models,
    )
    _write(file, (*keys, made))
    return secret


def revoke_api_key(file: Path, name: str) -> bool:
    """Remove a key; whether there was one. The file stays: without keys in it nobody may ask."""
    keys = read_api_keys(file) or ()
    kept = tuple(key for key in keys if key.name != name)
    if len(kept) == len(keys):
        return False
    _write(file, kept)
    return True


def find_api_key(keys: tuple[ApiKey, ...], presented: str) -> ApiKey | None:
    """Return the key that was presented; takes the same time whichever it is, and if it is none."""
    if not 0 < len(presented) <= KEY_CHARACTERS_MAX:
        return None
    digest = _digest(presented)
    found: ApiKey | None = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _write(file: Path, keys: tuple[ApiKey, ...]) -> None:
    replace_private_file(file, _KeyFile(keys=keys).model_dump_json(indent=1, exclude_defaults=True).encode())
