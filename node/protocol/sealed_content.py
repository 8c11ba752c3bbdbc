"""Content that only some can read: a ciphertext and its key, wrapped for each of them. In public, by CID."""

from dataclasses import dataclass

KEY_ID_BYTES = 32
WRAPPED_BYTES_MAX = 256
WRAPPED_MAX = 16
"""More readers than anybody is drawn for one prompt; each costs its readers an attempt to unwrap."""


@dataclass(frozen=True, slots=True)
class SealedContent:
    """AES-256-GCM under a random key that is used once; `wrapped` holds the key once for each reader, in no order."""

    key_id: bytes
    """Commits to the key: a ciphertext that opens differently under two keys is no use."""
    wrapped: tuple[bytes, ...]
    ciphertext: bytes

    def __post_init__(self) -> None:
        if len(self.key_id) != KEY_ID_BYTES:
            raise ValueError(f"key_id has {KEY_ID_BYTES} bytes")
        if not 0 < len(self.wrapped) <= WRAPPED_MAX or any(len(key) > WRAPPED_BYTES_MAX for key in self.wrapped):
            raise ValueError(f"1 to {WRAPPED_MAX} wrapped keys of at most {WRAPPED_BYTES_MAX} bytes")
