"""What an auditor is given: anything that is not exactly what the executor committed to is told by name."""

from dataclasses import replace

import pytest
from coincurve import PrivateKey
from eth_hash.auto import keccak

from node.protocol.asking import REQUEST_BYTES_MAX, booked_under
from node.protocol.audit_evidence import (
    PRIVATE,
    AuditEvidence,
    KeptAnswer,
    kept_answer,
    what_is_wrong,
    without_surplus,
)
from node.protocol.audits import ClaimedLogprobs
from node.protocol.claims import NOT_ASKED, claims_commitment
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId, RequestId, TokenAmount
from node.protocol.pricing import receipt_digest, tokens_commitment
from node.protocol.receipt_books import NOBODY, BookRow, booked_payers, booked_row, payer_bytes
from node.protocol.receipts import draw_commitment
from node.protocol.records import Asking, Receipt, SignedReceipt
from node.protocol.sampling import SamplingParameters
from node.protocol.seeds import drawn_seed, make_share
from node.protocol.shown_evidence import evidence_from_bytes, evidence_to_bytes
from node.protocol.signatures import sign
from node.protocol.sketches import INPUTS_MAX, SKETCH_BYTES, TOKENS_MAX, inputs_commitment, vectors_commitment
from tests.builders import NODE, SOME_CID, TINY, account, key_of

PAYER, EXECUTOR = account(1), account(2)
REQUEST_ID = RequestId(bytes(range(32)))


def share_of_executor(secret: bytes = bytes(32), key: PrivateKey | None = None):  # type: ignore[no-untyped-def]
    return make_share(secret, REQUEST_ID, PAYER, EXECUTOR, lambda digest: sign(key or key_of(2), digest))


SHARE = share_of_executor()
ASKING = Asking(EpochNumber(3), 50, Hash32(bytes([7]) * 32))
ANSWER = AnswerEvidence(
    prompt_ids=(1, 2, 3),
    output_ids=(4, 5),
    text="",
    sampling=SamplingParameters(temperature_milli=700),
    seed=drawn_seed(REQUEST_ID, PAYER, SHARE.share),
    seed_share=SHARE,
    stop=("\n",),
    response_format="",
)


def receipt_for(answer: AnswerEvidence, **changes: object) -> Receipt:
    honest = Receipt(
        request_id=REQUEST_ID,
        epoch=EpochNumber(3),
        model_id=TINY,
        model_cid=SOME_CID,
        payer=PAYER,
        executor=EXECUTOR,
        node_id=NODE,
        prompt_tokens=len(answer.prompt_ids),
        output_tokens=len(answer.output_ids),
        prompt_commitment=tokens_commitment(answer.prompt_ids),
        output_commitment=tokens_commitment(answer.output_ids),
        draw_commitment=draw_commitment(answer.sampling, answer.seed, answer.stop, answer.response_format),
        is_verifiable=True,
        seeded_by_user=answer.seed_share is None,
        at=1_700_000_000,
        price=TokenAmount(10),
        is_within_rule=answer.sampling.is_verifiable and not answer.response_format,
        asking=ASKING,
    )
    return replace(honest, **changes)  # type: ignore[arg-type]


def evidence_of(answer: AnswerEvidence = ANSWER, *, both: bool = True, **changes: object) -> AuditEvidence:
    """Of an answer whose payer signed the request, if there was one, and with `both` the receipt too."""
    receipt = receipt_for(answer, **changes)
    digest = receipt_digest(receipt)
    signed = SignedReceipt(receipt, sign(key_of(2), digest), sign(key_of(1), digest) if both else b"")
    asked = sign(key_of(1), booked_under(receipt)) if receipt.asking else b""
    return AuditEvidence(signed, KeptAnswer(answer, ()), asked)


def wrong_with(
    evidence: AuditEvidence, *, tokens: int | None = 2, digest: Hash32 | None = None, payer: bytes | None = None
) -> str:
    """What is wrong with evidence whose row is right but for what is given."""
    receipt = evidence.signed.receipt
    digest = digest or receipt_digest(receipt)
    row = BookRow(booked_under(receipt), digest, tokens or 0, booked_payers(receipt)[0] if payer is None else payer)
    return what_is_wrong(evidence, EXECUTOR, digest, None if tokens is None else row)


