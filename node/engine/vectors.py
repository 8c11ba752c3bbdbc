"""Reads the vectors in a reply of `/v1/embeddings`: an engine is another process, and checked like all outside."""

import base64
import binascii
from typing import Any

from node.ports import EngineFailedError

FLOAT_BYTES = 4
VECTOR_BYTES_MAX = 64 * 1024
"""16,384 numbers: several times what the largest models give."""


def read_vectors(reply: dict[str, Any], count: int) -> list[bytes]:
    """Return the `count` vectors of a reply, in the order of what was asked. Raises EngineFailedError."""
    entries = reply.get("data")
    if not isinstance(entries, list) or len(entries) != count:
        raise EngineFailedError(f"/v1/embeddings: asked about {count} inputs and got no such number of vectors")
    found: dict[int, bytes] = {}
    for entry in entries:
        index = entry.get("index") if isinstance(entry, dict) else None
        if type(index) is not int or not 0 <= index < count or index in found:
            raise EngineFailedError("/v1/embeddings: the vectors are not numbered by their inputs")
        found[index] = _vector(entry.get("embedding"))
    if len({len(vector) for vector in found.values()}) > 1:
        raise EngineFailedError("/v1/embeddings: the vectors differ in length")
    return [found[index] for index in range(count)]


def _vector(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > VECTOR_BYTES_MAX * 2:
        raise EngineFailedError("/v1/embeddings: a vector is not base64 of a bounded size")
    try:
        vector = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise EngineFailedError("/v1/embeddings: a vector is not base64") from error
    if not vector or len(vector) % FLOAT_BYTES or len(vector) > VECTOR_BYTES_MAX:
        raise EngineFailedError(f"/v1/embeddings: a vector of {len(vector)} bytes")
    return vector
