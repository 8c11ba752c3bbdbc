"""An auditor that is handed something hostile votes on all the rest, and keeps what is its own."""

from dataclasses import replace
from typing import Any

import pytest

from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.audit_evidence import NO_ROOM, NO_TOKENS, OTHER_VERSION, what_is_wrong
from node.protocol.audit_majorities import EXCUSED, NOTHING_TO_JUDGE
from node.protocol.audit_tasks import AuditTask
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.findings import EarlierBook
from node.protocol.identifiers import Cid, EpochNumber, ModelId
from node.protocol.omissions import EMPTY_BOOK
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import booked_row
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.protocol.verdicts import Verdict
from node.services import evidence_keeping
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, REQUEST, evidence_of, receipt_for
from tests.unit.services.audit_bench import CONTEXT, NO_PROMPT, VOCABULARY, Auditor, engine_with


async def test_an_answer_to_no_tokens_at_all_is_told_and_never_reaches_an_engine(auditor: Auditor) -> None:
    (vote,) = await auditor.votes_on(evidence_of(NO_PROMPT))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
    assert auditor.engine.asked == []


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (replace(ANSWER, prompt_ids=(-1, 2)), (0, 2, *ANSWER.output_ids)),
        (replace(ANSWER, output_ids=(4, -5)), (*ANSWER.prompt_ids, 4, 0)),
        (replace(ANSWER, output_ids=(VOCABULARY, 4)), (*ANSWER.prompt_ids, 0, 4)),
    ],
)
async def test_token_ids_that_no_model_has_are_read_as_another_and_hide_none(
    auditor: Auditor, answer: AnswerEvidence, read: tuple[int, ...]
) -> None:
    await auditor.votes_on(evidence_of(answer))
    assert auditor.engine.asked == [read]


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"model_cid": Cid("another")}, ANSWER, OTHER_VERSION),
        ({"model_id": ModelId("made-up")}, ANSWER, OTHER_VERSION),
        ({}, replace(ANSWER, prompt_ids=(1,) * (CONTEXT - 1)), NO_ROOM),
        ({}, replace(ANSWER, prompt_ids=(1,) * CONTEXT), NO_ROOM),
    ],
)
@pytest.mark.parametrize("has_engine", [True, False])
async def test_what_nobody_can_judge_all_say_alike_with_the_model_or_without(
    auditor: Auditor, changes: dict[str, Any], answer: AnswerEvidence, reason: str, has_engine: bool
) -> None:
    """Else one auditor who makes figures up would be the only judge among them."""
    if not has_engine:
        auditor.service._engines.clear()
    (vote,) = await auditor.votes_on(evidence_of(answer, **changes))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, reason)
    assert reason in NOTHING_TO_JUDGE
    assert auditor.engine.asked == []


@pytest.mark.parametrize(
    ("judged_from", "is_judged"), [(receipt_for(ANSWER).epoch, True), (receipt_for(ANSWER).epoch + 1, False)]
)
@pytest.mark.parametrize("runner", ["generate", "pooling"])
async def test_answers_by_another_specification_are_read_by_nobody_and_blame_nobody(
    auditor: Auditor, judged_from: int, is_judged: bool, runner: str
) -> None:
    """Also where the specification that came makes something else of the model, or leaves it less room."""
    auditor.judged_from = judged_from
    if not is_judged:
        group = auditor.round.previous.group
        models = tuple(replace(m, model_args=("--runner", runner), context_length=4) for m in group.models)
        auditor.round = replace(
            auditor.round, previous=replace(auditor.round.previous, group=replace(group, models=models))
        )
    (vote,) = await auditor.votes_on(evidence_of())
    assert (vote.verdict, vote.reason == OTHER_VERSION) == (Verdict.ABSTAIN, not is_judged)
    assert bool(auditor.engine.asked) is is_judged


async def test_a_prompt_that_leaves_room_for_one_token_is_read(auditor: Auditor) -> None:
    await auditor.votes_on(evidence_of(replace(ANSWER, prompt_ids=(1,) * (CONTEXT - 2), output_ids=(4, 5))))
    assert [len(asked) for asked in auditor.engine.asked] == [CONTEXT - 1]


@pytest.mark.parametrize("prompt_ids", [(), (1, 2)])
async def test_an_answer_without_any_token_blames_nobody(auditor: Auditor, prompt_ids: tuple[int, ...]) -> None:
    """An engine may end at once. There is nothing to read, and its payer knows how many tokens it has."""
    (vote,) = await auditor.votes_on(evidence_of(replace(ANSWER, prompt_ids=prompt_ids, output_ids=())))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, NO_TOKENS)
    assert NO_TOKENS in EXCUSED
    assert auditor.engine.asked == []


