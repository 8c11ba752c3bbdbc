"""Log-probabilities in the two shapes that OpenAI's API has for them, of chats and of completions."""

from collections.abc import Sequence
from typing import Any

from node.protocol.sampling import TokenAlternative, TokenLogprobs

MICRO = 1_000_000


def chat_logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    """Return them as a chat's choice has them."""
    content = [
        {**_entry(token.chosen), "top_logprobs": [_entry(other) for other in token.alternatives]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprobs], offset: int) -> dict[str, Any]:
    """Return them as a completion's choice has them; `offset` is where the first token begins, in characters."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.chosen.text)
    return {
        "tokens": [token.chosen.text for token in tokens],
        "token_logprobs": [token.chosen.logprob_micro / MICRO for token in tokens],
        "top_logprobs": [
            {other.text: other.logprob_micro / MICRO for other in token.alternatives} or None for token in tokens
        ],
        "text_offset": offsets,
    }


def _entry(token: TokenAlternative) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob_micro / MICRO, "bytes": list(token.text.encode())}
