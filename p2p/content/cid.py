"""Content identifiers: CIDv1 with SHA-256, raw or dag-pb, as text and as bytes. Strict: one text per CID."""

import base64
import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

DIGEST_BYTES = 32
CID_BYTES = 36
"""Version, codec, hash function, hash length (one byte each) and the digest."""
CID_TEXT_LENGTH = 59
"""`b` (multibase for lower-case base32 without padding) and 58 digits."""

_TO_PYTHON_DIGITS = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz23456701_89", b"0123456789abcdefghijklmnopqrstuvzzzzz")
"""From the digits of RFC 4648 base32 to those of `int(text, 32)`; z, which is none there, for what is none here."""
_STRAY_BITS = 0b11
"""58 digits hold 2 bits more than 36 bytes."""

_VERSION = 0x01
_SHA2_256 = 0x12


class CidError(ValueError):
    """Not a CID that is spoken here."""


class Codec(IntEnum):
    """How the bytes of a block are to be read (multicodec)."""

    RAW = 0x55
    """File bytes as they are."""
    DAG_PB = 0x70
    """A protobuf node with named links."""


@dataclass(frozen=True, slots=True)
class Cid:
    """The name of a block: how to read it and the SHA-256 of its bytes."""

    codec: Codec
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise CidError(f"a SHA-256 digest has {DIGEST_BYTES} bytes, not {len(self.digest)}")

    @classmethod
    def of(cls, codec: Codec, data: bytes | bytearray | memoryview) -> Self:
        """Return the CID of a block with these bytes."""
        return cls(codec, hashlib.sha256(data).digest())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the 36-byte form; raise CidError for any other kind of CID."""
        if len(data) != CID_BYTES or data[0] != _VERSION or data[2] != _SHA2_256 or data[3] != DIGEST_BYTES:
            raise CidError("not a CIDv1 with SHA-256")
        try:
            codec = Codec(data[1])
        except ValueError:
            raise CidError(f"codec 0x{data[1]:02x} is neither raw nor dag-pb") from None
        return cls(codec, bytes(data[4:]))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the base32 text; raise CidError unless it is the one canonical text of such a CID."""
        if len(text) != CID_TEXT_LENGTH or not text.startswith("b") or not text.isascii():
            raise CidError(f"a CID here is {CID_TEXT_LENGTH} characters and begins with b")
        # By the integer parser: a gateway parses one for each block it serves, and base64 decodes in Python.
        number = 0
        try:
            number = int(text[1:].encode("ascii").translate(_TO_PYTHON_DIGITS), 32)
        except ValueError as error:
            raise CidError(f"not base32: {error}") from error
        if not text[1:].isalnum() or not text.islower() or number & _STRAY_BITS:
            raise CidError("not the canonical text of a CID (lower case, no stray bits)")
        return cls.from_bytes((number >> _STRAY_BITS.bit_length()).to_bytes(CID_BYTES, "big"))

    def to_bytes(self) -> bytes:
        """Return the 36-byte form."""
        return bytes((_VERSION, self.codec, _SHA2_256, DIGEST_BYTES)) + self.digest

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether `data` are the bytes this CID names."""
        return hashlib.sha256(data).digest() == self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(self.to_bytes()).decode().lower().rstrip("=")
