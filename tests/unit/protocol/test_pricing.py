"""Prices and commitments: every token counts once, every receipt changes the root."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import ZERO_HASH, EpochNumber, RequestId, TokenAmount
from node.protocol.pricing import next_receipts_root, price, receipt_digest, tokens_commitment
from node.protocol.records import Receipt
from tests.builders import NODE, SOME_CID, TINY, account, model

RECEIPT = Receipt(
    RequestId(bytes(32)),
    EpochNumber(1),
    TINY,
    SOME_CID,
    account(1),
    account(2),
    NODE,
    3,
    4,
    ZERO_HASH,
    ZERO_HASH,
    ZERO_HASH,
    True,
    False,
    1_700_000_000,
    TokenAmount(98),
)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_price_is_tokens_times_units_times_unit_price(prompt_tokens: int, output_tokens: int) -> None:
    assert price(prompt_tokens, output_tokens, model(), TokenAmount(7)) == (prompt_tokens + output_tokens) * 2 * 7


def test_receipts_roots_depend_on_every_receipt_and_their_order() -> None:
    other = replace(RECEIPT, request_id=RequestId(b"\x01" * 32))
    one_then_other = next_receipts_root(next_receipts_root(ZERO_HASH, RECEIPT), other)
    other_then_one = next_receipts_root(next_receipts_root(ZERO_HASH, other), RECEIPT)
    assert one_then_other != other_then_one
    assert receipt_digest(replace(RECEIPT, price=TokenAmount(99))) != receipt_digest(RECEIPT)


@given(st.lists(st.integers(0, 2**32)), st.lists(st.integers(0, 2**32)))
def test_a_commitment_is_to_one_sequence_of_tokens(one: list[int], other: list[int]) -> None:
    assert (tokens_commitment(one) == tokens_commitment(other)) is (one == other)
