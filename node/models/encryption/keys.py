"""The content key of an encrypted model, its public id, and the key of each file that follows from it."""

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import NewType

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
"""AES-256: of content keys, of the keys of files, of those that wrap."""
KEY_ID_BYTES = 32
"""As long as a hash must be for nobody to find two keys with one id (see `ContentKey.key_id`)."""
SALT_BYTES = 32
"""Drawn anew for each sealed file; so long that no two files ever have the same."""

_KEY_ID_PURPOSE = b"quern content key id 1"
_FILE_PURPOSE = b"quern sealed file 1"

KeyId = NewType("KeyId", bytes)
"""Names a content key in public; says nothing about it."""


@dataclass(frozen=True)
class ContentKey:
    """The secret that opens one encrypted version of a model. It never stands in a log: `repr` hides it."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a content key has {KEY_BYTES} bytes, got {len(self.secret)}")

    @cached_property
    def key_id(self) -> KeyId:
        """Name of the key, which also commits to it.

        AES-GCM alone would let a publisher make bytes that open differently under two keys. Whoever compares the id
        first opens with the one key that the file names.
        """
        return KeyId(derive_key(self.secret, b"", _KEY_ID_PURPOSE))

    def file_key(self, salt: bytes) -> bytes:
        """Return the key of the file that has this salt, and of no other."""
        return derive_key(self.secret, salt, _FILE_PURPOSE)


def create_content_key() -> ContentKey:
    """Return a new random key. Never derived from the content: see docs/decisions/0018."""
    return ContentKey(secrets.token_bytes(KEY_BYTES))


def derive_key(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    """Return 32 bytes by HKDF-SHA256: different for every salt and purpose, and none tells of another."""
    return HKDF(hashes.SHA256(), KEY_BYTES, salt, purpose).derive(secret)
