"""Has vLLM's V1 model runner tell of the rule's winners beside the likeliest tokens of a prompt.

Purpose: who checks an answer by prefill is told of the likeliest tokens of each place. A token beyond them that has
much noise may be the one that the rule of Quern draws, and then a wrong token looks better than it is. A request for
log-probabilities of its prompt that carries `vllm_xargs: {"quern_winners": "1 SEED TEMPERATURE TOP_K TOP_P MIN_P
FIRST"}` is told of one likely token less, and of the winner instead, for each place of the prompt from FIRST on: the
last column has the token that the rule draws there with this seed, out of the whole vocabulary, and its
log-probability, whether it is among the likeliest or not. So the winner is the token of the largest rank. And whoever
wants to be told only of places from one on (`quern_columns`) costs the engine no logits of the others.

Detail: the runner's own function does all the work; it is called once for each request that asks, with the model's
function that makes logits and the sampler's that picks the columns replaced for so long. Prompts that are read in
parts, or again after vLLM made room for others, come out the same: a row's place follows from what the runner has
computed before. Other requests are not touched. Runs in the engine's environment.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from quern_draws import Chooser, Draw, DrawTable  # a neighbour, by PYTHONPATH
from quern_fields import DRAW_WORDS, draw_of, read_numbers, refuse_unless
from vllm.v1.outputs import LogprobsTensors

try:
    from quern_columns import first_place
except ModuleNotFoundError:  # an operator's PYTHONPATH may name this directory without `common`: nobody tells columns

    def first_place(_: Any) -> int | None:
        """Return that no columns are asked for."""
        return None


log = logging.getLogger("vllm.quern")
"""As vLLM's own: what is said stands in the engine's log."""
FIELD = "quern_winners"
WORDS = (*DRAW_WORDS, "FIRST")
NEEDED = frozenset(
    {
        "num_prompt_logprobs", "requests", "num_computed_tokens", "prompt_token_ids", "model", "compute_logits",
        "sampler", "gather_logprobs",
    }
)  # fmt: skip

"""What the runner's function must use for ours to mean what it says: as in vLLM 0.32."""
METHOD = "_get_prompt_logprobs_dict"
TABLES = ("logprob_token_ids", "logprobs", "selected_token_ranks")
"""What the sampler picks of each row."""


@dataclass(frozen=True)
class Wanted:
    """What a request wants to know."""

    draw: Draw | None
    """None: no winners."""
    first: int
    """Index in the prompt of the first token whose place is asked about; at least 1, as nothing draws the first."""
    columns_from: int | None
    """Index of the first token of which anything is told, as columns; None: of all, in vLLM's own way."""


def read_wanted(parameters: Any) -> Wanted | None:
    """Return what a request wants, None if nothing of us. Raises ValueError, which the server answers with 400."""
    columns_from = first_place(parameters)
    numbers = read_numbers(parameters, FIELD, WORDS)
    if numbers is None:
        return None if columns_from is None else Wanted(None, 1, columns_from)
    *drawn, first = numbers
    draw = draw_of(FIELD, *drawn)
    refuse_unless(
        FIELD,
        (first >= 1, "the first token of a prompt is not drawn"),
        ((parameters.prompt_logprobs or 0) >= 1, "prompt_logprobs must be at least 1: the winner takes a column"),
    )
    return Wanted(draw, first, columns_from)


def offer(runner: type[Any]) -> bool:
    """Have all runners of this class tell of winners. Return whether they do: another vLLM may work another way."""
    original = getattr(runner, METHOD, None)
    if getattr(original, "tells_winners", False):
        return True
    code = getattr(original, "__code__", None)
    if original is None or code is None or not NEEDED.issubset(code.co_names):
        log.warning("Quern's plug-in does not know this vLLM's model runner: %s is not offered", FIELD)
        return False
    setattr(runner, METHOD, _telling_winners(original))
    return True


