"""Transactions: byte for byte what another implementation signs, and nothing else is signed."""

from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st

from node.chain.transactions import encode, sign_transaction
from node.protocol.signatures import address_of

amounts = st.integers(0, 2**128)
lengths = st.one_of(st.integers(0, 60), st.sampled_from([255, 256, 70_000]))


@given(
    secret=st.integers(1, 2**200),
    numbers=st.tuples(st.integers(1, 2**40), st.integers(0, 2**40), amounts, amounts, st.integers(0, 2**40), amounts),
    length=lengths,
    filler=st.integers(0, 255),
    creates=st.booleans(),
)
def test_a_transaction_is_the_one_that_another_implementation_signs(
    secret: int, numbers: tuple[int, ...], length: int, filler: int, *, creates: bool
) -> None:
    key = PrivateKey(secret.to_bytes(32))
    chain_id, nonce, priority, most, gas, value = numbers
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "maxPriorityFeePerGas": priority,
        "maxFeePerGas": most,
        "gas": gas,
        "value": value,
        "data": bytes([filler]) * length,
    }
    if not creates:
        fields["to"] = address_of(key.public_key)
    expected = Account.from_key(key.secret).sign_transaction(dict(fields))
    assert sign_transaction(key, fields) == (bytes(expected.hash), bytes(expected.raw_transaction))


@pytest.mark.parametrize(("name", "value"), [("type", 0), ("nonce", -1), ("to", "0x12"), ("to", "nobody")])
def test_what_is_no_transaction_is_not_signed(name: str, value: object) -> None:
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": 1,
        "nonce": 0,
        "maxPriorityFeePerGas": 1,
        "maxFeePerGas": 1,
        "gas": 21_000,
        "value": 0,
        "data": b"",
    }
    with pytest.raises(ValueError):  # several of them
        sign_transaction(PrivateKey(), {**fields, name: value})


@pytest.mark.parametrize(
    ("item", "encoded"),
    [
        (b"", "80"),
        (b"\x7f", "7f"),
        (b"\x80", "8180"),
        (b"dog", "83646f67"),
        ([], "c0"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"),
    ],
)
def test_items_are_encoded_as_the_yellow_paper_has_them(item: Any, encoded: str) -> None:
    assert encode(item).hex() == encoded
