"""What a gateway believes of an executor's words: pure checks, each of which names the fault it finds."""

from node.protocol.codec import SchemaError, from_bytes
from node.services.faults import ExecutorFaultError, Fault
from node.services.frames import ExecutorFrame, InferenceRequest, Opening, Prompt, Tokens

TEMPLATE_TOKENS_MAX = 64
"""Tokens a chat template may add per message. With it, an executor cannot charge for a prompt nobody wrote."""
TOKEN_ID_MAX = 1 << 22
"""Far above any vocabulary. The next executor knows the model's own and would refuse what lies beyond it."""
FRAME_BYTES_MIN = 4096
BYTES_PER_TOKEN_MAX = 512
"""On the wire, with its text: the longest tokens known are runs of 128 blanks."""
BYTES_PER_ALTERNATIVE_MAX = 512
"""On the wire, of one log-probability with its token's text."""
CHARACTERS_PER_TOKEN_MAX = 512
FRAMES_WITHOUT_TOKENS_MAX = 64
"""Engines may send text that belongs to tokens before; they do not do so for ever."""
FINISH_REASONS = frozenset({"", "stop", "length"})


def prompt_tokens_max(request: InferenceRequest) -> int:
    """Return how many tokens an executor may read for a request: a token is at least one byte of its text."""
    return reading_tokens_max(request.prompt) + len(request.prefix)


def reading_tokens_max(prompt: Prompt) -> int:
    """Return the most tokens an executor may charge for a prompt."""
    return prompt.text_bytes + TEMPLATE_TOKENS_MAX * (len(prompt.turns) + 1) + len(prompt.token_ids)


def read_frame(data: bytes, *, bytes_max: int | None = None) -> ExecutorFrame:
    """Read a frame: size, then schema. Without `bytes_max`, the transport's own limit is all."""
    if bytes_max is not None and len(data) > bytes_max:
        raise ExecutorFaultError(Fault.GARBAGE, f"a frame of {len(data)} bytes, at most {bytes_max} fit", frame=data)
    try:
        return from_bytes(ExecutorFrame, data)
    except SchemaError as error:
        raise ExecutorFaultError(Fault.GARBAGE, f"not a frame: {error}", frame=data) from error


def check_opening(opening: Opening, request: InferenceRequest) -> None:
    """An executor may charge for no more prompt than there is, and for no other than it was given."""
    ids, prefix = opening.prompt_ids, request.prefix
    ends_in_prefix = ids[len(ids) - len(prefix) :] == prefix
    exactly = (*request.prompt.token_ids, *prefix) if request.prompt.token_ids else ids
    if len(ids) > prompt_tokens_max(request) or not ends_in_prefix or ids != exactly or len(ids) <= len(prefix):
        raise ExecutorFaultError(Fault.PROMPT, "the prompt it wants to charge for is not the one it was given")
    if not all(0 <= token <= TOKEN_ID_MAX for token in ids):
        raise ExecutorFaultError(Fault.PROMPT, "the prompt it wants to charge for has tokens that no model knows")
    if opening.unpaid_tokens_max < 1:
        raise ExecutorFaultError(Fault.PROMPT, "it wants to be paid in advance")


class TokenChecks:
    """The checks of one executor's pieces of an answer, in the order they come."""

    def __init__(self, request: InferenceRequest, opening: Opening, context_length: int) -> None:
        self._request = request
        self._whole = min(request.max_tokens, context_length - len(opening.prompt_ids))
        """Tokens of an answer that nothing else ends."""
        at_once = min(opening.unpaid_tokens_max, request.max_tokens)
        alternatives = 0 if request.logprobs is None else 1 + request.logprobs
        per_token = BYTES_PER_TOKEN_MAX + alternatives * BYTES_PER_ALTERNATIVE_MAX
        self.frame_bytes_max = FRAME_BYTES_MIN + at_once * per_token
        self._tokens = 0
        self._characters = 0
        self._without_tokens = 0
        self._has_finished = False
        self.is_complete = self._whole <= 0
        """Whether there can be no more tokens, said or not."""

    def add(self, piece: Tokens) -> bool:
        """Check one more piece; return whether the answer is complete with it."""
        if self._has_finished:
            raise ExecutorFaultError(Fault.OUT_OF_TURN, "tokens after the end")
        ids = piece.token_ids
        self._tokens += len(ids)
        self._characters += len(piece.text)
        if self._tokens > self._request.max_tokens:
            raise ExecutorFaultError(Fault.TOO_MANY, f"more than the {self._request.max_tokens} tokens asked for")
        if self._characters > CHARACTERS_PER_TOKEN_MAX * (self._tokens + 1):
            raise ExecutorFaultError(Fault.TOKENS, f"{self._characters} characters of text for {self._tokens} tokens")
        if ids:
            if min(ids) < 0 or max(ids) > TOKEN_ID_MAX:
                raise ExecutorFaultError(Fault.TOKENS, "a token that no model knows")
        else:
            self._without_tokens += 1
            if not self._tokens and not piece.finish_reason:
                raise ExecutorFaultError(Fault.TOKENS, "it speaks before its first token")
            if self._without_tokens > FRAMES_WITHOUT_TOKENS_MAX:
                raise ExecutorFaultError(Fault.TOKENS, f"more than {FRAMES_WITHOUT_TOKENS_MAX} frames without a token")
        if piece.logprobs or self._request.logprobs is not None:
            self._check_logprobs(piece)
        self.is_complete = self._tokens >= self._whole
        if piece.finish_reason:
            self._check_finish(piece)
        return self.is_complete

    def _check_logprobs(self, piece: Tokens) -> None:
        wanted = 0 if self._request.logprobs is None else len(piece.token_ids)
        if len(piece.logprobs) != wanted:
            raise ExecutorFaultError(Fault.TOKENS, f"{len(piece.logprobs)} log-probabilities where {wanted} belong")
        for entry, token in zip(piece.logprobs, piece.token_ids, strict=False):
            if entry.chosen.token_id != token or len(entry.alternatives) > (self._request.logprobs or 0):
                raise ExecutorFaultError(Fault.TOKENS, "log-probabilities of other tokens, or more than asked for")

    def _check_finish(self, piece: Tokens) -> None:
        if piece.finish_reason not in FINISH_REASONS:
            raise ExecutorFaultError(Fault.EARLY_END, f"it ends for {piece.finish_reason[:40]!r}, which is no reason")
        self._has_finished = self.is_complete = True
        if piece.finish_reason == "stop" and not self._tokens:
            raise ExecutorFaultError(Fault.EARLY_END, "it stops before its first token")
        if piece.finish_reason == "length" and self._tokens < self._whole:
            raise ExecutorFaultError(
                Fault.EARLY_END, f"it calls {self._tokens} tokens the whole length of {self._request.max_tokens}"
            )
