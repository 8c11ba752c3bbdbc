"""Actions become calls: payments bring their allowance, quorums carry no more signatures than they need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chain.action_encoder import encode_action, fewest_signatures, join_signatures
from node.chain.addresses import ContractAddresses, contract_names
from node.protocol.actions import (
    ZERO_ADDRESS,
    DepositCollateral,
    PostEpochResult,
    RedeemVoucher,
    RedeemVouchers,
    SettlePrompt,
)
from node.protocol.identifiers import Address, Hash32, TokenAmount
from node.protocol.records import Voucher
from node.protocol.signatures import SignatureError, compact_signature, sign
from tests.builders import account, key_of

NAMES = [
    field for field in ContractAddresses.__dataclass_fields__ if field not in ("timelock", "governor", "voting_token")
]
ADDRESSES = ContractAddresses(
    **{name: account(50 + index) for index, name in enumerate(NAMES)},
    timelock=ZERO_ADDRESS,
    governor=ZERO_ADDRESS,
    voting_token=ZERO_ADDRESS,
)
GROUPS = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


def group_of(weights: list[int]) -> list[tuple[Address, int]]:
    members = [(account(index + 1), weight) for index, weight in enumerate(weights)]
    return sorted(members, key=lambda entry: entry[0].lower())


@given(GROUPS)
def test_the_fewest_signatures_are_a_quorum_and_none_of_them_is_needless(weights: list[int]) -> None:
    group = group_of(weights)
    everyone = [(member, b"") for member, _ in group]
    chosen = fewest_signatures(everyone, group)
    known = dict(group)
    signed = sum(known[member] for member, _ in chosen)
    assert 3 * signed > 2 * sum(weights)
    lightest = min(known[member] for member, _ in chosen)
    assert 3 * (signed - lightest) <= 2 * sum(weights)


@given(GROUPS, st.data())
def test_signatures_stand_in_the_order_of_the_bits(weights: list[int], data: st.DataObject) -> None:
    group = group_of(weights)
    signers = data.draw(st.sets(st.sampled_from([member for member, _ in group])))
    bitmap, joined = join_signatures([(member, bytes.fromhex(member[2:])) for member in signers], group)
    in_order = [member for index, (member, _) in enumerate(group) if bitmap[index // 256] >> index % 256 & 1]
    assert set(in_order) == signers
    assert joined == b"".join(bytes.fromhex(member[2:]) for member in in_order)


def test_a_payment_brings_its_allowance_first() -> None:
    approve, deposit = encode_action(DepositCollateral(TokenAmount(5)), ADDRESSES)
    assert approve.recipient == ADDRESSES.token
    assert deposit.recipient == ADDRESSES.participant_registry
    (settle,) = encode_action(SettlePrompt(3), ADDRESSES)
    assert settle.recipient == ADDRESSES.inference_coordinator


def test_vouchers_together_are_one_payees() -> None:
    voucher = Voucher(Hash32(bytes(32)), TokenAmount(1), Hash32(bytes(32)))
    signature = sign(key_of(1), Hash32(b"\x01" * 32))
    one = RedeemVoucher(account(1), account(2), voucher, signature)
    (call,) = encode_action(RedeemVouchers((one, one)), ADDRESSES)
    assert call.recipient == ADDRESSES.payment_channels
    with pytest.raises(ValueError, match="one payee"):
        RedeemVouchers((one, RedeemVoucher(account(1), account(3), voucher, signature)))
    with pytest.raises(ValueError, match="at least one"):
        RedeemVouchers(())


def test_what_members_sign_needs_their_group() -> None:
    with pytest.raises(ValueError, match="signing group"):
        encode_action(PostEpochResult.__new__(PostEpochResult), ADDRESSES)


def test_every_address_has_a_contract() -> None:
    assert len(contract_names(ADDRESSES)) == len(NAMES)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 50))
def test_the_short_form_of_a_signature_keeps_all_of_it(digest: bytes, signer: int) -> None:
    signature = sign(key_of(signer), Hash32(digest))
    r, vs = compact_signature(signature)
    assert r == signature[:32]
    assert bytes([vs[0] & 0x7F]) + vs[1:] == signature[32:64]
    assert (vs[0] >> 7) + 27 == signature[64]


@pytest.mark.parametrize("damaged", [b"", bytes(65), bytes(32) + b"\x80" + bytes(31) + b"\x1b", bytes(64) + b"\x1d"])
def test_what_has_no_short_form_is_refused(damaged: bytes) -> None:
    with pytest.raises(SignatureError):
        compact_signature(damaged)