def _telling_winners(original: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    chooser = Chooser()

    def told(runner: Any, hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        everybody = runner.num_prompt_logprobs
        wanted = {name: _wanted_of(runner, name) for name in everybody if name in num_scheduled_tokens}
        asking = {name: found for name, found in wanted.items() if found is not None}
        if not asking:
            return original(runner, hidden_states, num_scheduled_tokens)

        def told_of(names: list[str]) -> dict[str, Any]:
            runner.num_prompt_logprobs = part = {name: everybody[name] for name in names}
            try:
                return original(runner, hidden_states, num_scheduled_tokens)
            finally:
                runner.num_prompt_logprobs = everybody
                for name in names:  # the runner strikes out who has been told of its whole prompt
                    if name not in part:
                        del everybody[name]

        found = told_of([name for name in everybody if name not in asking])
        for name, what in asking.items():
            part = _Part(runner, chooser, what, runner.requests[name].num_computed_tokens)
            # An attribute of this one model, or sampler, goes before its class's function.
            runner.model.compute_logits = part.compute_logits
            runner.sampler.gather_logprobs = part.gather
            try:
                found |= told_of([name])
            finally:
                del runner.model.compute_logits, runner.sampler.gather_logprobs
        return found

    told.tells_winners = True  # type: ignore[attr-defined]  # a mark, so that it is not wrapped twice
    return told


def _wanted_of(runner: Any, name: str) -> Wanted | None:
    request = runner.requests.get(name)
    return None if request is None else read_wanted(request.sampling_params)


class _Part:
    """The functions that the runner calls for one request's part of a step."""

    def __init__(self, runner: Any, chooser: Any, wanted: Wanted, start: int) -> None:
        """`start`: index of the token that the first row is computed from."""
        self._compute_logits = runner.model.compute_logits
        self._gather = runner.sampler.gather_logprobs
        self._chooser = chooser
        self._wanted = wanted
        self._start = start

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the logits of the rows that are told; of one at least, as models know no empty batch."""
        return self._compute_logits(hidden_states[self._untold(len(hidden_states)) :])

    def _untold(self, rows: int) -> int:
        # The row of a token is that of the one before it: the last that is read when it is drawn.
        return min(max(0, (self._wanted.columns_from or 1) - 1 - self._start), rows - 1)

    def gather(self, scores: torch.Tensor, count: int, token_ids: torch.Tensor) -> Any:
        """Pick columns as the runner does, but the winner for the last; zeros in rows that are not told."""
        untold = len(token_ids) - len(scores)
        gather = self._gather if self._wanted.columns_from is None else columns_of
        told = gather(scores, count, token_ids[untold:])
        if self._wanted.draw is not None:
            self._put_winners(told, scores, self._wanted.draw, self._start + untold)
        if untold:
            told = told._replace(**{name: _after_zeros(getattr(told, name), untold) for name in TABLES})
        return told

    def _put_winners(self, told: Any, scores: torch.Tensor, draw: Draw, start: int) -> None:
        skipped = max(0, self._wanted.first - 1 - start)
        rows = scores[skipped:].float()
        if len(rows):
            positions = np.arange(start + skipped, start + skipped + len(rows))
            winners = torch.from_numpy(self._chooser.choose(rows.numpy(), DrawTable([draw] * len(rows)), positions))
            told.logprob_token_ids[skipped:, -1] = winners.to(told.logprob_token_ids.dtype)
            told.logprobs[skipped:, -1] = rows.gather(-1, winners.unsqueeze(-1)).squeeze(-1)


def columns_of(scores: torch.Tensor, count: int, token_ids: torch.Tensor) -> LogprobsTensors:
    """Pick the columns that vLLM's sampler does; ranks are all 0.

    Columns tell no ranks, and to count how many tokens of a large vocabulary are likelier takes longer than to find
    the likeliest.
    """
    likeliest = torch.topk(scores, count, dim=-1)
    own = token_ids.unsqueeze(-1)
    chosen = torch.cat((own, likeliest.indices), dim=1).to(torch.int32)
    logprobs = torch.cat((scores.gather(-1, own), likeliest.values), dim=1)
    return LogprobsTensors(chosen, logprobs, torch.zeros(len(chosen), dtype=torch.int32))


def _after_zeros(table: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat((table.new_zeros((rows, *table.shape[1:])), table))
