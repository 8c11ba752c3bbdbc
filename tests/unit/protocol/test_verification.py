"""Receipts can be checked by anyone who has the answer: every changed figure, token, key or file is found."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.codec import SchemaError
from node.protocol.dossiers import AnswerEvidence, Covering, Dossier, dossiers_from_json, dossiers_to_json
from node.protocol.eip712 import channel_id, voucher_digest
from node.protocol.identifiers import ZERO_HASH, Address, EpochNumber, Hash32, RequestId, TokenAmount
from node.protocol.pricing import receipt_digest, tokens_commitment
from node.protocol.receipts import draw_commitment
from node.protocol.records import Asking, Receipt, SignedReceipt, Voucher
from node.protocol.sampling import SamplingParameters
from node.protocol.seeds import drawn_seed, make_share
from node.protocol.signatures import sign
from node.protocol.verification import Check, Outcome, verify_offline
from tests.builders import NODE, SOME_CID, TINY, account, key_of

CHAIN_ID = 31337
CHANNELS = Address("0x" + "11" * 20)
PAYER, EXECUTOR = 1, 2
REQUEST = RequestId(b"\x07" * 32)
SAMPLING = SamplingParameters(temperature_milli=700)
PROMPT, OUTPUT = (1, 2, 3), (4, 5, 6, 70_000)
PRICE = TokenAmount(98)


def sign_both(receipt: Receipt, executor: int = EXECUTOR, payer: int = PAYER) -> SignedReceipt:
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(executor), digest), sign(key_of(payer), digest))


def make_dossier() -> Dossier:
    share = make_share(b"s" * 32, REQUEST, account(PAYER), account(EXECUTOR), lambda d: sign(key_of(EXECUTOR), d))
    seed = drawn_seed(REQUEST, account(PAYER), share.share)
    receipt = Receipt(
        request_id=REQUEST,
        epoch=EpochNumber(3),
        model_id=TINY,
        model_cid=SOME_CID,
        payer=account(PAYER),
        executor=account(EXECUTOR),
        node_id=NODE,
        prompt_tokens=len(PROMPT),
        output_tokens=len(OUTPUT),
        prompt_commitment=tokens_commitment(PROMPT),
        output_commitment=tokens_commitment(OUTPUT),
        draw_commitment=draw_commitment(SAMPLING, seed, ("\n",), ""),
        is_verifiable=True,
        seeded_by_user=False,
        at=1_700_000_000,
        price=PRICE,
        asking=Asking(EpochNumber(3), 90, Hash32(bytes([8]) * 32)),
    )
    answer = AnswerEvidence(PROMPT, OUTPUT, "a quern grinds", SAMPLING, seed, share, ("\n",), "")
    return Dossier(CHAIN_ID, CHANNELS, sign_both(receipt), answer, covering(200))


def covering(cumulative: int, signer: int = PAYER, payee: int = EXECUTOR) -> Covering:
    channel = channel_id(CHAIN_ID, CHANNELS, account(PAYER), account(payee))
    voucher = Voucher(channel, TokenAmount(cumulative), ZERO_HASH)
    return Covering(voucher, sign(key_of(signer), voucher_digest(voucher, CHAIN_ID, CHANNELS)))


DOSSIER = make_dossier()
assert DOSSIER.answer is not None
ANSWER: AnswerEvidence = DOSSIER.answer


def faults(dossier: Dossier) -> set[str]:
    return {check.what for check in verify_offline(dossier) if check.outcome is Outcome.FAILS}


def with_answer(**changes: object) -> Dossier:
    return replace(DOSSIER, answer=replace(ANSWER, **changes))  # type: ignore[arg-type]


def with_receipt(**changes: object) -> Dossier:
    """A receipt that both have signed, but that says something else."""
    return replace(DOSSIER, signed=sign_both(replace(DOSSIER.signed.receipt, **changes)))  # type: ignore[arg-type]


def test_an_honest_receipt_holds_in_every_line() -> None:
    checks = verify_offline(DOSSIER)
    assert [check.what for check in checks] == [
        "executor's signature", "payer's signature", "prompt", "output", "draw", "seed", "voucher",
    ]  # fmt: skip
    assert all(check.outcome is Outcome.HOLDS for check in checks)


def test_without_the_answer_signatures_and_voucher_are_checked_and_the_rest_is_said_to_be_unchecked() -> None:
    checks = verify_offline(replace(DOSSIER, answer=None))
    assert [check.what for check in checks if check.outcome is Outcome.UNCHECKED] == [
        "prompt", "output", "draw", "seed",
    ]  # fmt: skip
    assert not [check for check in checks if check.outcome is Outcome.FAILS]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (replace(DOSSIER, signed=sign_both(DOSSIER.signed.receipt, executor=3)), {"executor's signature"}),
        (replace(DOSSIER, signed=sign_both(DOSSIER.signed.receipt, payer=3)), {"payer's signature"}),
        (replace(DOSSIER, signed=replace(DOSSIER.signed, payer_signature=b"")), {"payer's signature"}),
        (replace(DOSSIER, signed=replace(DOSSIER.signed, signature=b"x" * 65)), {"executor's signature"}),
        (with_answer(prompt_ids=(1, 2, 4)), {"prompt"}),
        (with_answer(prompt_ids=(1, 2)), {"prompt"}),
        (with_answer(output_ids=(4, 5, 6, 7)), {"output"}),
        (with_receipt(output_tokens=5), {"output"}),
        (with_answer(sampling=SamplingParameters()), {"draw"}),
        (with_answer(stop=()), {"draw"}),
        (with_answer(response_format="{}"), {"draw"}),
        (with_receipt(is_verifiable=False), set()),  # said by an engine that does not follow the rule
        (with_answer(seed=5), {"draw", "seed"}),
        (with_answer(seed_share=None), {"seed"}),
        (with_receipt(seeded_by_user=True), {"seed"}),
        (with_answer(seed_share=replace(ANSWER.seed_share, share=b"z" * 32)), {"seed"}),  # type: ignore[type-var]
        (with_receipt(request_id=RequestId(b"\x08" * 32)), {"seed"}),
        (replace(DOSSIER, covering=covering(97)), {"voucher"}),
        (replace(DOSSIER, covering=covering(200, signer=3)), {"voucher"}),
        (replace(DOSSIER, covering=covering(200, payee=3)), {"voucher"}),
        (replace(DOSSIER, chain_id=1), {"voucher"}),
        (replace(DOSSIER, covering=replace(covering(200), signature=b"")), {"voucher"}),
    ],
)
def test_every_change_is_found_in_the_line_it_belongs_to(changed: Dossier, expected: set[str]) -> None:
    assert faults(changed) == expected


def test_any_figure_changed_after_signing_spoils_both_signatures() -> None:
    receipt = DOSSIER.signed.receipt
    for field in dataclasses.fields(receipt):
        value = getattr(receipt, field.name)
        other = {int: 77, str: "other", bytes: b"\x01" * 32, bool: not value, Asking: None}[type(value)]
        changed = replace(DOSSIER.signed, receipt=replace(receipt, **{field.name: other}))
        if field.name not in ("payer", "executor"):  # those name the signers themselves
            assert {"executor's signature", "payer's signature"} <= faults(replace(DOSSIER, signed=changed)), field.name


def test_a_free_answer_needs_no_voucher() -> None:
    free = replace(with_receipt(price=TokenAmount(0)), covering=None)
    assert {check.what: check.outcome for check in verify_offline(free)}["voucher"] is Outcome.HOLDS


# --- files ---


def test_a_file_gives_back_what_was_written_to_it() -> None:
    dossiers = (DOSSIER, replace(DOSSIER, answer=None, covering=None))
    assert dossiers_from_json(dossiers_to_json(dossiers)) == dossiers


def spoilt(change: Callable[[dict[str, object]], object]) -> str:
    document = json.loads(dossiers_to_json((DOSSIER,)))
    change(document)
    return json.dumps(document)


RECEIPT_OF = "signed.receipt."


def at_path(path: str, value: object) -> Callable[[dict[str, object]], object]:
    def change(document: dict[str, object]) -> None:
        *parents, name = path.split(".")
        place: dict[str, object] = document["receipts"][0]  # type: ignore[index]
        for parent in parents:
            place = place[parent]  # type: ignore[assignment]
        if value is None:
            del place[name]
        else:
            place[name] = value

    return change


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"format": "quern-receipts/1"}',
        '{"format": "quern-receipts/1", "receipts": []}',
        '{"format": "quern-receipts/1", "receipts": [5]}',
        '{"format": "quern-receipts/2", "receipts": [{}]}',
        spoilt(at_path(RECEIPT_OF + "price", 98)),
        spoilt(at_path(RECEIPT_OF + "price", "0098")),
        spoilt(at_path(RECEIPT_OF + "price", None)),
        spoilt(at_path(RECEIPT_OF + "prompt_commitment", "zz")),
        spoilt(at_path(RECEIPT_OF + "prompt_commitment", "AB" * 32)),
        spoilt(at_path(RECEIPT_OF + "prompt_commitment", 5)),
        spoilt(at_path(RECEIPT_OF + "prompt_tokens", -1)),
        spoilt(at_path(RECEIPT_OF + "prompt_tokens", 10**30)),
        spoilt(at_path(RECEIPT_OF + "prompt_tokens", 1.5)),
        spoilt(at_path(RECEIPT_OF + "is_verifiable", 1)),
        spoilt(at_path(RECEIPT_OF + "payer", "nobody")),
        spoilt(at_path("chain_id", -1)),
        spoilt(at_path("payment_channels", "0x11")),
        spoilt(at_path("answer.output_ids", [1, "2"])),
        spoilt(at_path("answer.output_ids", [10**40])),
        spoilt(at_path("answer.output_ids", "12")),
        spoilt(at_path("answer.sampling", [])),
        spoilt(at_path("covering.voucher.receipts_root", "ab" * 31)),
        spoilt(at_path("covering.voucher.cumulative", "9" * 78)),
        spoilt(at_path("signed.signature", "a b c d")),
    ],
)
def test_a_malformed_file_is_refused_with_a_word(text: str) -> None:
    with pytest.raises(SchemaError):
        dossiers_from_json(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = ["signed", "answer", "covering", "signed.receipt", "answer.seed_share", "covering.voucher", "answer.stop"] + [
    RECEIPT_OF + field.name for field in dataclasses.fields(Receipt)
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_whatever_stands_in_a_file_is_refused_or_checked_and_crashes_nothing(path: str, value: object) -> None:
    try:
        dossiers = dossiers_from_json(spoilt(at_path(path, value)))
    except SchemaError:
        return
    checks: list[Check] = [check for dossier in dossiers for check in verify_offline(dossier)]
    assert checks


def test_a_voucher_with_short_hashes_or_too_large_an_amount_is_none() -> None:
    good = covering(5).voucher
    for changes in (
        {"receipts_root": Hash32(bytes(31))},
        {"channel_id": Hash32(bytes(33))},
        {"cumulative": TokenAmount(2**256)},
        {"cumulative": TokenAmount(-1)},
    ):
        with pytest.raises(ValueError, match="voucher"):
            replace(good, **changes)  # type: ignore[arg-type]
