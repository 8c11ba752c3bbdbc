"""How tokens are drawn: the parameters of a request, in integers so that they hash exactly.

A draw is verifiable if anyone who has the model, the prompt and the seed can tell whether a token is the one that the
rule gives (docs/protocol.md, Verifiable sampling). Parameters outside the rule are served, and the receipt says so.
"""

from dataclasses import dataclass

PER_MILLE = 1000
TEMPERATURE_MILLI_MAX = 2000
PENALTY_MILLI_MAX = 2000
TOP_K_MAX = 1 << 20
LOGIT_BIASES_MAX = 300
"""As many as OpenAI's API takes."""
LOGIT_BIAS_MILLI_MAX = 100_000
SEED_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LogitBias:
    """Something added to the logit of one token."""

    token_id: int
    bias_milli: int


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """Parameters of a draw, in thousandths. The defaults draw from the model's own distribution."""

    temperature_milli: int = 1000
    """0 takes the most likely token."""
    top_p_milli: int = 1000
    top_k: int = 0
    """0: all tokens."""
    min_p_milli: int = 0
    frequency_penalty_milli: int = 0
    presence_penalty_milli: int = 0
    repetition_penalty_milli: int = 1000
    """1000: none."""
    logit_bias: tuple[LogitBias, ...] = ()

    def __post_init__(self) -> None:
        checks = (
            (0 <= self.temperature_milli <= TEMPERATURE_MILLI_MAX, "temperature is 0 to 2"),
            (0 < self.top_p_milli <= PER_MILLE, "top_p is above 0, at most 1"),
            (0 <= self.top_k <= TOP_K_MAX, f"top_k is 0 to {TOP_K_MAX}"),
            (0 <= self.min_p_milli <= PER_MILLE, "min_p is 0 to 1"),
            (abs(self.frequency_penalty_milli) <= PENALTY_MILLI_MAX, "frequency_penalty is -2 to 2"),
            (abs(self.presence_penalty_milli) <= PENALTY_MILLI_MAX, "presence_penalty is -2 to 2"),
            (0 < self.repetition_penalty_milli <= PENALTY_MILLI_MAX, "repetition_penalty is above 0, at most 2"),
            (len(self.logit_bias) <= LOGIT_BIASES_MAX, f"at most {LOGIT_BIASES_MAX} logit biases"),
            (
                all(abs(bias.bias_milli) <= LOGIT_BIAS_MILLI_MAX and bias.token_id >= 0 for bias in self.logit_bias),
                "a logit bias is -100 to 100, for a token id",
            ),
        )
        for holds, rule in checks:
            if not holds:
                raise ValueError(rule)

    @property
    def limits_tokens(self) -> bool:
        """Whether top_k, top_p or min_p leave tokens out of the draw."""
        return self.top_k > 0 or self.top_p_milli < PER_MILLE or self.min_p_milli > 0

    @property
    def is_verifiable(self) -> bool:
        """Whether an auditor can tell each token from the seed. Penalties are applied before the draw by one of vLLM's
        runners and after it by the other, so there is no rule for them.
        """
        return (
            self.frequency_penalty_milli == 0
            and self.presence_penalty_milli == 0
            and self.repetition_penalty_milli == PER_MILLE
            and not self.logit_bias
        )


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """A token that could have stood in a place, and how likely it was."""

    token_id: int
    text: str
    logprob_micro: int
    """Natural logarithm, in millionths."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely a token was, and what else could have stood in its place. Told by the executor, checked by audits."""

    chosen: TokenAlternative
    alternatives: tuple[TokenAlternative, ...]
    """Most likely first."""
