"""Whether the tokens of a receipt are those that its model gives: one prefill by an engine of one's own."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from node.ports import Prefiller
from node.protocol.audits import answer_figures, judge_figures
from node.protocol.calibration import HonestBand
from node.protocol.dossiers import Dossier
from node.protocol.draws import Drawn, token_margins
from node.protocol.identifiers import ModelId
from node.protocol.verdicts import Verdict
from node.protocol.verification import Check, Outcome, fails, holds, unchecked

CANDIDATES = 50
"""Likeliest tokens asked for at each place; engines give up to 64. Fewer would hide rivals with much noise."""
PRIORITY = 10
"""After users."""
LARGE_MARGIN = 0.25
"""In units of logits. Honest machines of another kind stay below nearly always (docs/protocol.md)."""
LARGE_FREE = 1
LARGE_PERCENT_MAX = 5
"""One token, and one in twenty, may be off: another kernel, a tie. Another model or seed is off everywhere."""
MEAN_MARGIN_MAX = 0.1
PERCENT = 100


@runtime_checkable
class CheckingEngine(Prefiller, Protocol):
    """An ML node that can check tokens of others."""

    @property
    def model_id(self) -> ModelId | None:
        """The model that is loaded and ready, or None."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids run from 0 to this, exclusive."""


async def check_tokens(
    dossier: Dossier, engine: CheckingEngine, loaded_cid: str | None, band: HonestBand | None = None
) -> Check:
    """Check the answer's tokens with `engine`, whose model is the version `loaded_cid`. Raises EngineFailedError.

    With a `band` the rule of audits (audits.py) is asked as well: what it proves, it proves to everybody.
    """
    receipt, answer = dossier.signed.receipt, dossier.answer
    reason = ""
    if answer is None:
        reason = "the answer is not in the file"
    elif not receipt.is_verifiable:
        reason = "they were drawn outside the rule (penalties, biases or a format), so there is nothing to compare"
    elif not answer.output_ids or not answer.prompt_ids:
        reason = "there are none"
    elif engine.model_id != receipt.model_id:
        reason = f"the engine has {engine.model_id or 'no model'} loaded, not {receipt.model_id}"
    elif loaded_cid != receipt.model_cid:
        reason = f"the engine has another version of {receipt.model_id} loaded: {loaded_cid}"
    elif max(*answer.prompt_ids, *answer.output_ids) >= engine.vocabulary_size:
        return fails("tokens", "some are none of the model's")
    if answer is None or reason:
        return unchecked("tokens", reason)
    whole = (*answer.prompt_ids, *answer.output_ids)
    # With winners where what they are judged by was measured so; the limits of `judge_margins` leave room for them.
    drawn = Drawn(answer.seed, answer.sampling) if band is None or band.knows_winners else None
    prefills = await engine.prefill(whole, len(answer.prompt_ids), top=CANDIDATES, priority=PRIORITY, drawn=drawn)
    margins = token_margins(
        len(answer.prompt_ids), answer.output_ids, prefills, answer.seed, answer.sampling, engine.vocabulary_size
    )
    found = judge_margins(margins)
    if band is None or found.outcome is Outcome.FAILS:
        return found
    figures = answer_figures(
        len(answer.prompt_ids), answer.output_ids, prefills, answer.seed, answer.sampling, engine.vocabulary_size
    )
    verdict, reason = judge_figures(figures, band)
    if verdict is Verdict.INVALID:
        return fails("tokens", f"{found.detail}; an audit would prove that they are not the model's, by {reason}")
    return found


def judge_margins(margins: Sequence[float]) -> Check:
    """Say whether tokens that are off by `margins` are the model's."""
    large = sum(margin >= LARGE_MARGIN for margin in margins)
    mean = sum(margins) / len(margins)
    exact = sum(margin == 0 for margin in margins)
    found = f"{exact} of {len(margins)} are exactly the rule's choice, {large} are far from it, mean margin {mean:.3f}"
    if mean > MEAN_MARGIN_MAX or large > LARGE_FREE + len(margins) * LARGE_PERCENT_MAX / PERCENT:
        return fails("tokens", f"{found}: this model did not draw them so")
    return holds("tokens", found)
