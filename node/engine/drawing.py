"""How a server comes to draw by the network's rule: what it is started with, what a request tells it, and a test.

vLLM's model runner V2, on GPUs, draws by the rule of itself when a request has a seed. Its V1 runner, on CPUs, has
other noise; there a plug-in of ours draws. Which it is, is found by asking the server, so that a server on another
machine, or another version of vLLM, is never believed to follow the rule when it does not.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

from node.engine.plugin import search_path
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.draws import Prefill, token_margins
from node.protocol.sampling import PER_MILLE, SamplingParameters

PLUGIN_FIELD = "quern_draw"
LOGPROBS_MAX = 64
"""Alternatives a server tells per token: audits want more than the 20 of OpenAI's API (facts: the winner is among the
likeliest 20 in 61 to 95 of 100 draws)."""
LOGPROB_MAX = 0.01
"""Above zero by rounding only."""
TEST_SEED = 0x5EED5EED5EED5EED
TEST_TOKENS = 64
TEST_TOP_K = 20
TEST_SURPRISE_MIN = 14.0
"""Nats: another noise gives the rule's tokens with a chance of one in a million. Less surprise proves nothing."""
TEST_MARGIN_MAX = 0.02
"""Log-probabilities and draws come from the same logits here; only single precision lies between."""
TOKEN_ID_PREFIX = "token_id:"  # noqa: S105 - no password
"""How vLLM writes a token, if asked for ids."""

GREEDY = SamplingParameters(temperature_milli=0)

Post = Callable[[str, dict[str, object]], Awaitable[dict[str, Any]]]


class DrawStyle(Enum):
    """How a server is made to draw by the rule."""

    PLUGIN = "plug-in"
    SEED = "seed"
    NONE = "none"
    """It cannot be: its answers hold up in no audit."""


RULE_ARGUMENTS = ("--max-logprobs", str(LOGPROBS_MAX))
"""What a server of ours is started with so that it can be audited."""


def rule_environment(*, on_cpu: bool) -> dict[str, str]:
    """Return the environment in which a server of ours draws by the rule: which of vLLM's runners, and our plug-ins.

    vLLM finds these by their entry points and leaves the one that draws out of embedding models; named on the command
    line, it would end them.
    """
    return {"VLLM_USE_V2_MODEL_RUNNER": "0" if on_cpu else "1", "PYTHONPATH": search_path(on_cpu=on_cpu)}


def draw_fields(sampling: SamplingParameters, seed: int, style: DrawStyle) -> dict[str, object]:
    """Return the fields of a request that is drawn by the rule."""
    if style is DrawStyle.PLUGIN and sampling.temperature_milli:
        # All fields are said: what a request leaves out, vLLM takes from the model's generation_config.json.
        return sampling_fields(GREEDY) | {"vllm_xargs": {PLUGIN_FIELD: draw_words(sampling, seed)}}
    return sampling_fields(sampling) | {"seed": seed}


def draw_words(sampling: SamplingParameters, seed: int, *more: int) -> str:
    """Return a draw as our plug-in reads it, with what else a field of its has."""
    numbers = (seed, sampling.temperature_milli, sampling.top_k, sampling.top_p_milli, sampling.min_p_milli)
    return " ".join(str(number) for number in (1, *numbers, *more))


def sampling_fields(sampling: SamplingParameters) -> dict[str, object]:
    """Return parameters as vLLM's own sampler takes them."""
    return {
        "temperature": sampling.temperature_milli / PER_MILLE,
        "top_p": sampling.top_p_milli / PER_MILLE,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p_milli / PER_MILLE,
        "frequency_penalty": sampling.frequency_penalty_milli / PER_MILLE,
        "presence_penalty": sampling.presence_penalty_milli / PER_MILLE,
        "repetition_penalty": sampling.repetition_penalty_milli / PER_MILLE,
        "logit_bias": {str(bias.token_id): bias.bias_milli / PER_MILLE for bias in sampling.logit_bias} or None,
    }


async def find_draw_style(post: Post) -> DrawStyle:
    """Find out how a server draws by the rule. Takes a few dozen tokens of its time. Raises EngineFailedError."""
    try:
        await post(
            "/v1/completions",
            {"prompt": [0], "max_tokens": 1, "temperature": 0, "vllm_xargs": {PLUGIN_FIELD: "are you there"}},
        )
    except EngineRefusedError as error:
        if PLUGIN_FIELD in str(error):  # only our plug-in knows the word
            return DrawStyle.PLUGIN
    return DrawStyle.SEED if await _draws_by_rule(post) else DrawStyle.NONE


async def _draws_by_rule(post: Post) -> bool:
    """Whether the server's own seeded sampler has the rule's noise."""
    sampling = SamplingParameters(temperature_milli=2000, top_k=TEST_TOP_K)
    body: dict[str, object] = {
        "prompt": [0],
        "max_tokens": TEST_TOKENS,
        **sampling_fields(sampling),
        "seed": TEST_SEED,
        "ignore_eos": True,
        "logprobs": TEST_TOP_K,
        "return_tokens_as_token_ids": True,
    }
    try:
        reply = await post("/v1/completions", body)
    except (EngineRefusedError, EngineFailedError):
        return False  # nothing depends on it: a server without the plug-in is asked the same way either way
    try:
        logprobs = reply["choices"][0]["logprobs"]
        token_ids = [read_token_id(word) for word in logprobs["tokens"]]
        prefills = [Prefill(read_candidates(top), TEST_TOP_K) for top in logprobs["top_logprobs"]]
        margins = token_margins(1, token_ids, prefills, TEST_SEED, sampling, max(token_ids) + 1)
    except (KeyError, IndexError, TypeError, ValueError):
        return False  # a server that tells no log-probabilities cannot be audited either
    surprise = sum(_surprise(token, prefill) for token, prefill in zip(token_ids, prefills, strict=True))
    return max(margins) <= TEST_MARGIN_MAX and surprise >= TEST_SURPRISE_MIN


def _surprise(token: int, prefill: Prefill) -> float:
    """How unlikely the token was in the test's draw: -ln of its probability."""
    scaled = {candidate: logprob / 2.0 for candidate, logprob in prefill.logprobs.items()}
    return math.log(math.fsum(math.exp(value) for value in scaled.values())) - scaled[token]


def read_token_id(word: object) -> int:
    """Read `token_id:17`. Raises ValueError."""
    if not isinstance(word, str) or not word.startswith(TOKEN_ID_PREFIX):
        raise ValueError("expected a token's id")
    return int(word.removeprefix(TOKEN_ID_PREFIX))


def read_logprob(value: object) -> float:
    """Read a log-probability. Raises ValueError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -math.inf < value <= LOGPROB_MAX:
        raise ValueError("expected a log-probability")
    return float(value)


def read_candidates(top: Mapping[str, object]) -> dict[int, float]:
    """Read the log-probabilities of one place, by token id, likeliest first. Raises ValueError."""
    found = {}
    for word, logprob in top.items():
        found[read_token_id(word)] = read_logprob(logprob)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
