"""Vectors of what audits are drawn by; part of rules.json."""

import hashlib
from dataclasses import replace

from node.protocol.audit_majorities import NOTHING_TO_JUDGE, WITHHELD
from node.protocol.audit_outcomes import audit_outcomes
from node.protocol.audit_sampling import (
    AuditorLots,
    AuditSeeds,
    auditors_of,
    drawn_payer,
    drawn_rows,
    draws_of,
    is_of_payer,
    payer_weights,
    token_draws_of,
)
from node.protocol.audit_votes import NO_DIGEST
from node.protocol.audits import NO_FIGURES
from node.protocol.calibration import HonestBand
from node.protocol.findings import AUDIT_SUM_MICRO_MAX, AUDIT_TOKENS_MAX, AuditFigures, AuditVote, CommittedBook
from node.protocol.identifiers import EpochNumber, Hash32, RequestId, TokenAmount
from node.protocol.pricing import receipt_digest, tokens_commitment
from node.protocol.receipt_books import NOBODY, BookRow, booked_row, booked_tokens, make_book, order_rows, payer_bytes
from node.protocol.receipts import draw_commitment
from node.protocol.records import (
    Asking,
    EpochGroup,
    EpochResult,
    GroupMember,
    MLNodeSnapshot,
    Receipt,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.sampling import SamplingParameters
from node.protocol.signatures import sign
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SOME_CID, TINY, account, key_of, model, peer, unasked_row

DRAW = Hash32(hashlib.sha256(b"draw").digest())
FIVE_AUDITORS = Hash32(hashlib.sha256(b"five auditors 5").digest())
"""The first draw from any book of the executor's has five auditors by this one, with a seat each."""
LOT = Hash32(hashlib.sha256(b"lot").digest())
EXECUTOR = 2
PAYERS = tuple(range(10, 22))
BOOKED_PAYERS = (NOBODY, *(payer_bytes(account(number)) for number in (4, 7, 40, EXECUTOR)))
"""Of the rows in turn: nobody, two members, one that is none, the executor itself."""
ASKING = Asking(EpochNumber(3), 64, Hash32(hashlib.sha256(b"request").digest()))
BAND = HonestBand("vllm", "", 0, 1_000, 10_000, 10_000, 33_000, 4_000)


def compute_audits() -> dict[str, object]:
    """Return the vectors."""
    rows = order_rows([_row(n) for n in range(200)])
    book = make_book(rows, SOME_CID)
    drawn = drawn_rows(DRAW, account(EXECUTOR), book, rows, _group())
    lots = AuditorLots(DRAW, _group())
    return {
        "drawSeed": DRAW.hex(),
        "lotSeed": LOT.hex(),
        "executor": account(EXECUTOR),
        "book": {"count": book.count, "outputTokens": book.output_tokens, "root": book.root.hex()},
        "tokenDraws": token_draws_of(book),
        "draws": draws_of(book),
        "payers": [payer.hex() for payer in BOOKED_PAYERS],
        "drawnPayers": {
            str(draw): drawn_payer(DRAW, account(EXECUTOR), draw, payer_weights(_group(), account(EXECUTOR))).hex()
            for draw in range(draws_of(book))
            if is_of_payer(draw, book)
        },
        "drawn": {str(draw): row.digest.hex() for draw, row in drawn.items()},
        "seats": {str(draw): dict(lots.seats(account(EXECUTOR), draw)) for draw in drawn},
        "bookedTokens": [
            {
                "isPrivate": private,
                "isWithinRule": within,
                "isVerifiable": verifiable,
                "tokens": booked_tokens(
                    _receipt(1, is_private=private, is_within_rule=within, is_verifiable=verifiable)
                ),
            }
            for private in (False, True)
            for within in (False, True)
            for verifiable in ((False, True) if within else (False,))
        ],
        "bookedRows": [
            {
                "isAsked": asking is not None,
                "isCountersigned": both,
                "isPrivate": private,
                "receiptDigest": receipt_digest(signed.receipt).hex(),
                "row": booked_row(signed).data.hex(),
            }
            for asking in (ASKING, None)
            for both in (True, False)
            for private in (False, True)
            for signed in [_signed(4, replace(_receipt(4, is_private=private), asking=asking), both=both)]
        ],
        "challenges": _challenges(),
        "voteTokensMax": AUDIT_TOKENS_MAX,
        "voteSumMicroMax": AUDIT_SUM_MICRO_MAX,
        "judgedDraws": [
            _draw_of_one(judging, reason)
            for judging in (1, 2, 3)
            for reason in sorted({*NOTHING_TO_JUDGE, "no-model", WITHHELD})
        ],
    }


def _draw_of_one(judging: int, reason: str) -> dict[str, object]:
    """What comes of four votes with a seat each, of which the first `judging` judge and the others give a reason."""
    book = make_book((_row(1),), SOME_CID)
    figures = AuditFigures(4, 0, 0, 0, 0, 0, 0)
    bundles, weights = {}, {}
    for place, auditor in enumerate(auditors_of(FIVE_AUDITORS, account(EXECUTOR), 0, _group())[:4]):
        audit = AuditVote(account(EXECUTOR), 0, NODE, TINY, NO_DIGEST, Verdict.ABSTAIN, NO_FIGURES, reason)
        if place < judging:
            audit = replace(audit, receipt_digest=_row(1).digest, verdict=Verdict.VALID, figures=figures, reason="")
        bundles[auditor] = VoteBundle(EpochNumber(4), auditor, (), (audit,))
        weights[auditor] = 10
    known = EpochResult(EpochNumber(3), _group(), (), TokenAmount(0), books=(CommittedBook(account(EXECUTOR), book),))
    found = audit_outcomes(known, AuditSeeds(FIVE_AUDITORS, LOT), bundles, weights, lambda *_node: BAND)
    return {
        "judging": judging,
        "saying": 4 - judging,
        "reason": reason,
        "answers": sum(outcome.answers for outcome in found),
        "withheld": sum(outcome.withheld for outcome in found),
    }


def _row(number: int) -> BookRow:
    digest = Hash32(hashlib.sha256(bytes([number])).digest())
    return unasked_row(digest, 700 * number % 5000, BOOKED_PAYERS[number % len(BOOKED_PAYERS)])


def _challenges() -> dict[str, object]:
    made = {payer: _signed(payer, _receipt(payer)) for payer in PAYERS}
    weights = {account(payer): payer for payer in PAYERS}
    bundles = {
        account(payer): VoteBundle(EpochNumber(4), account(payer), (), challenges=(signed,))
        for payer, signed in made.items()
    }
    known = EpochResult(
        EpochNumber(3), _group(), (), TokenAmount(0), books=(CommittedBook(account(EXECUTOR), make_book((), SOME_CID)),)
    )
    (found,) = audit_outcomes(known, AuditSeeds(DRAW, LOT), bundles, weights, lambda *_node: BAND)
    return {
        "made": {account(payer): receipt_digest(signed.receipt).hex() for payer, signed in made.items()},
        "weights": weights,
        "chosen": [digest.hex() for digest in found.challenged],
    }


def _receipt(
    payer: int, *, is_private: bool = False, is_within_rule: bool = True, is_verifiable: bool = True
) -> Receipt:
    sampling = SamplingParameters(temperature_milli=700)
    return Receipt(
        request_id=RequestId(hashlib.sha256(bytes([payer])).digest()),
        epoch=EpochNumber(3),
        model_id=TINY,
        model_cid=SOME_CID,
        payer=account(payer),
        executor=account(EXECUTOR),
        node_id=NODE,
        prompt_tokens=3,
        output_tokens=4,
        prompt_commitment=tokens_commitment([1, 2, 3]),
        output_commitment=tokens_commitment([4, 5, 6, 70_000]),
        draw_commitment=draw_commitment(sampling, 5, (), ""),
        is_verifiable=is_verifiable,
        seeded_by_user=True,
        at=1_700_000_000,
        price=TokenAmount(7),
        is_private=is_private,
        is_within_rule=is_within_rule,
    )


def _signed(payer: int, receipt: Receipt, *, both: bool = True) -> SignedReceipt:
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(EXECUTOR), digest), sign(key_of(payer), digest) if both else b"")


def _group() -> EpochGroup:
    members = [
        GroupMember(account(n), peer(n), n, (MLNodeSnapshot(NODE, TINY, n, n, (True, False)),)) for n in range(1, 13)
    ]
    ordered = tuple(sorted(members, key=lambda member: member.participant.lower()))
    return EpochGroup(EpochNumber(3), ordered, (model(),))
