"""From weights to money: subsidy, coverage bonus, score, shares and claims. Integer division; dust is not paid."""

from collections.abc import Mapping, Sequence, Set

from eth_abi.abi import encode
from eth_hash.auto import keccak

from node.protocol.findings import SCORE_FULL
from node.protocol.identifiers import Address, EpochNumber, Hash32, TokenAmount
from node.protocol.merkle import merkle_proof, merkle_root, verify_merkle_proof
from node.protocol.records import EpochParameters, EpochResultSummary, RewardShare

COVERAGE_BONUS_PERCENT = 10
"""More reward weight for a participant that serves every model (requirements B9)."""
SUBSIDY_SHIFT_MAX = 256
"""After so many halvings nothing is left, as in the contract."""


def subsidy(epoch: int, parameters: EpochParameters) -> TokenAmount:
    """Return the most that `epoch` may pay in reward coins: the initial subsidy, halved every `halving_epochs`."""
    halvings = epoch // parameters.halving_epochs
    return TokenAmount(0 if halvings >= SUBSIDY_SHIFT_MAX else parameters.initial_subsidy >> halvings)


def pot(
    epoch: EpochNumber,
    work_coins_added: TokenAmount,
    results: Mapping[EpochNumber, EpochResultSummary],
    parameters: EpochParameters,
) -> TokenAmount:
    """Return the work coins that the result of `epoch` may share out: all that were added, less what results before
    it paid beyond their subsidies. As in the RewardDistributor.
    """
    spent = sum(
        max(0, summary.reward_total - subsidy(number, parameters))
        for number, summary in results.items()
        if number < epoch
    )
    return TokenAmount(work_coins_added - spent)


def counted_weight(weight: int, *, covers_models: bool) -> int:
    """Return the weight that shares are measured by: with the coverage bonus, in hundredths."""
    return weight * (100 + COVERAGE_BONUS_PERCENT * covers_models)


def get_settle_amount(counted: int, total_counted: int, available: TokenAmount, score_per_mille: int) -> TokenAmount:
    """Return what a participant is paid: its share of `available` by counted weight, half of it by its score.

    What a score takes away is paid to nobody. So nobody gains by a rival's lost points, and more weight never earns
    less.
    """
    share = available * counted // total_counted
    return TokenAmount(share * (SCORE_FULL + score_per_mille) // (2 * SCORE_FULL))


def get_settle_amounts(
    weights: Mapping[Address, int],
    covering: Set[Address],
    available: TokenAmount,
    scores: Mapping[Address, int] | None = None,
    unpaid: Set[Address] = frozenset(),
    unproven: Mapping[Address, int] | None = None,
) -> dict[Address, TokenAmount]:
    """Share `available` by weight, those in `covering` counted with the coverage bonus.

    The bonus moves shares, never the total: the sum is at most `available`, short of it by less than one unit of
    dust per participant where all have full `scores` (thousandths; who has none has a full one). Those in `unpaid`
    (fraud was proven) get nothing, and nobody gets their share; nor that of the weight which is `unproven`, a part of
    an account's whose answers were proven false without fraud.
    """
    known, without = scores or {}, unproven or {}
    counted = {
        account: counted_weight(weight, covers_models=account in covering) for account, weight in weights.items()
    }
    total = sum(counted.values())
    paid = {
        account: counted_weight(weight - without.get(account, 0), covers_models=account in covering)
        for account, weight in weights.items()
    }
    return {
        account: get_settle_amount(share, total, available, known.get(account, SCORE_FULL))
        for account, share in paid.items()
        if total > 0 and account not in unpaid
    }


def accumulate(
    previous: Sequence[RewardShare], claimed: Mapping[Address, TokenAmount], earned: Mapping[Address, TokenAmount]
) -> tuple[RewardShare, ...]:
    """Add this epoch's amounts to the cumulative shares of the result before it; ascending by account.

    What is not claimed stays in every result, for ever. Who has claimed everything is left out, so that a result grows
    with those who are owed something and not with the network's age; who comes back goes on from what it has claimed.
    """
    totals = {share.account: share.cumulative for share in previous if share.cumulative > claimed.get(share.account, 0)}
    for account, amount in earned.items():
        totals[account] = TokenAmount(totals.get(account, claimed.get(account, 0)) + amount)
    ordered = sorted(totals.items(), key=lambda item: item[0].lower())
    return tuple(RewardShare(account, cumulative) for account, cumulative in ordered if cumulative > 0)


def rewards_root(shares: Sequence[RewardShare]) -> Hash32:
    """Return the Merkle root that the RewardDistributor verifies claims against."""
    return merkle_root([_leaf(share.account, share.cumulative) for share in shares], keccak)


def reward_proof(shares: Sequence[RewardShare], account: Address) -> tuple[TokenAmount, tuple[Hash32, ...]]:
    """Return (cumulative, proof) of `account`; raise KeyError if it has no share."""
    for index, share in enumerate(shares):
        if share.account == account:
            leaves = [_leaf(other.account, other.cumulative) for other in shares]
            return share.cumulative, merkle_proof(leaves, index, keccak)
    raise KeyError(account)


def verify_reward_proof(root: Hash32, account: Address, cumulative: TokenAmount, proof: Sequence[Hash32]) -> bool:
    """Whether the contract would accept this claim."""
    return verify_merkle_proof(root, _leaf(account, cumulative), proof, keccak)


def _leaf(account: Address, cumulative: TokenAmount) -> Hash32:
    """Double hash, so that no inner node can pass for a leaf (OpenZeppelin's StandardMerkleTree)."""
    return Hash32(keccak(keccak(encode(["address", "uint256"], (account, cumulative)))))
