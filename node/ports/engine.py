"""An ML node's engine as services see it: answers, embeddings, proofs of compute and the checks of audits."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from node.protocol.draws import Drawn, Prefill
from node.protocol.identifiers import ModelId, NodeId
from node.protocol.sampling import SamplingParameters, TokenLogprobs


class EngineFailedError(Exception):
    """The engine died, wedged or answered nonsense: the request may be retried elsewhere."""


class EngineRefusedError(Exception):
    """The engine refused the request itself: retrying elsewhere will not help."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation. The fields that only tools need are empty elsewhere."""

    role: str
    content: str
    name: str = ""
    tool_call_id: str = ""
    tool_calls: str = ""
    """A JSON array in OpenAI's shape."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate from token ids."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParameters
    seed: int
    stop: tuple[str, ...]
    """Texts that end the answer. The one that does is part of the text: who shows it cuts it off (stops.py)."""
    priority: int
    """Lower runs first: 0 for users, 10 for mining and audits."""
    logprobs: int | None = None
    """Alternatives per token to tell the log-probabilities of; None for none at all."""
    response_format: str = ""
    """What the answer must look like: JSON in OpenAI's shape of `response_format`, or empty."""
    private: bool = False
    """Nothing of it is logged, and no other request can find out from the engine's cache that it was there."""

    @property
    def is_verifiable(self) -> bool:
        """Whether there is a rule that gives its tokens: a format bars tokens, which no auditor knows."""
        return self.sampling.is_verifiable and not self.response_format


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """Some tokens of an answer. The last chunk, and only it, has a finish reason (`stop` or `length`)."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if the request asked for them."""


@runtime_checkable
class PushedChunks(Protocol):
    """The chunks of a generation where the engine's way is to hand them over, many streams in one turn."""

    async def push_to(self, take: Callable[[Sequence[GenerationChunk]], bool]) -> None:
        """Hand what comes together to `take` until the end, or until that returns False. Instead of iterating.

        `take` is called in any task, and must not block. Raises what `take` raises, and what iterating would.
        """


class Engine(Protocol):
    """One ML node: an engine that serves one model at a time."""

    @property
    def node_id(self) -> NodeId:
        """The ML node's name."""

    @property
    def model_id(self) -> ModelId | None:
        """The model that is loaded and ready, or None."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive. Only meaningful while a model is ready."""

    async def render_chat(self, messages: Sequence[ChatMessage], tools: str = "") -> tuple[int, ...]:
        """Apply the model's chat template and tokenize, ready for generation. `tools`: JSON array, or empty."""

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text`, with those that the model wants before any text."""

    def generate(self, request: GenerationRequest) -> AbstractAsyncContextManager[AsyncIterator[GenerationChunk]]:
        """Generate; leaving the context aborts the generation at the engine."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """For each prompt, the natural-log probabilities of its tokens 1..L-1 given those before them."""

    async def embed(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[bytes]:
        """Return a vector for each prompt (float32, little-endian), all of one length.

        Raises EngineRefusedError if the model that is loaded answers in words.
        """


@runtime_checkable
class RuleFollower(Protocol):
    """An engine that knows whether it draws by the network's rule. One that does not say so is believed to."""

    @property
    def draws_by_rule(self) -> bool:
        """Whether its tokens are those of the rule: else its answers are signed as such that no audit can check."""


@runtime_checkable
class Prefiller(Protocol):
    """An engine that can check tokens of others: what an audit, or a user with a receipt, needs."""

    async def prefill(
        self, token_ids: Sequence[int], first: int, *, top: int, priority: int, drawn: Drawn | None = None
    ) -> list[Prefill]:
        """For each token from place `first` (1 or more) on, what the model says of it and of the `top` likeliest.

        And of the rule's winner, where the engine can tell and a draw as in `drawn` may have an unlikely one.
        """
