"""Evidence goes to whom it was drawn for and to nobody else, and what is handed over is believed in nothing."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from node.ports import Call, CallFailedError
from node.protocol.audit_evidence import AuditEvidence, what_is_wrong
from node.protocol.codec import to_bytes
from node.protocol.identifiers import Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.shown_evidence import evidence_to_bytes
from node.services import audit_asking, receipt_book
from node.services.audit_asking import NotHandedOverError, ask_for_evidence
from node.services.audit_frames import ASK_BYTES_MAX, METHOD, AuditAsk
from node.services.slicing import Slicer
from tests.builders import unasked_row
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, GIVEN, REQUEST, evidence_of, vectors_of
from tests.unit.services.receipt_bench import AUDITOR, EPOCH, OTHER, SERVING, Bench, bench, row_of


@pytest.mark.parametrize("evidence", [evidence_of(is_private=True), vectors_of(is_private=True)])
async def test_of_what_nobody_can_audit_the_receipt_is_shown_if_its_row_is_drawn(
    nursery: trio.Nursery, autojump_clock: object, evidence: AuditEvidence
) -> None:
    made = bench(nursery)
    made.store.save_receipt(evidence.signed)
    digest = receipt_digest(evidence.signed.receipt)
    made.allowed.add((AUDITOR, digest))
    assert await made.keeper.book(EPOCH) is not None
    row = row_of(evidence)
    assert row.output_tokens == 0
    shown = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row, Slicer())
    assert shown == AuditEvidence(evidence.signed, None)
    assert what_is_wrong(shown, EXECUTOR, digest, row) == "private"
    with pytest.raises(NotHandedOverError, match="not-the-length"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, replace(row, output_tokens=100), Slicer())


@pytest.mark.parametrize("is_private", [False, True])
async def test_vectors_that_were_given_are_kept_for_auditors_but_private_ones(
    nursery: trio.Nursery, autojump_clock: object, is_private: bool
) -> None:
    made, evidence = bench(nursery), vectors_of(is_private=is_private)
    made.keeper.keep_vectors(evidence.signed, GIVEN, REQUEST, evidence.request_signature)
    made.store.save_receipt(evidence.signed)
    row, digest = row_of(evidence), receipt_digest(evidence.signed.receipt)
    made.allowed.add((AUDITOR, digest))
    assert await made.keeper.book(EPOCH) is not None
    shown = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row, Slicer())
    assert shown == (replace(evidence, vectors=None, request=b"") if is_private else evidence)


async def test_an_executor_does_not_hide_a_private_answer_from_a_challenge_behind_its_receipt(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    evidence = evidence_of(is_private=True)
    digest = receipt_digest(evidence.signed.receipt)
    made.store.save_receipt(evidence.signed)
    await made.keeper.book(EPOCH)
    made.allowed.add((AUDITOR, digest))
    payer = made.auditor.switchboard.find(OTHER)
    assert payer is not None

    async def hand_over(call: Call) -> None:
        await call.send(evidence_to_bytes(evidence))

    payer.serve(METHOD, hand_over, concurrency=4)
    assert await ask_for_evidence(made.auditor, [SERVING, OTHER], EXECUTOR, digest, None, Slicer()) == evidence
    with pytest.raises(NotHandedOverError, match="withheld"):  # asked again in the next round
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, None, Slicer())


async def test_evidence_goes_to_whom_it_was_drawn_for_and_to_nobody_else(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    digest = made.give(evidence_of(both=False))
    made.store.save_receipt(evidence_of().signed)  # the payer's signature came later
    with pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    made.allowed.add((AUDITOR, digest))
    evidence = await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    assert evidence == evidence_of()


async def test_a_malformed_question_and_one_for_what_is_not_kept_are_refused(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made = bench(nursery)
    unknown = Hash32(b"\x05" * 32)
    made.allowed.add((AUDITOR, unknown))
    with pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, unknown, unasked_row(unknown, 2), Slicer())
    with pytest.raises(CallFailedError, match="bad-request"):
        async with made.auditor.call(SERVING, METHOD, b"what", deadline_seconds=5) as call:
            await call.receive()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"no evidence", "malformed"),
        (evidence_to_bytes(evidence_of(replace(ANSWER, output_ids=(9, 9)))), "not-the-receipt"),
        (bytes(9 * 1024 * 1024), "malformed"),
    ],
)
async def test_what_is_of_no_use_is_told_and_the_next_holder_is_asked(
    nursery: trio.Nursery, autojump_clock: object, sent: bytes, code: str
) -> None:
    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    liar = made.auditor.switchboard.find(OTHER)
    assert liar is not None

    async def lie(call: Call) -> None:
        for start in range(0, len(sent), 1 << 18):
            await call.send(sent[start : start + (1 << 18)])

    liar.serve(METHOD, lie, concurrency=4)
    with pytest.raises(NotHandedOverError, match=code):
        await ask_for_evidence(made.auditor, [OTHER], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    shown = await ask_for_evidence(made.auditor, [OTHER, SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
    assert shown == evidence_of()


async def test_evidence_that_breaks_its_own_check_is_malformed_and_no_excuse(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_what: object, **_how: object) -> str:
        raise OverflowError("nobody foresaw this")

    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    monkeypatch.setattr(audit_asking, "what_is_wrong_in_slices", break_down)
    with pytest.raises(NotHandedOverError, match="malformed"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())


async def test_who_never_answers_is_left_after_a_while(nursery: trio.Nursery, autojump_clock: object) -> None:
    made = bench(nursery)
    silent = made.auditor.switchboard.find(OTHER)
    assert silent is not None

    async def say_nothing(_call: Call) -> None:
        await trio.sleep_forever()

    silent.serve(METHOD, say_nothing, concurrency=4)
    with trio.fail_after(30), pytest.raises(NotHandedOverError, match="withheld"):
        await ask_for_evidence(
            made.auditor, [OTHER], EXECUTOR, Hash32(bytes(32)), unasked_row(Hash32(bytes(32)), 2), Slicer()
        )


async def sent(made: Bench, payload: bytes) -> bytes:
    """Return all that an auditor is sent for a question of these bytes."""
    parts = []
    async with made.auditor.call(SERVING, METHOD, payload, deadline_seconds=5) as call:
        with suppress(trio.EndOfChannel):
            while True:
                parts.append(await call.receive())
    return b"".join(parts)


async def test_a_long_question_is_refused_unread(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may send one, of 256 KiB, before it is known who was drawn."""
    made = bench(nursery)
    monkeypatch.setattr(receipt_book, "from_bytes", lambda *_: pytest.fail("it was read"))
    with pytest.raises(CallFailedError) as caught:
        await sent(made, to_bytes(AuditAsk(Hash32(bytes(32)))) + bytes(ASK_BYTES_MAX))
    assert caught.value.code == "bad-request"