def test_evidence_as_committed_to_is_accepted_and_survives_its_bytes() -> None:
    evidence = evidence_of()
    assert wrong_with(evidence) == ""
    assert evidence_from_bytes(evidence_to_bytes(evidence)) == evidence


def test_what_the_payer_never_signed_is_audited_all_the_same() -> None:
    assert wrong_with(evidence_of(both=False)) == ""


def test_a_seed_of_the_user_needs_no_share() -> None:
    assert wrong_with(evidence_of(replace(ANSWER, seed=5, seed_share=None))) == ""


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (replace(ANSWER, prompt_ids=(1, 2, 4)), "not-the-tokens"),
        (replace(ANSWER, output_ids=(4,)), "not-the-tokens"),
        (replace(ANSWER, output_ids=(5, 4)), "not-the-tokens"),
        (replace(ANSWER, seed=6), "not-the-draw"),
        (replace(ANSWER, sampling=SamplingParameters()), "not-the-draw"),
        (replace(ANSWER, stop=()), "not-the-draw"),
        (replace(ANSWER, seed_share=None), "not-the-seed"),
    ],
)
def test_evidence_of_another_answer_is_told(answer: AnswerEvidence, code: str) -> None:
    assert wrong_with(replace(evidence_of(), kept=KeptAnswer(answer, ()))) == code


def test_a_share_that_was_not_signed_or_does_not_give_the_seed_is_told() -> None:
    stranger = replace(ANSWER, seed_share=share_of_executor(key=key_of(3)))
    assert wrong_with(evidence_of(stranger)) == "not-the-seed"
    other = share_of_executor(b"\x01" * 32)
    assert wrong_with(evidence_of(replace(ANSWER, seed_share=other))) == "not-the-seed"


def test_another_receipt_or_one_that_its_executor_did_not_sign_is_none() -> None:
    assert wrong_with(evidence_of(), digest=Hash32(bytes(32))) == "not-the-receipt"
    evidence = evidence_of()
    forged = replace(evidence, signed=replace(evidence.signed, signature=sign(key_of(3), Hash32(bytes(32)))))
    assert wrong_with(forged) == "not-the-receipt"
    assert what_is_wrong(evidence, account(5), receipt_digest(evidence.signed.receipt), None) == "not-the-receipt"


@pytest.mark.parametrize("names", [{"node_id": NodeId("n" * 33)}, {"model_id": ModelId("m" * 65)}])
def test_a_receipt_whose_names_no_vote_may_carry_is_none_private_or_not(names: dict[str, str]) -> None:
    assert wrong_with(evidence_of(**names)) == "not-the-receipt"
    assert wrong_with(replace(evidence_of(is_private=True, **names), kept=None)) == "not-the-receipt"


def test_what_nobody_committed_to_is_left_out_of_what_is_kept_of_others() -> None:
    bloated = replace(evidence_of(), kept=KeptAnswer(replace(ANSWER, text="x" * 1000), ()))
    assert without_surplus(bloated) == evidence_of()
    assert wrong_with(without_surplus(bloated)) == ""


def test_more_alternatives_than_are_kept_are_not_taken_whoever_committed_to_them() -> None:
    claimed = tuple(ClaimedLogprobs(token, -5, tuple((n, -n) for n in range(6))) for token in (4, 5))
    assert wrong_with(claiming(claimed, claims_commitment(claimed))) == "not-the-claims"


def test_a_book_that_lies_about_the_length_is_told() -> None:
    assert wrong_with(evidence_of(), tokens=3) == "not-the-length"
    assert wrong_with(evidence_of(), tokens=0) == "not-the-length"
    assert wrong_with(evidence_of(), tokens=None) == ""


