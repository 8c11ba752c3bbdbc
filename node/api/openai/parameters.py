"""The parameters that chats and completions have in common, and what the network makes of them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from node.api.openai.bodies import Part
from node.api.openai.faults import invalid
from node.protocol.identifiers import ModelId
from node.protocol.sampling import (
    LOGIT_BIASES_MAX,
    PER_MILLE,
    SEED_MAX,
    TOP_K_MAX,
    LogitBias,
    SamplingParameters,
)
from node.services.frames import STOPS_MAX

MODEL_CHARACTERS_MAX = 256
"""No model's id is so long: a longer one is not looked for."""
TOKENS_ASKED_MAX = 1 << 20
CHOICES_MAX = 16
"""Answers to one prompt. Each is a request of its own, paid for with its own reading of the prompt."""
STOP_CHARACTERS_MAX = 1_024

IGNORED = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "prediction",
)
"""Parameters that do not change what is answered. All others that are not below are refused by name."""


def _few_biases(value: object) -> object:
    if isinstance(value, dict) and len(value) > LOGIT_BIASES_MAX:
        raise ValueError(f"at most {LOGIT_BIASES_MAX} of them")
    return value


StopText = Annotated[str, Field(min_length=1, max_length=STOP_CHARACTERS_MAX)]

LogitBiases = Annotated[
    dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_few_biases),
]


class StreamOptions(Part):
    """What a stream carries besides text."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Padding against those who measure encrypted pieces; streams here have none, asked for or not."""
    continuous_usage_stats: Literal[False] = False


class QuernOptions(Part):
    """What only this network has; clients send it as `extra_body={"quern": {…}}`."""

    private: bool = False
    """Nobody but the executor sees the prompt, and it keeps nothing of it."""


class GenerationParameters(Part):
    """What chats and completions share. Fields that are absent here and in them are refused, or in IGNORED."""

    model: str = Field(min_length=1, max_length=MODEL_CHARACTERS_MAX)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=TOKENS_ASKED_MAX)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1, le=TOP_K_MAX)
    """vLLM's; 0 and -1 are all tokens."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """vLLM's."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=2)
    """vLLM's."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: LogitBiases | None = None
    seed: int | None = Field(default=None, ge=0, le=SEED_MAX)
    stop: StopText | Annotated[list[StopText], Field(max_length=STOPS_MAX)] | None = None
    n: int = Field(default=1, ge=1, le=CHOICES_MAX)
    quern: QuernOptions = QuernOptions()

    @property
    def model_id(self) -> ModelId:
        """Whose answer is wanted."""
        return ModelId(self.model)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_usage_in_stream(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> SamplingParameters:
        """Return how tokens are drawn, in the network's integers."""
        return SamplingParameters(
            temperature_milli=round(self.temperature * PER_MILLE),
            top_p_milli=max(1, round(self.top_p * PER_MILLE)),
            top_k=max(0, self.top_k),
            min_p_milli=round(self.min_p * PER_MILLE),
            frequency_penalty_milli=round(self.frequency_penalty * PER_MILLE),
            presence_penalty_milli=round(self.presence_penalty * PER_MILLE),
            repetition_penalty_milli=max(1, round(self.repetition_penalty * PER_MILLE)),
            logit_bias=tuple(
                LogitBias(int(token), round(bias * PER_MILLE))
                for token, bias in sorted((self.logit_bias or {}).items())
            ),
        )

    def check_options(self) -> None:
        """Refuse what the schema alone cannot. Raises ApiError."""
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options: only streams have them; set stream to true", "stream_options")


def seed_of_choice(seed: int | None, index: int) -> int | None:
    """Return the seed of one of several answers: the first has the user's; with one for all, all would be the same."""
    return None if seed is None else (seed + index) % (SEED_MAX + 1)
