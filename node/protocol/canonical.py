"""Canonical msgpack: one byte string for one value, so that every node hashes and signs the same bytes.

Rules (docs/protocol.md, "Canonical bytes"): maps have text keys in ascending order of their UTF-8 bytes; integers
take the shortest form msgpack has; text is UTF-8 `str`, bytes are `bin`; lists and tuples are arrays. Floats are
refused: nodes must agree on every bit, and floats invite them not to.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import msgpack
from eth_hash.auto import keccak

from node.protocol.identifiers import Hash32

CanonicalValue = Any
"""None, bool, int (64-bit, or unsigned 64-bit), str, bytes, list/tuple of these, or a map from str to these.

Amounts of the token may exceed 64 bits: records carry them as decimal text (see `node.protocol.records`).
"""

SCALARS = frozenset({int, str, bytes, bool, type(None)})
"""Types of values that are their own canonical form; others that derive from them take the long way."""
NESTING_MAX = 16
"""Deeper values are refused: a hostile message must not exhaust the stack."""


class CanonicalError(ValueError):
    """The value has no canonical form, or the bytes are not the canonical form of any value."""


def encode(value: CanonicalValue) -> bytes:
    """Return the canonical bytes of `value`.

    Raises CanonicalError for floats, keys that are not text, integers beyond 64 bits and nesting over NESTING_MAX.
    """
    try:
        return cast(bytes, msgpack.packb(_ordered(value, 0), use_bin_type=True))
    except (OverflowError, UnicodeEncodeError) as error:
        raise CanonicalError(f"no canonical form: {error}") from error


def decode(data: bytes) -> CanonicalValue:
    """Return the value whose canonical form is `data`; raise CanonicalError if `data` is any other encoding of it."""
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException, UnicodeDecodeError, RecursionError) as error:
        raise CanonicalError(f"not msgpack: {error}") from error
    if encode(value) != data:
        raise CanonicalError("valid msgpack, but not in canonical form")
    return value


def sha256_digest(value: CanonicalValue) -> Hash32:
    """SHA-256 of the canonical bytes: names of content and off-chain commitments."""
    return Hash32(hashlib.sha256(encode(value)).digest())


def keccak_digest(value: CanonicalValue) -> Hash32:
    """Keccak-256 of the canonical bytes: what accounts sign."""
    return Hash32(keccak(encode(value)))


def _ordered(value: CanonicalValue, depth: int) -> CanonicalValue:
    if depth > NESTING_MAX:
        raise CanonicalError(f"nested deeper than {NESTING_MAX}")
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return value
    if isinstance(value, (list, tuple)):
        is_plain = type(value) is list or type(value) is tuple  # msgpack has tuples of its own: ExtType
        if is_plain and depth < NESTING_MAX and SCALARS.issuperset(map(type, value)):
            return value  # as the tokens of answers, of which there are thousands: not one call for each
        return [_ordered(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise CanonicalError("map keys must be text")
        return {key: _ordered(value[key], depth + 1) for key in sorted(value, key=lambda key: key.encode("utf-8"))}
    raise CanonicalError(f"{type(value).__name__} has no canonical form")
