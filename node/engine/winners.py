"""How a server tells of the rule's winners beside the likeliest tokens of a prompt, and whether it does.

Our plug-in does, in vLLM's V1 model runner, on CPUs (plugin/quern_winners.py). vLLM by itself does not: there an
auditor knows the likeliest tokens alone. Which it is, is found by asking, as with draws.
"""

from collections.abc import Sequence
from dataclasses import replace

from node.engine.columns import columns_from, read_prefills
from node.engine.drawing import Post, draw_words
from node.ports import EngineFailedError, EngineRefusedError
from node.protocol.draws import Drawn, Prefill, token_margins
from node.protocol.sampling import SamplingParameters

WINNERS_FIELD = "quern_winners"
TEST_PROMPT = (0,) * 33
TEST_DRAWN = Drawn(0x5EED5EED5EED5EED, SamplingParameters(temperature_milli=2000))
TEST_TOP = 20
TEST_MARGIN_MAX = 0.02
"""As with draws: only single precision lies between the engine's arithmetic and ours."""


def winner_fields(drawn: Drawn, first: int, top: int) -> dict[str, object]:
    """Return the fields of a request for `top` likeliest tokens and the winner of each place from `first` on."""
    words = draw_words(drawn.parameters, drawn.seed, first)
    return {"prompt_logprobs": top + 1, "vllm_xargs": {**columns_from(first), WINNERS_FIELD: words}}


async def finds_winners(post: Post) -> bool:
    """Find out whether a server tells of winners: by a prompt of which it does. Raises EngineFailedError."""
    fields = winner_fields(TEST_DRAWN, 1, TEST_TOP)
    try:
        reply = await post(
            "/v1/completions", {"prompt": list(TEST_PROMPT), "max_tokens": 1, "temperature": 0, **fields}
        )
    except EngineRefusedError:
        return False
    try:
        prefills = read_prefills(reply, TEST_PROMPT, 1, TEST_TOP, winners=True)
    except EngineFailedError:
        return False  # it answers, in another way than ours: nothing of it is believed
    return are_winners(prefills)


def are_winners(prefills: Sequence[Prefill]) -> bool:
    """Whether no other token that is known wins against what a server calls the winners of the test's draw.

    A server that knows no winners tells of one more of the likeliest instead, which hardly ever is one.
    """
    winners = [-1 if prefill.winner is None else prefill.winner for prefill in prefills]
    alone = [replace(prefill, winner=None) for prefill in prefills]  # it would be believed
    try:
        margins = token_margins(1, winners, alone, TEST_DRAWN.seed, TEST_DRAWN.parameters, 1 << 20)
    except ValueError:
        return False
    return max(margins) <= TEST_MARGIN_MAX