@pytest.mark.parametrize("both", [True, False])
def test_a_row_names_who_asked_whether_it_signed_the_receipt_or_not(both: bool) -> None:
    """Neither side chooses: not the executor by saying that no signature came, not the payer by keeping it back."""
    assert wrong_with(evidence_of(both=both), payer=payer_bytes(PAYER)) == ""
    for other in (NOBODY, payer_bytes(EXECUTOR), payer_bytes(account(7))):
        assert wrong_with(evidence_of(both=both), payer=other) == "not-the-payer"


def test_only_the_payer_s_signature_of_that_very_request_shows_that_it_asked() -> None:
    """Else an executor fills what is drawn of a payer with answers that it made up for it."""
    evidence = evidence_of()
    asked = booked_under(evidence.signed.receipt)
    receipt = receipt_digest(evidence.signed.receipt)
    elsewhere = booked_under(replace(evidence.signed.receipt, executor=account(7)))
    for forged in (
        b"",
        b"x" * 65,
        sign(key_of(2), asked),
        sign(key_of(1), receipt),
        sign(key_of(1), elsewhere),
        sign(key_of(1), ASKING.body),
    ):
        assert wrong_with(replace(evidence, request_signature=forged)) == "not-the-payer"
    nobody_s = evidence_of(payer=Address("0x not an account"))
    assert wrong_with(nobody_s) == wrong_with(nobody_s, payer=payer_bytes(PAYER)) == "not-the-payer"


def test_a_receipt_stands_under_its_own_request_and_no_other() -> None:
    """Else one request could be answered in a hundred rows, or an asked answer booked as one of nobody's asking."""
    evidence = evidence_of()
    digest = receipt_digest(evidence.signed.receipt)
    right = booked_row(evidence.signed)
    for asking in (digest, Hash32(bytes(32))):
        assert what_is_wrong(evidence, EXECUTOR, digest, replace(right, asking=asking)) == "not-the-request"
    for asked in (
        replace(ASKING, epoch=EpochNumber(4)),
        replace(ASKING, max_tokens=51),
        replace(ASKING, body=Hash32(bytes(32))),
        replace(ASKING, is_private=True),
    ):
        other = evidence_of(asking=asked)
        assert booked_row(other.signed).asking != right.asking
        assert wrong_with(replace(other, request_signature=evidence.request_signature)) == "not-the-payer"


def test_an_answer_has_no_more_tokens_than_its_request_asked_for() -> None:
    """Else what a payer asked for and never got could be booked with as many tokens as the executor likes."""
    assert wrong_with(evidence_of(asking=replace(ASKING, max_tokens=2))) == ""
    assert wrong_with(evidence_of(asking=replace(ASKING, max_tokens=1))) == "not-the-length"


def test_where_no_request_was_signed_a_row_may_name_only_the_payer_and_only_where_it_signed() -> None:
    payer = payer_bytes(PAYER)
    assert wrong_with(evidence_of(asking=None), payer=payer) == ""
    assert wrong_with(evidence_of(asking=None), payer=NOBODY) == ""  # the signature may have come after the book
    assert wrong_with(evidence_of(asking=None, both=False), payer=payer) == "not-the-payer"
    assert wrong_with(evidence_of(asking=None), payer=payer_bytes(account(7))) == "not-the-payer"


@pytest.mark.parametrize("asking", [ASKING, None])
def test_rows_never_name_who_asked_in_private(asking: Asking | None) -> None:
    hidden = evidence_of(is_private=True, asking=asking)
    assert wrong_with(hidden, tokens=0, payer=payer_bytes(PAYER)) == "not-the-payer"
    for evidence in (hidden, evidence_of(output_tokens=0, asking=asking)):
        assert booked_row(evidence.signed).payer == NOBODY


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("asking", [ASKING, None])
def test_the_row_that_an_honest_executor_makes_is_right(both: bool, asking: Asking | None) -> None:
    evidence = evidence_of(both=both, asking=asking)
    row = booked_row(evidence.signed)
    assert row.payer == (payer_bytes(PAYER) if both or asking else NOBODY)
    assert what_is_wrong(evidence, EXECUTOR, receipt_digest(evidence.signed.receipt), row) == ""


