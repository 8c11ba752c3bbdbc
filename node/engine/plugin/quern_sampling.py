"""A logits processor for vLLM's V1 model runner: requests that ask for it are drawn by the rule of Quern.

vLLM finds this file by PYTHONPATH and the entry point in the `.dist-info` beside it. A request carries
`vllm_xargs: {"quern_draw": "1 SEED TEMPERATURE TOP_K TOP_P MIN_P"}` (integers; thousandths but for seed and top_k) and
is greedy otherwise: the token that the rule gives gets the largest logit there is, after log-probabilities were taken.
Requests without it, and what vLLM tells of log-probabilities, are not touched. Runs in the engine's environment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from quern_draws import Chooser, Draw, DrawTable  # a neighbour, by PYTHONPATH
from quern_fields import DRAW_WORDS, draw_of, read_numbers, refuse_unless
from quern_winners import log, offer, read_wanted
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

FIELD = "quern_draw"
PLAIN = (
    ("temperature", 0.0),
    ("presence_penalty", 0.0),
    ("frequency_penalty", 0.0),
    ("repetition_penalty", 1.0),
    ("min_tokens", 0),
)
"""What a request's other parameters must be: each of the others would change logits before or after the draw."""
ABSENT = ("logit_bias", "bad_words", "allowed_token_ids", "structured_outputs")
CERTAIN = torch.finfo(torch.float32).max


@dataclass
class Row:
    """A request in the batch."""

    draw: Draw
    prompt_length: int
    output: Sequence[int]
    """Tokens drawn so far; vLLM appends to it."""


def read_draw(parameters: Any) -> Draw | None:
    """Return what a request wants, None if nothing of us. Raises ValueError, which the server answers with 400."""
    numbers = read_numbers(parameters, FIELD, DRAW_WORDS)
    if numbers is None:
        return None
    refuse_unless(
        FIELD,
        (all(getattr(parameters, name) == plain for name, plain in PLAIN), "other sampling parameters must be greedy"),
        (not any(getattr(parameters, name, None) for name in ABSENT), "nothing else may change the logits"),
    )
    return draw_of(FIELD, *numbers)


class QuernDraws(LogitsProcessor):  # type: ignore[misc]  # the daemon's environment has no vLLM
    """Draws for the requests that ask for it, whatever else is in the batch."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request that means something else than it would get."""
        read_draw(sampling_params)
        read_wanted(sampling_params)

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        del vllm_config, is_pin_memory
        if torch.device(device).type != "cpu":
            raise ValueError("this plug-in is for CPUs; engines on GPUs draw by the rule themselves")
        # Whose instance is making us; the API server's process, which has none, need not import it.
        try:
            from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # noqa: PLC0415 - as said
        except ImportError:  # another vLLM than ours: it draws by the rule, and tells of no winners
            log.warning("quern: this vLLM keeps its model runner elsewhere; no winners are told")
        else:
            offer(GPUModelRunner)
        self._rows: dict[int, Row] = {}
        self._chooser = Chooser()
        self._order: list[int] = []
        self._indices = torch.zeros(0, dtype=torch.int64)
        self._table: DrawTable | None = None

    def is_argmax_invariant(self) -> bool:
        """The draw decides the argmax."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the batch: removed, added, moved, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, parameters, prompt, output in batch_update.added:
            draw = read_draw(parameters)
            if draw is None:
                self._rows.pop(index, None)
            elif prompt is None:
                raise ValueError("a prompt without token ids has no positions to draw for")
            else:
                self._rows[index] = Row(draw, len(prompt), output)
        for source, target, direction in batch_update.moved:
            row, other = self._rows.pop(source, None), self._rows.pop(target, None)
            if row is not None:
                self._rows[target] = row
            if other is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = other
        self._order = sorted(self._rows)
        self._indices = torch.tensor(self._order, dtype=torch.int64)
        self._table = DrawTable([self._rows[index].draw for index in self._order]) if self._order else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Give the chosen tokens the largest logit."""
        if self._table is None:
            return logits
        rows = [self._rows[index] for index in self._order]
        positions = np.fromiter((row.prompt_length + len(row.output) - 1 for row in rows), np.int64, len(rows))
        whole = len(rows) == logits.shape[0]
        wanted = (logits if whole else logits[self._indices]).numpy()
        tokens = torch.from_numpy(self._chooser.choose(wanted, self._table, positions))
        logits[self._indices, tokens] = CERTAIN
        return logits
