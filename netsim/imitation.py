"""Engines that run nearly the model: quantised, without some layers, or over a part of the prompt.

Their numbers are an honest machine's with noise on top that follows from what they run, so that two of a kind agree.
How much noise is what docs/soundness.md measured: squared distances of vectors, and how far drawn tokens fall short.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from netsim.engine import DrawingEngine
from node.protocol.nonces import VECTOR_SCALE

LOGPROB_DEVIATION = 10.0 / math.sqrt(12)
"""Of the simulator's exact log-probabilities, which are uniform over 10."""
SPREAD = 0.18
"""Standard deviation of the logarithm of the noise from prompt to prompt: as int8's measured distances spread."""


@dataclass(frozen=True, slots=True)
class Imitation:
    """What is run instead of the model."""

    name: str
    distance_median: int
    """Of its nonces' vectors, squared, from the reference's (nonces.py)."""
    logit_noise: float
    """Standard deviation of its logits; chosen so that its tokens fall short as much as was measured."""

    @property
    def logprob_noise(self) -> float:
        """Standard deviation of its log-probabilities that puts vectors so far apart.

        Noise of r standard deviations of the numbers themselves turns a vector by an angle of cosine 1/√(1 + r²).
        """
        cosine = 1.0 - self.distance_median / VECTOR_SCALE**2 / 2.0
        return LOGPROB_DEVIATION * math.sqrt(1.0 / cosine**2 - 1.0)


INT8 = Imitation("int8", 81_948, 0.02)
FP8 = Imitation("fp8", 546_339, 0.04)
INT4 = Imitation("int4", 5_917_806, 0.18)
LAYERS_DROPPED = Imitation("layers-dropped", 110_734_373, 1.0)
TRUNCATED_PROMPT = Imitation("truncated-prompt", 0, 0.45)
"""Answers without the first 32 of 64 tokens; it mines with whole prompts."""


@dataclass(slots=True)
class ImitatingEngine(DrawingEngine):
    """A machine that computes an imitation's numbers."""

    imitation: Imitation = INT8
    for_users_only: bool = False
    """It proves and audits with the model itself."""

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        """The honest numbers, and noise."""
        rows = await super(ImitatingEngine, self).prompt_logprobs(prompts, priority=priority)
        if self.for_users_only:
            return rows
        return [self._with_noise(prompt, row) for prompt, row in zip(prompts, rows, strict=True)]

    def _with_noise(self, prompt: Sequence[int], row: Sequence[float]) -> list[float]:
        source = random.Random(f"{self.imitation.name}/{list(prompt)}")
        noise = self.imitation.logprob_noise * math.exp(source.gauss(0.0, SPREAD))
        return [value + source.gauss(0.0, noise) for value in row]

    def _answering(self, context: Sequence[int]) -> dict[int, float]:
        known = super(ImitatingEngine, self)._answering(context)
        source = random.Random(f"{self.imitation.name}/{list(context)}")
        return {token: value + source.gauss(0.0, self.imitation.logit_noise) for token, value in known.items()}