@pytest.mark.parametrize("changes", [{"is_private": True}, {"is_verifiable": False}, {"output_tokens": 1 << 31}])
def test_nobody_hides_behind_tokens_of_answers_that_cannot_be_audited(changes: dict[str, object]) -> None:
    """An executor that is its own payer signs such receipts by the million, without generating anything."""
    padding = replace(evidence_of(**{**changes, "is_private": True}), kept=None)
    assert wrong_with(padding, tokens=padding.signed.receipt.output_tokens) == "not-the-length"
    outside = replace(ANSWER, response_format="{}")
    assert wrong_with(evidence_of(outside, is_verifiable=False), tokens=2) == "not-the-length"


GIVEN = VectorEvidence(((1, 2, 3), (4, 5)), 4, bytes(number % 251 for number in range(2 * SKETCH_BYTES)))


REQUEST = b"canonical bytes"


def vectors_of(given: VectorEvidence = GIVEN, **changes: object) -> AuditEvidence:
    """Evidence of vectors as an honest executor has it, but for `changes` of its receipt."""
    count = sum(map(len, GIVEN.inputs))
    honest: dict[str, object] = {
        "prompt_tokens": count,
        "output_tokens": 0,
        "prompt_commitment": inputs_commitment(GIVEN.inputs),
        "output_commitment": vectors_commitment(GIVEN.dimensions, GIVEN.sketches),
        "vectors": len(GIVEN.inputs),
        "asking": replace(ASKING, body=Hash32(keccak(REQUEST))),
    }
    return replace(evidence_of(**{**honest, **changes}), kept=None, vectors=given, request=REQUEST)


def test_vectors_are_drawn_by_the_tokens_that_were_read_and_paid_for() -> None:
    evidence = vectors_of()
    row = booked_row(evidence.signed)
    assert (row.output_tokens, row.payer) == (5, payer_bytes(PAYER))
    assert wrong_with(evidence, tokens=5) == ""
    assert wrong_with(evidence, tokens=0) == "not-the-length"
    assert evidence_from_bytes(evidence_to_bytes(evidence)) == evidence
    asking = evidence.signed.receipt.asking
    assert asking is not None
    assert wrong_with(vectors_of(asking=replace(asking, max_tokens=4)), tokens=5) == "not-the-length"
    assert wrong_with(replace(evidence, request=b"another's bytes"), tokens=5) == "not-the-request"
    assert wrong_with(vectors_of(asking=None), tokens=5) == "not-the-request"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, "withheld"),
        (replace(GIVEN, inputs=((1, 2, 4), (4, 5))), "not-the-tokens"),
        (replace(GIVEN, inputs=((1, 2), (3, 4, 5))), "not-the-tokens"),
        (replace(GIVEN, inputs=((1, 2, 3, 4, 5), ())), "not-the-tokens"),
        (replace(GIVEN, inputs=()), "not-the-tokens"),
        (replace(GIVEN, dimensions=5), "not-the-vectors"),
        (replace(GIVEN, dimensions=-1), "not-the-vectors"),
        (replace(GIVEN, sketches=GIVEN.sketches[:-1] + b"x"), "not-the-vectors"),
        (replace(GIVEN, sketches=GIVEN.sketches[:SKETCH_BYTES]), "not-the-vectors"),
    ],
)
def test_other_vectors_or_inputs_than_were_committed_to_are_told(given: VectorEvidence | None, code: str) -> None:
    assert wrong_with(replace(vectors_of(), vectors=given), tokens=5) == code
    tokens_instead = replace(vectors_of(), vectors=None, kept=evidence_of().kept)
    assert wrong_with(tokens_instead, tokens=5) == "withheld"


