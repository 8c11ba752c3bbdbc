"""What cannot be audited at once is tried again in rounds, with whatever engine and holder is there by then."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio.testing

from node.ports import EngineFailedError
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_tasks import AuditTask, abstention, task_order
from node.protocol.audit_votes import REJUDGED
from node.protocol.draws import Prefill
from node.protocol.findings import AuditVote
from node.protocol.identifiers import Hash32, ModelId, NodeId
from node.protocol.pricing import receipt_digest
from node.services import auditing, evidence_keeping
from node.services.audit_asking import NotHandedOverError
from node.services.auditing import ASKED_AGAIN_MIN, ROUNDS_FOR_ALL, asked_again
from node.services.kept_audits import KeptAudits
from tests.builders import TINY, account
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, evidence_of
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.services.audit_bench import CONTEXT, NO_PROMPT, Auditor, Engine, engine_with


@pytest.mark.parametrize("members", [0, 1, 8, 9, 40, 512])
def test_what_nobody_has_is_asked_for_of_all_at_first_and_then_of_few_in_turns(members: int) -> None:
    others = [account(number + 10) for number in range(members)]
    assert asked_again(others, 0) == others
    asked = [asked_again(others, number) for number in range(1, 2 * ROUNDS_FOR_ALL + 1)]
    assert {len(some) for some in asked} == {min(members, max(ASKED_AGAIN_MIN, -(-members // ROUNDS_FOR_ALL)))}
    assert all(len(set(some)) == len(some) for some in asked)
    for first in range(ROUNDS_FOR_ALL):
        assert {one for some in asked[first : first + ROUNDS_FOR_ALL] for one in some} == set(others)


async def test_an_answer_that_is_not_handed_over_is_asked_of_its_executor_in_every_round(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    numbers = range(20, 120)
    group = group_of((2, 10, (TINY,)), (3, 10, (TINY,)), *((number, 10, (TINY,)) for number in numbers))
    peers = {account(number): SimpleNamespace(peer_id=f"peer-{number}") for number in (2, 3, *numbers)}
    monkeypatch.setattr(auditor.service._chain, "state", SimpleNamespace(participants=peers, results={}))
    asked: list[Sequence[str]] = []

    async def ask(_network: object, holders: Sequence[str], *_what: object, **_how: object) -> AuditEvidence:
        asked.append(holders)
        if len(asked) == 4:
            return evidence_of(NO_PROMPT)
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", ask)
    task = AuditTask(EXECUTOR, REJUDGED, receipt_digest(evidence_of(NO_PROMPT).signed.receipt), None)
    work = replace(auditor.round, previous=replace(auditor.round.previous, group=group))
    await auditor.service._expect({}, {EXECUTOR: [task]})
    await auditor.service._in_rounds([task], work)
    assert {holders[0] for holders in asked} == {peers[EXECUTOR].peer_id}
    assert [len(holders) for holders in asked] == [101, 11, 11, 11]


OTHER = ModelId("other")
ROUND = auditing.ROUND_SECONDS


async def audit(auditor: Auditor, *evidence: AuditEvidence, seconds: float = 7200) -> list[AuditVote]:
    """Audit answers as if each were another executor's, in rounds, until the end of `seconds`."""
    tasks = [AuditTask(EXECUTOR, REJUDGED, receipt_digest(one.signed.receipt), None) for one in evidence]
    auditor.holders |= {task.digest: one for task, one in zip(tasks, evidence, strict=True)}
    service = auditor.service
    service._votes = KeptAudits(service._store, auditor.round.epoch)
    await service._expect({}, {EXECUTOR: tasks})
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(service._in_rounds, [task], auditor.round)
    return [service._votes[task_order(task)] for task in tasks]


def reads(engine: Engine) -> None:
    """Have an engine read answers, of which no token is likely to it."""
    vars(engine)["prefill"] = engine_with(CONTEXT, engine.asked)


def hangs(engine: Engine) -> None:
    """Have an engine answer nobody for as long as its connection waits."""

    async def prefill(token_ids: tuple[int, ...], _first: int, **_options: object) -> list[Prefill]:
        engine.asked.append(token_ids)
        await trio.sleep(600)
        raise EngineFailedError("silence")

    vars(engine)["prefill"] = prefill


def answers(count: int, model_id: ModelId = TINY) -> list[AuditEvidence]:
    return [evidence_of(replace(ANSWER, output_ids=(4, 5 + number)), model_id=model_id) for number in range(count)]


def serve_both(auditor: Auditor) -> None:
    """Have the group serve another model, too."""
    group = auditor.round.previous.group
    both = (*group.models, *(replace(model, model_id=OTHER) for model in group.models))
    auditor.round = replace(auditor.round, previous=replace(auditor.round.previous, group=replace(group, models=both)))


