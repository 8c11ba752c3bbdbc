"""What an OpenAI-style answer says, read without trusting it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FINISH_REASONS = frozenset({"stop", "length"})


class MalformedError(ValueError):
    """An answer that is not what the API says; the message names what."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `token_ids` is None where the server tells none."""

    text: str
    finish_reason: str
    token_ids: tuple[int, ...] | None
    prompt_ids: tuple[int, ...] | None
    prompt_tokens: int | None
    completion_tokens: int | None


def read_completion(reply: Any) -> Completion:
    """Read a reply of /v1/completions or /v1/chat/completions. Raises MalformedError."""
    choice = first_choice(reply)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    reason = choice.get("finish_reason")
    if not isinstance(text, str):
        raise MalformedError("the answer has no text")
    if reason not in FINISH_REASONS:
        raise MalformedError(f"finish_reason is {reason!r:.40}, neither stop nor length")
    usage = reply.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Completion(
        text=text,
        finish_reason=reason,
        token_ids=read_ids(choice.get("token_ids")),
        prompt_ids=read_ids(choice.get("prompt_token_ids", reply.get("prompt_token_ids"))),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def first_choice(reply: Any) -> Mapping[str, Any]:
    """Return the first choice of a reply or an event. Raises MalformedError."""
    if not isinstance(reply, dict):
        raise MalformedError("the reply is not an object")
    if "error" in reply:
        raise MalformedError(f"the server reports: {str(reply['error'])[:200]}")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedError("the reply has no choices")
    return choices[0]


def read_ids(value: Any) -> tuple[int, ...] | None:
    """Return token ids, or None if there are none. Raises MalformedError for what is no list of ids."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(token) is int and token >= 0 for token in value):
        raise MalformedError("token_ids is not a list of ids")
    return tuple(value)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
