"""Answers of an invented model, honest or not, with what a prefill tells of them: for tests of audits.

At each place the model has CANDIDATES tokens with logits that fall off as a language model's do; `noise` is how far the
executor's own logits are from the auditor's, per logit.
"""

import math
import random
from dataclasses import dataclass

from node.protocol.audits import ClaimedLogprobs
from node.protocol.draws import Prefill, draw
from node.protocol.sampling import SamplingParameters

CANDIDATES = 40
PROMPT_LENGTH = 10
SEED = 0x1234_5678_9ABC
PLAIN = SamplingParameters()


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    prefills: list[Prefill]
    claimed: list[ClaimedLogprobs]


def answer(
    tokens: int,
    number: int = 0,
    *,
    noise: float = 0.0,
    other_model: bool = False,
    seed: int = SEED,
    flatness: float = 1.0,
    forged: bool = False,
) -> Answer:
    """Return an answer of `tokens` tokens, drawn under `seed`; with `forged` claims, those of the real model."""
    source = random.Random(f"{number}/{tokens}/{noise}/{other_model}")
    token_ids, prefills, claimed = [], [], []
    for place in range(tokens):
        real = _logits(source)
        run = _logits(source) if other_model else [logit + source.gauss(0.0, noise) for logit in real]
        drawn = draw([logit * flatness for logit in run], seed, PROMPT_LENGTH - 1 + place, PLAIN)
        known = _logprobs(real)
        token_ids.append(drawn)
        prefills.append(Prefill(dict(enumerate(known)), CANDIDATES))
        said = known if forged else _logprobs(run)
        best = sorted(range(CANDIDATES), key=lambda token: -said[token])[:5]
        micro = [round(value * 1e6) for value in said]
        claimed.append(ClaimedLogprobs(drawn, micro[drawn], tuple((token, micro[token]) for token in best)))
    return Answer(token_ids, prefills, claimed)


def _logits(source: random.Random) -> list[float]:
    peak = source.uniform(2.0, 6.0)
    logits = [peak * math.exp(-rank / source.uniform(2.0, 6.0)) + source.gauss(0.0, 0.7) for rank in range(CANDIDATES)]
    source.shuffle(logits)
    return logits


def _logprobs(logits: list[float]) -> list[float]:
    top = max(logits)
    total = top + math.log(math.fsum(math.exp(logit - top) for logit in logits))
    return [logit - total for logit in logits]
