"""A completion as users write it: texts or token ids to go on with. Reference: OpenAI's API reference, completions."""

from typing import Annotated, Literal

from pydantic import Field

from node.api.openai.faults import invalid
from node.api.openai.parameters import GenerationParameters, seed_of_choice
from node.services.frames import LOGPROBS_MAX, PROMPT_IDS_MAX, Prompt
from node.services.gateway import ChatRequest

MAX_TOKENS_DEFAULT = 16
"""OpenAI's own default for completions."""
PROMPTS_MAX = 64
"""Prompts times answers in one call: they run side by side."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=PROMPT_IDS_MAX, fail_fast=True)]


class CompletionParameters(GenerationParameters):
    """A request for completions."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=PROMPTS_MAX, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=PROMPTS_MAX, fail_fast=True)]
    )
    echo: bool = False
    logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one or several."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        ids = [entry for entry in prompt if isinstance(entry, int)]
        return [ids] if ids else [entry for entry in prompt if not isinstance(entry, int)]

    def requests(self) -> list[ChatRequest]:
        """Return one request for each answer: those to the first prompt, those to the second… Raises ApiError."""
        self.check_options()
        prompts = self.prompts()
        if len(prompts) * self.n > PROMPTS_MAX:
            raise invalid(f"n: at most {PROMPTS_MAX} answers in one call, prompts times n", "n")
        if self.echo and (self.logprobs is not None or not all(isinstance(prompt, str) for prompt in prompts)):
            raise invalid("echo: goes with prompts of text, without logprobs", "echo")
        sampling = self.sampling()
        return [
            ChatRequest(
                model_id=self.model_id,
                prompt=_prompt_of(prompt),
                max_tokens=self.max_tokens or MAX_TOKENS_DEFAULT,
                sampling=sampling,
                seed=seed_of_choice(self.seed, index),
                stop=self.stops,
                logprobs=self.logprobs,
                private=self.quern.private,
            )
            for prompt in prompts
            for index in range(self.n)
        ]

    def echoed(self, index: int) -> str:
        """Return what stands before answer `index`: its prompt, if that was asked for."""
        prompt = self.prompts()[index // self.n] if self.echo else ""
        return prompt if isinstance(prompt, str) else ""


def _prompt_of(prompt: str | list[int]) -> Prompt:
    return Prompt(text=prompt) if isinstance(prompt, str) else Prompt(token_ids=tuple(prompt))