async def test_what_is_kept_is_handed_over_with_the_newest_receipt_and_unread(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Of a long answer it has 16 MiB, and every auditor asks for it."""
    made, signed = bench(nursery), evidence_of().signed
    digest = receipt_digest(signed.receipt)
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.keep(digest, to_bytes(replace(signed, payer_signature=b"")) + b"whatever follows")
    made.store.save_receipt(signed)
    assert await sent(made, to_bytes(AuditAsk(digest))) == to_bytes(signed) + b"whatever follows"


async def test_what_is_kept_and_is_no_evidence_is_not_kept_to_who_asks(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    made, digest = bench(nursery), Hash32(bytes(32))
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.keep(digest, b"of another version")
    with pytest.raises(CallFailedError) as caught:
        await sent(made, to_bytes(AuditAsk(digest)))
    assert caught.value.code == "not-kept"


async def test_of_evidence_of_another_receipt_nothing_but_that_is_read(
    nursery: trio.Nursery, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked chose the rest, up to 16 MiB."""
    made = bench(nursery)
    digest = made.give(evidence_of())
    made.allowed.add((AUDITOR, digest))
    made.keeper.given.forget([digest])
    made.keeper.given.keep(digest, evidence_to_bytes(evidence_of(request_id=bytes([9]) * 32)))
    monkeypatch.setattr(audit_asking, "read_evidence_in_slices", lambda _: pytest.fail("it was read"))
    with pytest.raises(NotHandedOverError, match="not-the-receipt"):
        await ask_for_evidence(made.auditor, [SERVING], EXECUTOR, digest, row_of(evidence_of()), Slicer())
