"""The events of a stream. They are written for every few tokens, so what does not change is written once."""

import json
from typing import Any

from node.api.openai.usage import Usage


class ChunkWriter:
    """Makes the events of one stream."""

    def __init__(
        self, *, identity: str, kind: str, created: int, model: str, fingerprint: str, wants_usage: bool
    ) -> None:
        fixed = {"id": identity, "object": kind, "created": created, "model": model, "system_fingerprint": fingerprint}
        self._fixed = json.dumps(fixed, ensure_ascii=False)[:-1]
        self._tail = ', "usage": null}\n\n' if wants_usage else "}\n\n"

    def choice(
        self, index: int, field: str, value: object, *, finish_reason: str | None = None, logprobs: object = None
    ) -> bytes:
        """Return the event of one choice; `field` is `delta` or `text`."""
        return (
            f'data: {self._fixed}, "choices": [{{"index": {index}, "{field}": {_json(value)}, '
            f'"logprobs": {_json(logprobs)}, "finish_reason": {_json(finish_reason)}}}]{self._tail}'
        ).encode()

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the counts of all choices."""
        return f'data: {self._fixed}, "choices": [], "usage": {_json(usage.body())}}}\n\n'.encode()


def _json(value: Any) -> str:
    return "null" if value is None else json.dumps(value, ensure_ascii=False)
