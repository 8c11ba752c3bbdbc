"""An auditor's epoch: what is drawn, what goes into its bundle, and what is told when its votes are not counted."""

from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio.testing
from structlog.testing import capture_logs

from node.protocol.audit_majorities import DRAWN_AGAIN
from node.protocol.audit_sampling import drawn_rows, draws_of
from node.protocol.audit_tasks import AuditTask
from node.protocol.audit_votes import check_audits
from node.protocol.chain_state import ChainState
from node.protocol.events import ModelRecorded
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook
from node.protocol.identifiers import EpochNumber, Hash32, NodeId
from node.protocol.omissions import EMPTY_BOOK
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import book_bytes, make_book, order_rows
from node.protocol.records import VoteBundle
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from node.services import auditing
from node.services.auditing import _Round
from tests.builders import PARAMETERS, SOME_CID, TINY, account, model, state_of, unasked_row
from tests.unit.protocol.audited_group import SEED, band_of, previous
from tests.unit.protocol.test_audit_evidence import EXECUTOR, evidence_of
from tests.unit.services.audit_bench import Auditor


async def test_what_is_drawn_again_is_audited_once_and_every_other_draw_of_it_is_voted_on(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence there would leave the draw to whoever says something."""
    rows = order_rows([unasked_row(Hash32(n.to_bytes(32)), 5) for n in range(1, 4)])
    book = make_book(rows, SOME_CID)
    asked: list[AuditTask] = []

    async def read_bytes(*_where: object, **_limit: object) -> bytes:
        return book_bytes(rows)

    async def in_rounds(tasks: Collection[AuditTask], _work: _Round) -> None:
        asked.extend(tasks)

    service = auditor.service
    service._content = cast(Any, SimpleNamespace(read_bytes=read_bytes))
    service._presence = cast(Any, SimpleNamespace(providers=lambda _executor: ()))
    monkeypatch.setattr(service, "_in_rounds", in_rounds)
    draws, drawn = range(draws_of(book)), drawn_rows(SEED, EXECUTOR, book, rows, auditor.round.previous.group)
    assert len(drawn) < len(draws)
    await service._expect({EXECUTOR: draws}, {})
    await service._audit_book(CommittedBook(EXECUTOR, book), draws, auditor.round)
    assert {task.draw: task.digest for task in asked} == {draw: row.digest for draw, row in drawn.items()}
    bundle = await service.complete(VoteBundle(service._votes.epoch, account(3), ()))
    check_audits(bundle)
    assert [vote.draw for vote in bundle.audits] == list(draws)
    assert {vote.draw for vote in bundle.audits if vote.reason == DRAWN_AGAIN} == set(draws) - drawn.keys()


async def test_a_challenge_that_would_void_the_bundle_stays_out_of_it(auditor: Auditor) -> None:
    good, bad = (evidence_of(payer=account(3), node_id=NodeId(name)).signed for name in ("node", "n" * 33))
    auditor.service.challenges = cast(Any, SimpleNamespace(take=lambda _epoch: (good, bad)))
    with capture_logs() as logs:
        bundle = await auditor.service.complete(VoteBundle(EpochNumber(5), account(3), ()))
    assert bundle.challenges == (good,)
    (told,) = [entry for entry in logs if entry["log_level"] == "error"]  # it does not come back
    assert told["receipt"] == receipt_digest(bad.receipt).hex()


OWN = account(3)


async def test_audits_are_done_though_nobody_takes_its_proofs(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    service, result = auditor.service, replace(auditor.round.previous, books=())

    async def nothing(*_what: object) -> None:
        return None

    async def found(*_what: object) -> object:
        return result

    async def seed(_block: int) -> Hash32:
        return SEED

    async def hand_over(*_what: object) -> None:
        await trio.sleep_forever()

    chain = SimpleNamespace(account=OWN, schedule=None, state_at=nothing, block_hash=seed, state=service._chain.state)
    monkeypatch.setattr(service, "_chain", chain)
    monkeypatch.setattr(service, "_epochs", SimpleNamespace(result_before=found))
    monkeypatch.setattr(service, "_keeper", SimpleNamespace(note_counted=nothing, given=auditor.given))
    monkeypatch.setattr(service._evidence, "_forget_old", nothing)
    monkeypatch.setattr(service.omission_keeping, "run", hand_over)
    monkeypatch.setattr(auditing, "first_block_of", lambda *_what: 0)
    monkeypatch.setattr(auditing, "bands_of", lambda *_what: band_of)
    challenged, forgotten = Hash32(b"c" * 32), list[Hash32]()
    auditor.given.keep(challenged, b"of a private answer")
    over = SimpleNamespace(
        held=set, over=lambda newest: (challenged,) * (newest == result.epoch), forgotten=forgotten.extend
    )
    service.challenges = cast(Any, over)
    with capture_logs() as logs, trio.move_on_after(60) as limit:
        await service._audit(EpochNumber(5))
    assert forgotten == [challenged]
    assert auditor.given.kept(challenged) is None
    assert limit.cancelled_caught  # what is handed over goes on
    assert "audits of this epoch are done" in [line["event"] for line in logs]


async def test_what_can_be_judged_follows_from_the_chain_at_the_first_block_of_serve(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, result, asked = auditor.service, replace(auditor.round.previous, books=()), list[int]()
    changed = state_of(ModelRecorded(model()), ModelRecorded(replace(model(), quantization="fp8")))
    schedule = ParameterSchedule(PARAMETERS)
    summaries = cast(Any, {EpochNumber(0): None})
    changed.results = summaries

    async def state_at(block: int) -> ChainState:
        asked.append(block)
        return changed

    async def nothing(*_what: object) -> None:
        return None

    async def found(*_what: object) -> object:
        return result

    async def audited(_draws: object, _again: object, work: _Round) -> None:
        assert work.judged_from(TINY) == 2
        asked.append(-1)

    chain = SimpleNamespace(account=OWN, schedule=schedule, state_at=state_at, block_hash=nothing)
    monkeypatch.setattr(service, "_chain", chain)
    monkeypatch.setattr(service, "_epochs", SimpleNamespace(result_before=found))
    monkeypatch.setattr(service, "_keeper", SimpleNamespace(note_counted=nothing, given=auditor.given))
    monkeypatch.setattr(service, "_evidence", SimpleNamespace(begin=nothing))
    monkeypatch.setattr(service, "_warn_of_missing_book", lambda *_what: None)
    monkeypatch.setattr(service.omission_keeping, "run", nothing)
    monkeypatch.setattr(service, "_audit_all", audited)
    await service._audit(EpochNumber(5))
    assert asked == [first_block_of(5, Stage.SERVE, schedule), -1]


UNSEEN = replace(previous(books=()), epoch=EpochNumber(4), books_before=(EarlierBook(OWN, EpochNumber(2), EMPTY_BOOK),))
"""A result without a book of this node, which was away when the one of epoch 2 took its book up."""


async def test_what_is_counted_is_noted_before_the_next_book_is_made_also_by_who_was_away(auditor: Auditor) -> None:
    noted: list[EarlierBook | None] = []

    async def note_counted(counted: EarlierBook | None) -> None:
        noted.append(counted)

    async def book(_epoch: EpochNumber, _newest_result: EpochNumber | None) -> None:
        assert noted

    service = auditor.service
    service._keeper = cast(Any, SimpleNamespace(note_counted=note_counted, book=book))
    service._epochs = cast(Any, SimpleNamespace(newest_result=lambda: UNSEEN))
    await service.complete(VoteBundle(EpochNumber(5), OWN, ()))
    assert noted == [EarlierBook(OWN, EpochNumber(2), EMPTY_BOOK)]


@pytest.mark.parametrize(
    ("missing_books", "levels"),
    [
        ((), []),
        ((MissingBook(account(9), EpochNumber(0), EpochNumber(3)),), []),
        ((MissingBook(OWN, EpochNumber(0), EpochNumber(0)),), ["warning"]),
        ((MissingBook(OWN, EpochNumber(0), EpochNumber(3)),), ["error"]),
    ],
)
def test_an_operator_is_told_when_its_votes_were_not_counted(
    auditor: Auditor, missing_books: tuple[MissingBook, ...], levels: list[str]
) -> None:
    with capture_logs() as logs:
        auditor.service._warn_of_missing_book(replace(UNSEEN, books_missing=missing_books))
    assert [entry["log_level"] for entry in logs] == levels
