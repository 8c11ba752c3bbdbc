"""The policy of redeeming, as a decision table; and what no combination of circumstances may lead to."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.services.redeem_policy import (
    REDEEM_GAS,
    REDEEMED,
    SAMPLE_SECONDS,
    SAMPLES_MAX,
    GasPrices,
    Moment,
    OpenVoucher,
    Reason,
    RedeemPolicy,
    decide,
)

POLICY = RedeemPolicy(at_risk_max=1000, at_least=10)
PRICED = replace(POLICY, coin_worth=10**18)
"""Wei and tokens are worth the same: a redemption costs REDEEM_GAS times the gas price."""
VOUCHER = OpenVoucher(outstanding=100, is_backed=True, is_unlocking=False, epochs_waiting=1, was_redeemed_lately=False)
END = Moment(is_epoch_end=True, gas_price=100, usual_gas_price=100)
MIDDLE = replace(END, is_epoch_end=False)
DEAR = replace(END, gas_price=151)
CHEAP = replace(MIDDLE, gas_price=50)


@pytest.mark.parametrize(
    ("voucher", "moment", "policy", "expected"),
    [
        (VOUCHER, END, POLICY, Reason.EPOCH_END),
        (VOUCHER, MIDDLE, POLICY, Reason.NOT_DUE),
        (replace(VOUCHER, outstanding=0), END, POLICY, Reason.NOTHING),
        (replace(VOUCHER, outstanding=-5), END, POLICY, Reason.NOTHING),
        (replace(VOUCHER, is_backed=False, is_unlocking=True), END, POLICY, Reason.NOT_BACKED),
        (replace(VOUCHER, is_unlocking=True), MIDDLE, POLICY, Reason.PAYER_LEAVES),
        (replace(VOUCHER, is_unlocking=True, outstanding=1), MIDDLE, POLICY, Reason.PAYER_LEAVES),
        (replace(VOUCHER, is_unlocking=True, was_redeemed_lately=True), DEAR, POLICY, Reason.PAYER_LEAVES),
        (replace(VOUCHER, outstanding=1000), MIDDLE, POLICY, Reason.AT_RISK),
        (replace(VOUCHER, outstanding=1000, was_redeemed_lately=True), DEAR, POLICY, Reason.AT_RISK),
        (replace(VOUCHER, outstanding=999), MIDDLE, POLICY, Reason.NOT_DUE),
        (replace(VOUCHER, outstanding=9), END, POLICY, Reason.LITTLE),
        (replace(VOUCHER, was_redeemed_lately=True), END, POLICY, Reason.NOT_DUE),
        (VOUCHER, CHEAP, POLICY, Reason.GAS_CHEAP),
        (replace(VOUCHER, was_redeemed_lately=True), CHEAP, POLICY, Reason.NOT_DUE),
        (VOUCHER, DEAR, POLICY, Reason.GAS_HIGH),
        (VOUCHER, replace(END, gas_price=150), POLICY, Reason.EPOCH_END),
        (replace(VOUCHER, epochs_waiting=4), DEAR, POLICY, Reason.LONG_WAIT),
        (VOUCHER, replace(END, gas_price=0, usual_gas_price=0), POLICY, Reason.EPOCH_END),
        (VOUCHER, replace(MIDDLE, gas_price=0), POLICY, Reason.NOT_DUE),
        (replace(VOUCHER, outstanding=REDEEM_GAS), replace(END, gas_price=1, usual_gas_price=1),
         replace(PRICED, at_risk_max=10**9), Reason.LOSS),
        (replace(VOUCHER, outstanding=REDEEM_GAS, is_unlocking=True), replace(END, gas_price=1), PRICED, Reason.LOSS),
        (replace(VOUCHER, outstanding=9 * REDEEM_GAS), replace(END, gas_price=1, usual_gas_price=1),
         replace(PRICED, at_risk_max=10**9), Reason.TOO_DEAR),
        (replace(VOUCHER, outstanding=10 * REDEEM_GAS), replace(END, gas_price=1, usual_gas_price=1),
         replace(PRICED, at_risk_max=10**9), Reason.EPOCH_END),
    ],
)  # fmt: skip
def test_each_circumstance_has_its_decision(
    voucher: OpenVoucher, moment: Moment, policy: RedeemPolicy, expected: Reason
) -> None:
    assert decide(voucher, moment, policy) is expected


AMOUNTS = st.integers(0, 10**24)
PRICES = st.integers(0, 10**13)


@given(
    st.builds(OpenVoucher, AMOUNTS, st.booleans(), st.booleans(), st.integers(0, 100), st.booleans()),
    st.builds(Moment, st.booleans(), PRICES, PRICES),
    st.builds(RedeemPolicy, AMOUNTS, AMOUNTS, st.integers(100, 1000), st.integers(0, 10), AMOUNTS, st.integers(1, 100)),
)
def test_nothing_is_redeemed_for_nothing_or_at_a_loss_and_no_payer_leaves_with_what_is_worth_its_gas(
    voucher: OpenVoucher, moment: Moment, policy: RedeemPolicy
) -> None:
    reason = decide(voucher, moment, policy)
    cost = moment.gas_price * REDEEM_GAS * policy.coin_worth // 10**18
    if reason in REDEEMED:
        assert voucher.outstanding > 0
        assert voucher.is_backed
        assert cost < voucher.outstanding
    elif voucher.is_backed and voucher.is_unlocking and voucher.outstanding > cost:
        raise AssertionError(f"the payer leaves with {voucher.outstanding}: {reason}")


def test_a_spike_is_not_taken_for_the_usual_price_and_a_new_level_is_after_some_hours() -> None:
    prices = GasPrices()
    assert prices.usual == 0
    minute = 0
    for price, minutes in ((100, 300), (10_000, 60)):
        for _ in range(minutes):
            minute += 1
            prices.note(price, minute * SAMPLE_SECONDS)
    assert prices.usual == 100
    prices.note(10_000, minute * SAMPLE_SECONDS + 1)  # within the minute: no sample
    prices.note(0, (minute + 5) * SAMPLE_SECONDS)  # nobody knows: no sample
    for _ in range(SAMPLES_MAX):
        minute += 10
        prices.note(10_000, minute * SAMPLE_SECONDS)
    assert prices.usual == 10_000
