"""The events of a stream. They are written for every few tokens, so what does not change is encoded once."""

from typing import Any

from pydantic_core import to_json

from node.api.openai.usage import Usage


class ChunkWriter:
    """Makes the events of one stream."""

    def __init__(
        self, *, identity: str, kind: str, created: int, model: str, fingerprint: str, wants_usage: bool
    ) -> None:
        fixed = {"id": identity, "object": kind, "created": created, "model": model, "system_fingerprint": fingerprint}
        self._head = b"data: " + to_json(fixed)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if wants_usage else b"]}\n\n"
        self._plain_tail = b',"logprobs":null,"finish_reason":null}' + self._tail
        self._content_tail = b"}" + self._plain_tail
        self._content_heads: dict[int, bytes] = {}

    def choice(
        self,
        index: int,
        field: str,
        value: dict[str, Any] | str,
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        """Return the event of one choice; `field` is `delta` or `text`."""
        begin = b'%s{"index":%d,"%s":%s' % (self._head, index, field.encode(), to_json(value))
        if finish_reason is None and logprobs is None:
            return begin + self._plain_tail
        end = b',"logprobs":%s,"finish_reason":%s}' % (to_json(logprobs), to_json(finish_reason))
        return begin + end + self._tail

    def content(self, index: int, text: str) -> bytes:
        """Return the event of some text of a chat: what `choice` returns of it, where there is nothing else to tell."""
        head = self._content_heads.get(index)
        if head is None:
            head = self._content_heads[index] = b'%s{"index":%d,"delta":{"content":' % (self._head, index)
        return head + to_json(text) + self._content_tail

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the counts of all choices."""
        return b'%s],"usage":%s}\n\n' % (self._head, to_json(usage.body()))
