"""What a user of the gateway gets of an answer: its parts as they come, and how it came about."""

from dataclasses import dataclass
from typing import NamedTuple

from node.protocol.identifiers import Address, ModelId, RequestId
from node.protocol.sampling import TokenLogprobs
from node.services.seeding import AnswerSeed


class AnswerPart(NamedTuple):
    """Some text of an answer and the tokens it is made of. A tuple, because there is one for nearly every token."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if the request asked for them."""


@dataclass(slots=True)
class AnswerSummary:
    """How an answer came about; complete when it has ended."""

    request_id: RequestId
    model_id: ModelId
    executors: tuple[Address, ...] = ()
    """Those that gave tokens, in order: more than one after a failure."""
    prompt_tokens: int = 0
    output_tokens: int = 0
    """Tokens of the answer. Executors may have been paid for a few more, which were made twice at a change."""
    price: int = 0
    """What was paid, to all executors together."""
    finish_reason: str = ""
    seed: AnswerSeed | None = None
    """What the tokens were drawn with; None until there is one."""
    cached: bool = False
    """Whether it was given before and only repeated: then nothing was paid."""
    caller_id: str = ""
    """The user's own name for the request."""
