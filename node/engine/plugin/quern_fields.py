"""Reads what a request asks of Quern's plug-in: `vllm_xargs` of one word, a version and integers.

Integers are thousandths but for seeds, counts and places. What is not exactly as it should be is refused, not guessed
at: the server answers with 400 where reading raises ValueError. Runs in the engine's environment.
"""

import re
from collections.abc import Sequence
from typing import Any

from quern_draws import Draw  # a neighbour, by PYTHONPATH

VERSION = "1"
INTEGER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
"""In its only spelling."""
DRAW_WORDS = ("SEED", "TEMPERATURE", "TOP_K", "TOP_P", "MIN_P")
SEED_MAX = 2**63 - 1
TEMPERATURE_MILLI_MAX = 2000
TEMPERATURE_MILLI_LEAST = 10
"""Lower ones count as this, as in vLLM's own sampler."""
TOP_K_MAX = 1 << 20


def read_numbers(parameters: Any, field: str, words: Sequence[str]) -> list[int] | None:
    """Return the numbers that a request gives in `field`, one for each of `words`; None if it has no such field."""
    text = (parameters.extra_args or {}).get(field)
    if text is None:
        return None
    version, *numbers = text.split(" ") if isinstance(text, str) else ("",)
    if version != VERSION or len(numbers) != len(words) or not all(INTEGER.fullmatch(number) for number in numbers):
        raise ValueError(f"{field} is not '{VERSION} {' '.join(words)}'")
    return [int(number) for number in numbers]


def draw_of(field: str, seed: int, temperature: int, top_k: int, top_p: int, min_p: int) -> Draw:
    """Return the draw that numbers in the order of DRAW_WORDS mean."""
    refuse_unless(
        field,
        (seed <= SEED_MAX, "a seed is at most 2^63-1"),
        (1 <= temperature <= TEMPERATURE_MILLI_MAX, "a temperature is 1 to 2000 thousandths; 0 needs no draw"),
        (top_k <= TOP_K_MAX, f"top_k is at most {TOP_K_MAX}"),
        (1 <= top_p <= 1000, "top_p is 1 to 1000 thousandths"),
        (min_p <= 1000, "min_p is at most 1000 thousandths"),
    )
    return Draw(seed, max(temperature, TEMPERATURE_MILLI_LEAST), top_k, top_p, min_p)


def refuse_unless(field: str, *rules: tuple[bool, str]) -> None:
    """Raise ValueError with the first rule that does not hold."""
    for holds, rule in rules:
        if not holds:
            raise ValueError(f"{field}: {rule}")