async def test_an_audit_that_fails_blames_nobody_and_holds_up_no_other(auditor: Auditor) -> None:
    first, second = await auditor.votes_on(evidence_of(), evidence_of(NO_PROMPT))
    assert (first.verdict, first.reason) == (Verdict.ABSTAIN, "engine-failed")
    assert second.reason == "not-the-tokens"


@pytest.mark.parametrize(
    ("asked_before", "book_before", "is_told"),
    [
        (ANSWER_EPOCHS_MAX, None, False),
        (ANSWER_EPOCHS_MAX, 0, False),
        (ANSWER_EPOCHS_MAX + 1, None, True),
        (ANSWER_EPOCHS_MAX, 1, True),
    ],
)
async def test_what_the_book_may_not_have_any_more_is_told(
    auditor: Auditor, asked_before: int, book_before: int | None, is_told: bool
) -> None:
    """Else a book could have, beside this epoch's answers, all that their payer ever asked for: in how many epochs it
    was answered, and by how many the receipt is older than the book before."""
    evidence = evidence_of(epoch=EpochNumber(ASKING.epoch + asked_before))
    receipt = evidence.signed.receipt
    digest, row = receipt_digest(receipt), booked_row(evidence.signed)
    auditor.holders[digest] = evidence
    before: tuple[EarlierBook, ...] = ()
    if book_before is not None:
        before = (EarlierBook(EXECUTOR, EpochNumber(receipt.epoch + book_before), EMPTY_BOOK),)
    round_ = replace(auditor.round, previous=replace(auditor.round.previous, books_before=before))
    vote = await auditor.service._vote_or_abstain(AuditTask(EXECUTOR, 1, digest, row), round_)
    # The engine always fails.
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "too-old" if is_told else "engine-failed")


@pytest.mark.parametrize("longer", [0, 1, CONTEXT])
async def test_no_answer_escapes_its_audit_by_its_length(auditor: Auditor, longer: int) -> None:
    auditor.engine.prefill = engine_with(CONTEXT, auditor.engine.asked)  # type: ignore[method-assign]
    junk = (4,) * (CONTEXT - len(ANSWER.prompt_ids) + longer)
    (vote,) = await auditor.votes_on(evidence_of(replace(ANSWER, output_ids=junk)))
    assert vote.verdict is Verdict.INVALID
    assert vote.figures.tokens == CONTEXT - len(ANSWER.prompt_ids) - 1


async def test_what_nobody_committed_to_changes_no_audit(auditor: Auditor) -> None:
    """A holder may put vectors beside tokens, or tokens beside vectors: neither excuses, and nothing of it stays."""
    beside = VectorEvidence((), 0, b"")
    (vote,) = await auditor.votes_on(replace(evidence_of(NO_PROMPT), vectors=beside, request=REQUEST))
    assert (vote.verdict, vote.reason) == (Verdict.ABSTAIN, "not-the-tokens")
    (vote,) = await auditor.votes_on(replace(evidence_of(), vectors=beside))
    assert auditor.engine.asked == [(*ANSWER.prompt_ids, *ANSWER.output_ids)]
    data = auditor.given.kept(vote.receipt_digest)
    assert data is not None
    assert evidence_from_bytes(data) == evidence_of()


async def test_stored_evidence_that_cannot_be_read_is_fetched_anew(auditor: Auditor) -> None:
    evidence = evidence_of(NO_PROMPT)
    digest = receipt_digest(evidence.signed.receipt)
    auditor.given.keep(digest, b"no evidence")
    (vote,) = await auditor.votes_on(evidence)
    assert vote.reason == "not-the-tokens"
    assert auditor.given.kept(digest) == evidence_to_bytes(evidence)


async def test_evidence_of_others_is_kept_without_what_nobody_committed_to_and_only_so_much(
    auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = [evidence_of(replace(ANSWER, output_ids=(4, VOCABULARY + number))) for number in range(2)]
    kept = bare[0].kept
    assert kept is not None
    bloated = replace(bare[0], kept=replace(kept, answer=replace(kept.answer, text="x" * 10_000)))
    monkeypatch.setattr(evidence_keeping, "FETCHED_BYTES_MAX", len(evidence_to_bytes(bare[0])))
    await auditor.votes_on(bloated, bare[1])
    first, second = (receipt_digest(one.signed.receipt) for one in bare)
    data = auditor.given.kept(first)
    assert data is not None
    assert evidence_from_bytes(data) == bare[0]
    assert what_is_wrong(bare[0], EXECUTOR, first, None) == ""
    assert auditor.given.kept(second) is None
