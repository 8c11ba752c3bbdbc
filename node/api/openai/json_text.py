"""JSON that goes on to the network as text: compact, finite, bounded."""

import json
from typing import Any

from node.api.openai.faults import invalid
from node.services.frames import JSON_CHARACTERS_MAX


def compact_json(value: Any, param: str) -> str:
    """Return `value` as text. Raises ApiError that names `param` if it is too large or has endless numbers."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise invalid(f"{param}: {error}", param) from error
    if len(text) > JSON_CHARACTERS_MAX:
        raise invalid(f"{param}: has over {JSON_CHARACTERS_MAX} characters", param)
    return text
