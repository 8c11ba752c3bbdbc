"""Rewards: never over the subsidy, shares by weight, the bonus moves shares only, claims verify."""

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.identifiers import Address, EpochNumber, Hash32, TokenAmount
from node.protocol.merkle import PROOF_LENGTH_MAX, merkle_proof, merkle_root, verify_merkle_proof
from node.protocol.records import EpochResultSummary, RewardShare
from node.protocol.rewards import (
    accumulate,
    get_settle_amounts,
    pot,
    reward_proof,
    rewards_root,
    subsidy,
    verify_reward_proof,
)
from tests.builders import PARAMETERS, SOME_CID, account

ACCOUNTS = [account(number) for number in range(1, 9)]
WEIGHTS = st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(1, 2**40), min_size=1)
AVAILABLE = st.integers(0, 2**100)


def test_the_subsidy_halves_and_ends() -> None:
    initial = PARAMETERS.initial_subsidy
    assert [subsidy(epoch, PARAMETERS) for epoch in (0, 3, 4, 8)] == [initial, initial, initial // 2, initial // 4]
    assert subsidy(4 * 300, PARAMETERS) == 0


@given(WEIGHTS, st.sets(st.sampled_from(ACCOUNTS)), AVAILABLE)
def test_what_is_paid_never_exceeds_what_there_is_and_leaves_only_dust(
    weights: dict[Address, int], covering: set[Address], available: int
) -> None:
    amounts = get_settle_amounts(weights, covering, TokenAmount(available))
    assert available - len(weights) < sum(amounts.values()) <= available
    assert set(amounts) == set(weights)


def test_covering_every_model_is_worth_ten_percent_more() -> None:
    amounts = get_settle_amounts({account(1): 100, account(2): 100}, {account(1)}, TokenAmount(2_100))
    assert amounts == {account(1): 1_100, account(2): 1_000}


@given(WEIGHTS, AVAILABLE)
def test_if_all_cover_or_none_the_shares_are_the_same(weights: dict[Address, int], available: int) -> None:
    everyone = get_settle_amounts(weights, set(weights), TokenAmount(available))
    assert everyone == get_settle_amounts(weights, set(), TokenAmount(available))


def test_no_weight_is_no_reward() -> None:
    assert get_settle_amounts({}, set(), TokenAmount(100)) == {}


SCORES = st.dictionaries(st.sampled_from(ACCOUNTS), st.integers(0, 1000))


@given(WEIGHTS, st.sets(st.sampled_from(ACCOUNTS)), AVAILABLE, SCORES, st.sets(st.sampled_from(ACCOUNTS)))
def test_scores_and_offences_take_from_nobody_else_and_give_to_nobody(
    weights: dict[Address, int], covering: set[Address], available: int, scores: dict, offenders: set[Address]
) -> None:
    full = get_settle_amounts(weights, covering, TokenAmount(available))
    amounts = get_settle_amounts(weights, covering, TokenAmount(available), scores, offenders)
    for owner, most in full.items():
        paid = amounts.get(owner, 0)
        assert paid == (0 if owner in offenders else most * (1000 + scores.get(owner, 1000)) // 2000)


@given(WEIGHTS, st.sets(st.sampled_from(ACCOUNTS)), AVAILABLE, SCORES, st.integers(0, 2**40), st.booleans())
def test_more_valid_work_never_earns_less(
    weights: dict[Address, int], covering: set[Address], available: int, scores: dict, more: int, covers: bool
) -> None:
    worker = min(weights)
    before = get_settle_amounts(weights, covering, TokenAmount(available), scores)
    harder = {**weights, worker: weights[worker] + more}
    now_covering = covering | {worker} if covers else covering
    after = get_settle_amounts(harder, now_covering, TokenAmount(available), scores)
    assert after[worker] >= before[worker]


@given(WEIGHTS, WEIGHTS)
def test_cumulative_shares_only_grow_and_ascend_by_account(first: dict, second: dict) -> None:
    before = accumulate((), {}, first)
    after = accumulate(before, {}, second)
    known = {share.account: share.cumulative for share in after}
    assert all(known[share.account] >= share.cumulative for share in before)
    assert sum(known.values()) == sum(first.values()) + sum(second.values())
    order = [share.account.lower() for share in after]
    assert order == sorted(order)


@given(st.lists(st.tuples(WEIGHTS, st.sets(st.sampled_from(ACCOUNTS))), max_size=6))
def test_whoever_claims_and_whenever_nothing_is_lost_and_nothing_paid_twice(
    epochs: list[tuple[dict[Address, int], set[Address]]],
) -> None:
    shares: tuple[RewardShare, ...] = ()
    earned_in_all: dict[Address, int] = {}
    claimed: dict[Address, TokenAmount] = {}
    for earned, claimants in epochs:
        shares = accumulate(shares, claimed, {owner: TokenAmount(amount) for owner, amount in earned.items()})
        for owner, amount in earned.items():
            earned_in_all[owner] = earned_in_all.get(owner, 0) + amount
        owed = {share.account: share.cumulative for share in shares}
        for owner, amount in earned_in_all.items():
            assert max(owed.get(owner, 0), claimed.get(owner, 0)) == amount
        claimed |= {owner: owed[owner] for owner in claimants if owner in owed}
    assert all(share.cumulative > 0 for share in shares)


def test_who_has_claimed_everything_is_left_out_of_the_next_result() -> None:
    shares = accumulate((), {}, {ACCOUNTS[0]: TokenAmount(5), ACCOUNTS[1]: TokenAmount(7)})
    after = accumulate(shares, {ACCOUNTS[0]: TokenAmount(5), ACCOUNTS[1]: TokenAmount(6)}, {})
    assert after == (RewardShare(ACCOUNTS[1], TokenAmount(7)),)


@given(st.integers(0, 50), st.lists(st.integers(0, 10**20), min_size=1, max_size=5))
def test_the_pot_is_what_was_added_less_what_exceeded_the_subsidies(added: int, extras: list[int]) -> None:
    results = {
        EpochNumber(number): EpochResultSummary(
            EpochNumber(number),
            SOME_CID,
            Hash32(bytes(32)),
            1,
            Hash32(bytes(32)),
            TokenAmount(subsidy(number, PARAMETERS) + extra),
        )
        for number, extra in enumerate(extras)
    }
    total = TokenAmount(added + sum(extras))
    assert pot(EpochNumber(len(extras)), total, results, PARAMETERS) == added
    assert pot(EpochNumber(0), total, results, PARAMETERS) == total


@given(WEIGHTS)
def test_every_share_has_a_proof_and_no_other_amount_has(weights: dict[Address, int]) -> None:
    shares = tuple(RewardShare(owner, TokenAmount(amount)) for owner, amount in weights.items())
    root = rewards_root(shares)
    for share in shares:
        cumulative, proof = reward_proof(shares, share.account)
        assert cumulative == share.cumulative
        assert verify_reward_proof(root, share.account, cumulative, proof)
        assert not verify_reward_proof(root, share.account, TokenAmount(cumulative + 1), proof)
        assert not verify_reward_proof(root, account(99), cumulative, proof)
    with pytest.raises(KeyError):
        reward_proof(shares, account(99))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_a_proof_leads_from_its_leaf_to_the_root_and_from_no_other(leaves: list[Hash32], data: st.DataObject) -> None:
    root = merkle_root(leaves, keccak)
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = merkle_proof(leaves, index, keccak)
    assert verify_merkle_proof(root, leaves[index], proof, keccak)
    assert not verify_merkle_proof(root, Hash32(keccak(leaves[index])), proof, keccak)


def test_an_endless_proof_is_refused_unhashed() -> None:
    def never(_: bytes) -> bytes:
        raise AssertionError("hashed")

    assert not verify_merkle_proof(
        Hash32(bytes(32)), Hash32(bytes(32)), [Hash32(bytes(32))] * (PROOF_LENGTH_MAX + 1), never
    )


def test_the_tree_of_nothing_is_zero_and_has_no_proofs() -> None:
    assert merkle_root([], keccak) == bytes(32)
    with pytest.raises(IndexError):
        merkle_proof([], 0, keccak)
