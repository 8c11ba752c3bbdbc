"""Where an answer can be taken up again, on another engine or after a pause, so that nobody notices.

An engine goes on after a prompt and the tokens given so far; what follows is the same, for each token depends on the
seed, its position and what is before it. The text is not always: an engine holds text back while a character is
incomplete, or while it may be the beginning of a stop text. So an answer is taken up where all text was given, and what
comes a second time is compared and left out.
"""

from dataclasses import replace

from node.ports import EngineFailedError, GenerationChunk, GenerationRequest


class AnswerSoFar:
    """The tokens and text of an answer, and where it can be taken up."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._token_ids: list[int] = []
        self._text: list[str] = []
        self._safe_tokens = 0
        self._safe_texts = 0
        """So many tokens and pieces of text belong together: the text of these tokens is all given."""
        self._repeated_tokens = 0
        """Tokens that the present engine gives once more."""
        self._repeated_text = ""

    @property
    def tokens(self) -> int:
        """Tokens given so far."""
        return len(self._token_ids)

    @property
    def repeats(self) -> int:
        """Tokens that would be generated once more if the answer were taken up now."""
        return len(self._token_ids) - (0 if self.must_repeat else self._safe_tokens)

    @property
    def must_repeat(self) -> bool:
        """Whether going on means to generate everything again.

        So with stop texts, which may straddle the cut; with penalties, which count the answer's tokens but not the
        prompt's; and with a response format, whose grammar starts with the answer.
        """
        request = self._request
        return bool(request.stop or request.response_format) or not request.sampling.is_verifiable

    def resume(self) -> GenerationRequest:
        """Return what to ask the next engine, and expect its answer from now on."""
        start, texts = (0, 0) if self.must_repeat else (self._safe_tokens, self._safe_texts)
        self._repeated_tokens = len(self._token_ids) - start
        self._repeated_text = "".join(self._text[texts:])
        return replace(
            self._request,
            prompt_ids=(*self._request.prompt_ids, *self._token_ids[:start]),
            max_tokens=self._request.max_tokens - start,
        )

    def take(self, chunk: GenerationChunk) -> GenerationChunk | None:
        """Return what of a chunk is new; None if nothing is. Raises EngineFailedError if what is repeated differs."""
        fresh = self._without_repetition(chunk)
        self._token_ids.extend(fresh.token_ids)
        if fresh.text:
            self._text.append(fresh.text)
            if len(fresh.token_ids) == 1:  # of several tokens, the last may be half a character without text yet
                self._safe_tokens, self._safe_texts = len(self._token_ids), len(self._text)
        return fresh if fresh.token_ids or fresh.text or fresh.finish_reason else None

    def _without_repetition(self, chunk: GenerationChunk) -> GenerationChunk:
        if not self._repeated_tokens and not self._repeated_text:
            return chunk
        count = min(self._repeated_tokens, len(chunk.token_ids))
        start = len(self._token_ids) - self._repeated_tokens
        length = min(len(self._repeated_text), len(chunk.text))
        same_tokens = list(chunk.token_ids[:count]) == self._token_ids[start : start + count]
        if not same_tokens or chunk.text[:length] != self._repeated_text[:length]:
            raise EngineFailedError("the answer does not go on as it began: the engines differ")
        self._repeated_tokens -= count
        self._repeated_text = self._repeated_text[length:]
        if chunk.finish_reason is not None and (self._repeated_tokens or self._repeated_text):
            raise EngineFailedError("the answer ended before the place where it was taken up")
        return GenerationChunk(
            chunk.token_ids[count:], chunk.text[length:], chunk.finish_reason, chunk.logprobs[count:]
        )