async def test_an_answer_waits_for_a_model_that_is_still_loading(auditor: Auditor, autojump_clock: object) -> None:
    """After a restart of the daemon, or of the engine: an audit that is not done costs its auditor, too."""
    reads(auditor.engine)
    auditor.engine.model_id = None
    async with trio.open_nursery() as nursery:

        async def load() -> None:
            await trio.sleep(300)
            asked = len(auditor.asked)
            auditor.engine.model_id = TINY
            assert asked == 1  # what cannot be read yet is not asked for in each round

        nursery.start_soon(load)
        (vote,) = await audit(auditor, evidence_of())
    assert vote.figures.tokens == 2
    assert len(auditor.engine.asked) == 1


async def test_a_model_that_never_comes_is_time_that_was_missing_and_one_that_is_not_expected_is_none(
    auditor: Auditor, autojump_clock: object
) -> None:
    auditor.engine.model_id = None
    (vote,) = await audit(auditor, evidence_of())
    assert vote.reason == "no-time"
    auditor.engine.node_id = NodeId("of another")
    (vote,) = await audit(auditor, evidence_of(replace(ANSWER, output_ids=(4, 6))))
    assert vote.reason == "no-model"


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_an_engine_in_trouble_leaves_its_audits_to_another_with_its_model(
    trouble: str, auditor: Auditor, autojump_clock: object
) -> None:
    if trouble == "hangs":
        hangs(auditor.engine)
    else:
        vars(auditor.engine)["prefill"] = engine_with(0, auditor.engine.asked)
    second = Engine(NodeId("second"))
    reads(second)
    auditor.service._engines.append(second)
    votes = await audit(auditor, *answers(8), seconds=600 + 6 * ROUND)
    assert [vote.figures.tokens for vote in votes] == [2] * 8
    assert auditor.engine.asked


async def test_an_engine_that_hangs_keeps_no_answer_of_another_model_waiting(
    auditor: Auditor, autojump_clock: object
) -> None:
    hangs(auditor.engine)
    second = Engine(NodeId("second"), OTHER)
    reads(second)
    auditor.service._engines.append(second)
    serve_both(auditor)
    votes = await audit(auditor, *answers(4), *answers(2, OTHER), seconds=60)
    assert [vote.reason for vote in votes[:4]] == ["no-time"] * 4
    assert [vote.figures.tokens for vote in votes[4:]] == [2, 2]


@pytest.mark.parametrize("trouble", ["fails", "crashes", "is gone"])
async def test_who_handed_over_and_left_withheld_nothing(
    trouble: str, auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Though what came was too much to be kept, and could not be read at once."""
    monkeypatch.setattr(evidence_keeping, "FETCHED_BYTES_MAX", 0)
    evidence, gone = evidence_of(), list[Hash32]()
    if trouble == "fails":
        vars(auditor.engine)["prefill"] = engine_with(0, auditor.engine.asked)

    async def once(
        _network: object, _holders: object, _executor: object, digest: Hash32, *_: object, **__: object
    ) -> Any:
        if digest in gone:
            raise NotHandedOverError(WITHHELD)
        gone.append(digest)
        if trouble == "is gone":
            auditor.engine.model_id = None
        return evidence

    async def load() -> None:
        await trio.sleep(3 * ROUND)
        auditor.engine.model_id = TINY

    monkeypatch.setattr(auditing, "ask_for_evidence", once)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        (vote,) = await audit(auditor, evidence, seconds=100)
    assert vote.reason == ("no-time" if trouble == "is gone" else "engine-failed")
    assert vote.receipt_digest == receipt_digest(evidence.signed.receipt)


async def test_who_never_handed_over_withheld_it(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def nothing(*_what: object, **_how: object) -> Any:
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", nothing)
    (vote,) = await audit(auditor, evidence_of(), seconds=100)
    assert vote.reason == WITHHELD


@pytest.mark.parametrize(
    ("draw", "hanging", "reason"), [(REJUDGED, 1, "no-time"), (REJUDGED, 2, WITHHELD), (0, 1, WITHHELD)]
)
async def test_what_is_judged_again_was_not_withheld_before_all_were_asked_for_it(
    draw: int,
    hanging: int,
    reason: str,
    auditor: Auditor,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else slow asking, at the end of the votes, would be a vote against whoever judged it."""
    asked: list[object] = []

    async def ask(*what: object, **_how: object) -> AuditEvidence:
        asked.append(what)
        if len(asked) == hanging:
            await trio.sleep_forever()
        raise NotHandedOverError(WITHHELD)

    monkeypatch.setattr(auditing, "ask_for_evidence", ask)
    evidence = evidence_of()
    digest = receipt_digest(evidence.signed.receipt)
    task = AuditTask(EXECUTOR, draw, digest, None)
    service = auditor.service
    service._votes = KeptAudits(service._store, auditor.round.epoch)
    service._votes[task_order(task)] = abstention(task, "no-time")
    with trio.move_on_after(100):
        await service._in_rounds([task], auditor.round)
    assert len(asked) == hanging
    assert service._votes[task_order(task)].reason == reason