@pytest.mark.parametrize(
    ("changes", "tokens", "code"),
    [
        ({"vectors": 3}, 5, "not-the-vectors"),
        ({"vectors": 1}, 5, "not-the-vectors"),
        ({"output_tokens": 7}, 5, "not-the-receipt"),
        ({"is_within_rule": False}, 0, "not-the-receipt"),
        ({"prompt_tokens": 6}, 6, "not-the-tokens"),
        ({"vectors": 0}, 0, "withheld"),
    ],
)
def test_no_way_of_writing_the_receipt_takes_vectors_out_of_the_draw(
    changes: dict[str, object], tokens: int, code: str
) -> None:
    assert wrong_with(vectors_of(**changes), tokens=tokens) == code


@pytest.mark.parametrize(
    ("inputs", "tokens"), [(INPUTS_MAX, TOKENS_MAX), (INPUTS_MAX + 1, TOKENS_MAX), (1, TOKENS_MAX + 1)]
)
def test_no_auditor_has_more_to_make_than_an_executor_gives_in_one_answer(inputs: int, tokens: int) -> None:
    """Who is its own payer may sign what it likes: an audit has to end all the same."""
    longest = (7,) * (tokens - inputs + 1)
    given = VectorEvidence((longest, *((number,) for number in range(inputs - 1))), 4, bytes(SKETCH_BYTES * inputs))
    evidence = vectors_of(
        given, vectors=inputs, prompt_tokens=tokens, prompt_commitment=inputs_commitment(given.inputs),
        output_commitment=vectors_commitment(4, given.sketches),
        asking=replace(ASKING, max_tokens=tokens, body=Hash32(keccak(REQUEST))),
    )  # fmt: skip
    is_too_much = inputs > INPUTS_MAX or tokens > TOKENS_MAX
    assert wrong_with(evidence, tokens=tokens) == ("not-the-receipt" if is_too_much else "")


def test_a_request_that_fits_no_frame_is_no_request() -> None:
    request = bytes(REQUEST_BYTES_MAX + 1)
    evidence = vectors_of(asking=replace(ASKING, body=Hash32(keccak(request))))
    assert wrong_with(replace(evidence, request=request), tokens=5) == "not-the-receipt"


def test_private_vectors_are_excused_as_private_answers_are() -> None:
    hidden = replace(vectors_of(is_private=True), vectors=None, request=b"")
    assert wrong_with(hidden, tokens=0) == PRIVATE
    assert wrong_with(replace(vectors_of(is_private=True)), tokens=None) == ""  # its payer handed them over
    assert booked_row(hidden.signed).payer == NOBODY
    unsigned = replace(hidden, signed=replace(hidden.signed, payer_signature=b""))
    assert wrong_with(unsigned, tokens=0) == "not-the-receipt"


def test_surplus_beside_vectors_is_left_out_and_so_are_vectors_beside_tokens() -> None:
    evidence = vectors_of()
    assert without_surplus(replace(evidence, kept=evidence_of().kept)) == evidence
    assert without_surplus(replace(evidence_of(), vectors=GIVEN, request=REQUEST)) == evidence_of()


def test_a_private_answer_is_excused_only_with_the_payer_s_word() -> None:
    assert wrong_with(replace(evidence_of(is_private=True), kept=None), tokens=0) == "private"
    assert wrong_with(replace(evidence_of(is_private=True, both=False), kept=None), tokens=0) == "not-the-receipt"


def test_a_private_answer_that_its_payer_hands_over_is_audited() -> None:
    assert wrong_with(evidence_of(is_private=True), tokens=None) == ""
    assert wrong_with(evidence_of(is_private=True), tokens=0) == ""


def test_what_no_rule_gives_is_excused_and_what_an_engine_did_not_follow_is_told_apart() -> None:
    penalised = replace(ANSWER, sampling=SamplingParameters(presence_penalty_milli=5))
    assert wrong_with(evidence_of(penalised, is_verifiable=False), tokens=0) == "outside-rule"
    formatted = replace(ANSWER, response_format="{}")
    assert wrong_with(evidence_of(formatted, is_verifiable=False), tokens=0) == "outside-rule"
    assert wrong_with(evidence_of(is_verifiable=False), tokens=2) == "not-by-rule"


