"""An engine reads for an audit what it is to read, and no more."""

from dataclasses import replace
from typing import Any, cast

import pytest

from node.protocol import audit_evidence
from node.protocol.audit_bands import WIDEST_BAND
from node.protocol.draws import Drawn, Prefill
from node.protocol.findings import AuditFigures
from node.services import audit_reading
from node.services.audit_reading import read_figures
from tests.unit.protocol.test_audit_evidence import ANSWER, evidence_of
from tests.unit.services.audit_bench import CONTEXT, Engine, engine_with


async def test_of_a_very_long_answer_the_beginning_is_judged_so_that_its_vote_voids_no_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine()
    monkeypatch.setattr(audit_evidence, "AUDIT_TOKENS_MAX", 2)

    async def prefill(token_ids: tuple[int, ...], *_places: object, **_options: object) -> tuple[None, ...]:
        engine.asked.append(token_ids)
        return (None,) * len(token_ids)

    def figures_of(_first: int, tokens: tuple[int, ...], *_others: object) -> AuditFigures:
        return AuditFigures(len(tokens), 0, 0, 0, 0, 0, 0)

    engine.prefill = prefill  # type: ignore[method-assign]
    monkeypatch.setattr(audit_reading, "answer_figures", figures_of)
    kept = evidence_of(replace(ANSWER, output_ids=(4, 5, 6, 7))).kept
    assert kept is not None
    figures = await read_figures(cast(Any, engine), kept, WIDEST_BAND, CONTEXT)
    assert figures == AuditFigures(2, 0, 0, 0, 0, 0, 0)
    assert engine.asked == [(*ANSWER.prompt_ids, 4, 5)]


@pytest.mark.parametrize(("context", "tokens"), [(8, 4), (7, 3), (6, 2), (4, 0), (3, 0), (2, 0)])
async def test_of_an_answer_that_fills_the_context_or_more_what_an_engine_can_read_is_judged(
    context: int, tokens: int
) -> None:
    engine = Engine()
    engine.prefill = engine_with(context, engine.asked)  # type: ignore[method-assign]
    output = (4, 5, 6, 7)
    kept = evidence_of(replace(ANSWER, output_ids=output)).kept
    assert kept is not None
    figures = await read_figures(cast(Any, engine), kept, WIDEST_BAND, context)
    assert (figures.tokens if figures is not None else 0) == tokens
    assert engine.asked == ([(*ANSWER.prompt_ids, *output[:tokens])] if tokens else [])


@pytest.mark.parametrize("knows_winners", [True, False])
async def test_winners_are_asked_for_only_where_the_band_was_measured_with_them(
    knows_winners: bool,
) -> None:
    engine, asked = Engine(), list[object]()

    async def prefill(
        token_ids: tuple[int, ...], first: int, *, drawn: Drawn | None, **_options: object
    ) -> list[Prefill]:
        asked.append(drawn)
        return [Prefill({token: -0.5, 0: -3.0}, 2) for token in token_ids[first:]]

    engine.prefill = prefill  # type: ignore[method-assign]
    kept = evidence_of(ANSWER).kept
    assert kept is not None
    band = replace(WIDEST_BAND, knows_winners=knows_winners)
    assert await read_figures(cast(Any, engine), kept, band, CONTEXT)
    assert asked == [Drawn(ANSWER.seed, ANSWER.sampling) if knows_winners else None]
