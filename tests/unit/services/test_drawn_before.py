"""Who judges accused answers again reads none that no draw fell on, and waits for no book that would say so."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio.testing

from node.ports import BadContentError, ContentNotHeldError, ContentUnavailableError
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audit_majorities import NOT_DRAWN, WITHHELD
from node.protocol.audit_sampling import drawn_rows
from node.protocol.audit_tasks import judged_again, task_order
from node.protocol.audit_votes import check_audits
from node.protocol.findings import AuditOutcome, AuditVote, CommittedBook
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import book_bytes, booked_row, make_book, order_rows
from node.protocol.records import Asking, EpochResult, VoteBundle
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from node.protocol.verdicts import Verdict
from node.services import auditing
from node.services.audit_asking import NotHandedOverError
from node.services.auditing import HEAD_START_SECONDS, ROUND_SECONDS
from node.services.kept_audits import KeptAudits
from tests.builders import PARAMETERS, SOME_CID, TINY, account
from tests.unit.protocol.audited_group import SEED, previous
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, PAYER, evidence_of
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.services.audit_bench import CONTEXT, Auditor, engine_with

BEFORE, ACCUSING = EpochNumber(3), EpochNumber(5)
"""There was no result between these two."""
SCHEDULE = ParameterSchedule(PARAMETERS)


def answer(number: int, payer: Address = PAYER) -> AuditEvidence:
    asking = Asking(EpochNumber(3), 50, Hash32(number.to_bytes(32)))
    return evidence_of(replace(ANSWER, output_ids=(4, 5 + number)), asking=asking, payer=payer)


ANSWERS = [answer(number) for number in range(20)]
OF_OTHERS = [answer(number, account(5)) for number in range(20, 40)]
OLD = answer(90)
"""Of an epoch before: true, and in no book that was drawn from."""
ROWS = order_rows([booked_row(evidence.signed) for evidence in (*ANSWERS, *OF_OTHERS)])
BOOK = make_book(ROWS, SOME_CID)
FORMER_GROUP = group_of((1, 10, (TINY,)), (3, 10, (TINY,)))
"""The payer of the first is a member, to whom every other draw goes."""
FORMER = replace(previous(books=(CommittedBook(EXECUTOR, BOOK),)), epoch=BEFORE, group=FORMER_GROUP)


def digest_of(evidence: AuditEvidence) -> Hash32:
    return receipt_digest(evidence.signed.receipt)


DRAWN_DIGESTS = {row.digest for row in drawn_rows(SEED, EXECUTOR, BOOK, ROWS, FORMER_GROUP).values()}
DRAWN = [evidence for evidence in ANSWERS if digest_of(evidence) in DRAWN_DIGESTS]
UNDRAWN = [evidence for evidence in ANSWERS if digest_of(evidence) not in DRAWN_DIGESTS]
Read = Callable[[], Awaitable[bytes]]


async def whole() -> bytes:
    await trio.lowlevel.checkpoint()
    return book_bytes(ROWS)


class Judge:
    """Judges again what an executor is accused of, by a chain and contents that a test makes."""

    def __init__(
        self, auditor: Auditor, accused: Collection[AuditEvidence], challenged: Collection[AuditEvidence] = ()
    ):
        self.auditor, self.service = auditor, auditor.service
        self.blocks: list[int] = []
        self.asked_before: list[EpochNumber] = []
        vars(auditor.engine)["prefill"] = engine_with(CONTEXT, auditor.engine.asked)
        auditor.holders |= {digest_of(evidence): evidence for evidence in (*ANSWERS, OLD)}
        outcome = AuditOutcome(
            EXECUTOR, TINY, Verdict.ABSTAIN, 0, 0, 0, "accused",
            accused=tuple(sorted(map(digest_of, accused))), challenged=tuple(sorted(map(digest_of, challenged))),
        )  # fmt: skip
        result = replace(auditor.round.previous, epoch=ACCUSING, audits=(outcome,), books=())
        self.work = replace(auditor.round, epoch=EpochNumber(ACCUSING + 1), previous=result)
        (self.tasks,) = judged_again(result, SEED, account(3)).values()

    async def votes(
        self, read: Read, *, before: EpochResult | None = FORMER, seconds: float = 3600
    ) -> dict[Hash32, AuditVote]:
        """Return the votes by digest, once all that can be judged is, or `seconds` are over."""

        def known_before(epoch: EpochNumber, _state: object) -> EpochResult | None:
            self.asked_before.append(epoch)
            return before

        async def block_hash(block: int) -> Hash32:
            self.blocks.append(block)
            return SEED

        async def read_bytes(*_where: object, **_limit: object) -> bytes:
            return await read()

        service, chain = self.service, self.service._chain
        service._chain = cast(
            Any,
            SimpleNamespace(account=chain.account, state=chain.state, schedule=SCHEDULE, block_hash=block_hash),
        )
        service._epochs = cast(Any, SimpleNamespace(known_before=known_before, newest_result=lambda: None))
        service._content = cast(Any, SimpleNamespace(read_bytes=read_bytes))
        service._presence = cast(Any, SimpleNamespace(providers=lambda _executor: ()))
        service._votes = KeptAudits(service._store, self.work.epoch)
        await service._expect({}, {EXECUTOR: self.tasks})
        with trio.move_on_after(seconds):
            await service._audit_all({}, {EXECUTOR: self.tasks}, self.work)
        return {task.digest: service._votes[task_order(task)] for task in self.tasks}


async def test_an_accused_answer_that_no_draw_fell_on_is_neither_asked_for_nor_read(
    auditor: Auditor, autojump_clock: trio.testing.MockClock
) -> None:
    judge = Judge(auditor, [*DRAWN, *UNDRAWN, OLD])
    votes = await judge.votes(whole)
    assert {votes[digest_of(one)].reason for one in (*UNDRAWN, OLD)} == {NOT_DRAWN}
    assert all(votes[digest_of(one)].figures.tokens == 2 for one in DRAWN)
    assert sorted(auditor.asked) == sorted(map(digest_of, DRAWN))
    assert len(auditor.engine.asked) == len(DRAWN) > 2
    # By the book, the group and the seed of the result before the one that accuses.
    assert judge.asked_before == [ACCUSING]
    assert judge.blocks == [first_block_of(BEFORE, Stage.FORM, SCHEDULE)]
    bundle = await judge.service.complete(VoteBundle(judge.work.epoch, account(3), ()))
    check_audits(bundle)
    assert {vote.receipt_digest for vote in bundle.audits} == votes.keys()


async def test_an_answer_that_is_challenged_is_judged_unless_it_is_accused_as_well_and_no_draw_fell_on_it(
    auditor: Auditor, autojump_clock: trio.testing.MockClock
) -> None:
    """Who pays for answers would else choose what is added up."""
    votes = await Judge(auditor, [UNDRAWN[0], UNDRAWN[1]], [UNDRAWN[1], UNDRAWN[2]]).votes(whole)
    assert {votes[digest_of(one)].reason for one in UNDRAWN[:2]} == {NOT_DRAWN}
    assert votes[digest_of(UNDRAWN[2])].figures.tokens == 2


async def withheld() -> bytes:
    raise ContentUnavailableError("nobody has it")


async def silent() -> bytes:
    await trio.sleep_forever()
    raise AssertionError("it never ends")


async def not_a_file() -> bytes:
    raise BadContentError("no file")


async def another() -> bytes:
    return book_bytes(ROWS[1:])


async def no_room() -> bytes:
    raise ContentNotHeldError("this node's disk is full")


@pytest.mark.parametrize(
    ("read", "before", "seconds"),
    [
        (withheld, FORMER, HEAD_START_SECONDS),
        (silent, FORMER, HEAD_START_SECONDS),
        (no_room, FORMER, HEAD_START_SECONDS),
        (not_a_file, FORMER, 0),
        (another, FORMER, 0),
        (whole, None, 0),
        (whole, replace(FORMER, books=()), 0),
    ],
)
async def test_where_nobody_can_say_what_was_drawn_all_is_judged_and_nothing_waits(
    auditor: Auditor, read: Read, before: EpochResult | None, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    judge = Judge(auditor, [DRAWN[0], UNDRAWN[0], OLD])
    votes = await judge.votes(read, before=before, seconds=seconds + 0.1)
    assert [vote.figures.tokens for vote in votes.values()] == [2] * 3


async def test_a_book_that_comes_late_takes_back_what_was_judged_and_ends_what_is_waited_for(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    missing = {digest_of(DRAWN[1]), digest_of(OLD)}
    asked = list[Hash32]()

    async def ask(*what: Any, **_how: object) -> AuditEvidence:
        digest = what[3]
        asked.append(digest)
        if digest in missing:
            raise NotHandedOverError(WITHHELD)
        return auditor.holders[digest]

    async def late() -> bytes:
        await trio.sleep(10 * ROUND_SECONDS)
        asked.clear()
        return await whole()

    monkeypatch.setattr(auditing, "ask_for_evidence", ask)
    judge = Judge(auditor, [*DRAWN[:2], UNDRAWN[0], OLD])
    votes = await judge.votes(late, seconds=20 * ROUND_SECONDS)
    assert {votes[digest_of(one)].reason for one in (UNDRAWN[0], OLD)} == {NOT_DRAWN}
    assert votes[digest_of(DRAWN[0])].figures.tokens == 2
    assert votes[digest_of(DRAWN[1])].reason == WITHHELD
    assert set(asked) == {digest_of(DRAWN[1])}  # from then on; what was judged stays so
    assert len(auditor.engine.asked) == 2


async def test_a_book_that_comes_when_all_is_read_takes_back_what_was_not_drawn(
    auditor: Auditor, autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever hides it for a while would else choose what is judged."""

    async def late() -> bytes:
        await trio.sleep(1000)
        return await whole()

    votes = await Judge(auditor, [DRAWN[0], UNDRAWN[0]]).votes(late)
    assert len(auditor.engine.asked) == 2
    assert votes[digest_of(UNDRAWN[0])].reason == NOT_DRAWN
    assert votes[digest_of(DRAWN[0])].figures.tokens == 2


async def test_a_book_that_comes_while_an_answer_is_read_leaves_it_to_be_read_again(
    auditor: Auditor, autojump_clock: trio.testing.MockClock
) -> None:
    judge = Judge(auditor, [DRAWN[0], UNDRAWN[0]])
    reading = vars(auditor.engine)["prefill"]

    async def slow(*what: Any, **how: Any) -> Any:
        await trio.sleep(60)
        return await reading(*what, **how)

    async def late() -> bytes:
        await trio.sleep(30)
        return await whole()

    vars(auditor.engine)["prefill"] = slow
    votes = await judge.votes(late)
    assert votes[digest_of(UNDRAWN[0])].reason == NOT_DRAWN
    assert votes[digest_of(DRAWN[0])].figures.tokens == 2