def test_by_its_own_word_an_executor_takes_no_token_out_of_the_draw() -> None:
    """Only what the payer's request asked for does: who books tokens away for its engine's sake is told from the
    receipt alone, and so is who writes into the receipt what the request did not ask for, or the other way round."""
    assert wrong_with(evidence_of(is_verifiable=False), tokens=0) == "not-the-length"
    claimed = evidence_of(is_verifiable=False, is_within_rule=False)
    assert wrong_with(claimed, tokens=0) == "not-the-draw"
    formatted = replace(ANSWER, response_format="{}")
    assert wrong_with(evidence_of(formatted, is_within_rule=True), tokens=2) == "not-the-draw"


def test_a_receipt_without_its_answer_is_withheld() -> None:
    assert wrong_with(replace(evidence_of(), kept=None)) == "withheld"


CLAIMED = (ClaimedLogprobs(4, -1, ((4, -1), (9, -7))), ClaimedLogprobs(5, -2, ()))
TOLD = claims_commitment(CLAIMED)


def claiming(claimed: tuple[ClaimedLogprobs, ...], commitment: Hash32 = TOLD) -> AuditEvidence:
    return replace(evidence_of(claims_commitment=commitment), kept=KeptAnswer(ANSWER, claimed))


@pytest.mark.parametrize(
    "claimed",
    [
        (CLAIMED[0], replace(CLAIMED[1], token_id=6)),
        (replace(CLAIMED[0], logprob_micro=-2), CLAIMED[1]),
        (replace(CLAIMED[0], alternatives=((4, -1), (9, -8))), CLAIMED[1]),
        CLAIMED[:1],
        (),
    ],
)
def test_an_auditor_is_shown_what_the_user_was_told_of_the_tokens(claimed: tuple[ClaimedLogprobs, ...]) -> None:
    assert wrong_with(claiming(CLAIMED)) == ""
    assert wrong_with(claiming(claimed)) == "not-the-claims"


def test_where_the_user_was_told_nothing_there_is_nothing_to_show() -> None:
    assert wrong_with(claiming((), NOT_ASKED)) == ""
    assert wrong_with(claiming(CLAIMED, NOT_ASKED)) == "not-the-claims"


def test_who_asked_keeps_no_claims_so_a_challenged_answer_may_come_without_but_not_with_others() -> None:
    assert wrong_with(claiming(()), tokens=None) == ""
    assert wrong_with(claiming(CLAIMED[::-1]), tokens=None) == "not-the-claims"


def test_text_is_not_kept() -> None:
    assert kept_answer(replace(ANSWER, text="secret"), CLAIMED) == KeptAnswer(ANSWER, CLAIMED)


@pytest.mark.parametrize(
    ("asking", "is_asked", "code"),
    [
        (replace(ASKING, is_private=True), True, PRIVATE),
        (replace(ASKING, is_private=True), False, "not-the-receipt"),
        (ASKING, True, "not-the-receipt"),
        (None, False, PRIVATE),
    ],
)
def test_a_payer_that_does_not_sign_for_a_private_answer_cannot_have_it_counted_as_withheld(
    asking: Asking | None, is_asked: bool, code: str
) -> None:
    """Nor does an executor call private what was not asked for in private."""
    evidence = evidence_of(both=False, is_private=True, asking=asking)
    shown = AuditEvidence(evidence.signed, None, evidence.request_signature if is_asked else b"")
    assert wrong_with(shown, tokens=0) == code


def test_who_is_accused_cannot_leave_out_what_it_told_its_user() -> None:
    digest = receipt_digest(claiming(()).signed.receipt)
    assert what_is_wrong(claiming(()), EXECUTOR, digest, None, is_accused=True) == "not-the-claims"
    assert what_is_wrong(claiming(CLAIMED), EXECUTOR, digest, None, is_accused=True) == ""
    hidden = replace(claiming(()), signed=evidence_of(claims_commitment=TOLD, is_private=True).signed)
    digest = receipt_digest(hidden.signed.receipt)
    assert what_is_wrong(hidden, EXECUTOR, digest, None, is_accused=True) == ""  # its executor keeps nothing of it
