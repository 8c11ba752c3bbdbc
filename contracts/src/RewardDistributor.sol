// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {QuernToken} from "./QuernToken.sol";
import {SortedMerkle} from "./SortedMerkle.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";

/// @title What an epoch pays: reward coins of a capped, halving emission, and work coins that anyone put into the pot.
/// @notice Claimed by proof against the newest active result. Whatever a quorum signs, an epoch cannot fund more than
/// its subsidy and the pot, and claims cannot exceed what was funded. The constructor proves that all subsidies together
/// fit under the token's cap, so a funded reward can always be minted. Proofs are cumulative: what is not claimed stays
/// claimable for ever, by anyone in favour of its account, and is not minted before. (Users pay executors directly, by
/// PaymentChannels and InferenceCoordinator: those work coins never pass through here.)
contract RewardDistributor is IRewardDistributor, Ownable2Step {
    using SafeERC20 for IERC20;

    /// @notice Claimed but not yet released, in units of 10^-18; falls linearly from `since` to `until` (UNIX seconds).
    struct Vesting {
        uint128 locked;
        uint64 since;
        uint64 until;
    }

    /// @dev One word, all that a claim writes beside its account's: amounts, the block from which the pending result is
    /// in effect (zero once it is, or if it was voided), and whether something funded was not minted yet.
    struct Totals {
        uint104 funded;
        uint104 claimed;
        uint40 pendingFrom;
        bool mintIsDue;
    }

    /// @dev One word: the pending result, and what was put into the pot and not yet shared out. Values of a result that
    /// took effect stay: the next one overwrites words instead of filling empty ones.
    struct Pending {
        uint64 epoch;
        uint96 total;
        uint96 pot;
    }

    QuernToken public immutable token;
    /// @inheritdoc IRewardDistributor
    uint256 public immutable initialSubsidy;
    /// @inheritdoc IRewardDistributor
    uint32 public immutable halvingEpochs;
    /// @notice Seconds over which a claim is released; zero pays it at once.
    uint64 public immutable vestingSeconds;

    /// @notice The only caller of `postEpoch` and `voidEpoch`; set once by the deployer.
    address public epochManager;

    /// @notice Root over (account, cumulative) of the newest result in effect, as of the last claim or posting.
    bytes32 public rewardsRoot;
    Totals private _totals;
    Pending private _pending;
    bytes32 private _pendingRoot;
    /// @dev One word: what was shared out of the pot, and what was minted. Their sum lags behind what is funded.
    uint128 private _fromPot;
    uint128 private _minted;

    /// @notice What an account has claimed so far.
    mapping(address account => uint256) public claimedOf;
    /// @notice What of an account's claims is still locked.
    mapping(address account => Vesting) public vestingOf;

    event EpochManagerSet(address indexed epochManager);
    event EpochVoided(uint64 indexed epoch);
    event WorkCoinsAdded(address indexed sender, uint256 amount);
    /// @notice `account` has claimed `cumulative` in all.
    event RewardClaimed(address indexed account, uint256 cumulative);
    event RewardReleased(address indexed account, uint256 amount, uint256 locked);

    error EpochManagerAlreadySet(address epochManager);
    error EpochManagerHasNoCode(address account);
    error NotTheEpochManager(address caller);
    error RewardAboveFunds(uint256 rewardTotal, uint256 subsidy, uint256 pot);
    error NotPending(uint64 epoch, uint64 pendingEpoch);
    error HalvingEpochsZero();
    error SubsidiesExceedCap(uint256 needed, uint256 mintable);
    error CapTooLarge(uint256 cap, uint256 max);
    error AmountZero();
    error InvalidProof(address account, uint256 cumulative);
    error NothingToClaim(address account, uint256 cumulative, uint256 claimed);
    error ClaimAboveFunded(uint256 claimed, uint256 funded);
    error NothingToRelease(address account);

    constructor(QuernToken token_, uint256 initialSubsidy_, uint32 halvingEpochs_, uint64 vestingSeconds_)
        Ownable(msg.sender)
    {
        if (halvingEpochs_ == 0) revert HalvingEpochsZero();
        // An amount fits into 96 bits, and their sums into 104, until the whole supply went through the pot 256 times.
        if (token_.cap() > type(uint96).max) revert CapTooLarge(token_.cap(), type(uint96).max);
        // The halvings form a geometric series: all subsidies together stay below twice the first period's.
        uint256 needed = 2 * initialSubsidy_ * halvingEpochs_;
        uint256 mintable = token_.cap() - token_.totalSupply();
        if (needed > mintable) revert SubsidiesExceedCap(needed, mintable);
        token = token_;
        initialSubsidy = initialSubsidy_;
        halvingEpochs = halvingEpochs_;
        vestingSeconds = vestingSeconds_;
    }

    /// @notice Name the EpochManager, once and for all.
    function setEpochManager(address epochManager_) external onlyOwner {
        if (epochManager != address(0)) revert EpochManagerAlreadySet(epochManager);
        if (epochManager_.code.length == 0) revert EpochManagerHasNoCode(epochManager_);
        epochManager = epochManager_;
        emit EpochManagerSet(epochManager_);
    }

    /// @notice Put work coins into the pot, which the next results share out by proved work beside the subsidy.
    function addWorkCoins(uint256 amount) external {
        if (amount == 0) revert AmountZero();
        _pending.pot += SafeCast.toUint96(amount);
        emit WorkCoinsAdded(msg.sender, amount);
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IRewardDistributor
    /// @dev That each epoch is posted at most once, and the next only after this one's end, is the EpochManager's
    /// promise.
    function postEpoch(uint64 epoch, bytes32 newRoot, uint256 rewardTotal, uint64 activeFrom) external {
        if (msg.sender != epochManager) revert NotTheEpochManager(msg.sender);
        (Totals memory totals, Pending memory pending) = (_totals, _pending);
        if (_isDue(totals)) _activate(totals, pending);
        uint256 most = subsidy(epoch);
        if (rewardTotal > most + pending.pot) revert RewardAboveFunds(rewardTotal, most, pending.pot);
        totals.pendingFrom = SafeCast.toUint40(activeFrom);
        (pending.epoch, pending.total) = (epoch, SafeCast.toUint96(rewardTotal));
        (_totals, _pending, _pendingRoot) = (totals, pending, newRoot);
    }

    /// @inheritdoc IRewardDistributor
    function voidEpoch(uint64 epoch) external {
        if (msg.sender != epochManager) revert NotTheEpochManager(msg.sender);
        uint40 from = _totals.pendingFrom;
        if (from == 0 || _pending.epoch != epoch || block.number >= from) revert NotPending(epoch, _pending.epoch);
        _totals.pendingFrom = 0;
        emit EpochVoided(epoch);
    }

    /// @notice Pay `account` what it has earned and not yet claimed, at once or over `vestingSeconds`. Anyone may call
    /// it; only `account` is paid.
    /// @param cumulative All that the account has earned so far, as in the newest active result.
    /// @param proof Siblings from the leaf keccak256(keccak256(abi.encode(account, cumulative))) to the root.
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external {
        Totals memory totals = _totals;
        if (_isDue(totals)) {
            Pending memory pending = _pending;
            _activate(totals, pending);
            _pending = pending;
        }
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
        if (!SortedMerkle.verify(proof, rewardsRoot, leaf)) revert InvalidProof(account, cumulative);
        uint256 claimed = claimedOf[account];
        if (cumulative <= claimed) revert NothingToClaim(account, cumulative, claimed);
        uint256 amount = cumulative - claimed;
        uint256 total = totals.claimed + amount;
        if (total > totals.funded) revert ClaimAboveFunded(total, totals.funded);
        claimedOf[account] = cumulative;
        totals.claimed = uint104(total); // at most what is funded, which is as wide
        bool mintIsDue = totals.mintIsDue;
        totals.mintIsDue = false;
        _totals = totals;
        emit RewardClaimed(account, cumulative);
        // The first claim after a result took effect mints all of it; those after it only transfer.
        if (mintIsDue) _mintFunded(totals.funded);
        if (vestingSeconds == 0) IERC20(token).safeTransfer(account, amount);
        else _releaseVested(account, amount);
    }

    /// @notice Pay `account` what of its claims has vested. Anyone may call it; only `account` is paid.
    function release(address account) external {
        if (_releaseVested(account, 0) == 0) revert NothingToRelease(account);
    }

    /// @notice What `release` would pay `account` now.
    function releasable(address account) public view returns (uint256) {
        Vesting memory vesting = vestingOf[account];
        if (block.timestamp >= vesting.until) return vesting.locked;
        return uint256(vesting.locked) * (block.timestamp - vesting.since) / (vesting.until - vesting.since);
    }

    /// @notice Sum of what all active results have funded.
    function fundedTotal() external view returns (uint256) {
        return _isDue(_totals) ? _totals.funded + _pending.total : _totals.funded;
    }

    /// @notice Sum of what all accounts have claimed; never above `fundedTotal`.
    function claimedTotal() external view returns (uint256) {
        return _totals.claimed;
    }

    /// @notice Sum of the reward coins minted so far; never above the sum of the subsidies of results in effect.
    function mintedTotal() external view returns (uint256) {
        return _minted;
    }

    /// @notice Work coins that the next result may share out.
    function pot() external view returns (uint256) {
        return _isDue(_totals) ? _pending.pot - _potShare(_pending) : _pending.pot;
    }

    /// @notice The root that claims are proved against at this block.
    function activeRoot() external view returns (bytes32) {
        return _isDue(_totals) ? _pendingRoot : rewardsRoot;
    }

    /// @notice The most reward coins that `epoch` may pay: the initial subsidy, halved every `halvingEpochs` epochs.
    function subsidy(uint64 epoch) public view returns (uint256) {
        // A shift by 256 or more gives zero in the EVM, as in node/protocol/rewards.py.
        return initialSubsidy >> (epoch / halvingEpochs);
    }

    /// @dev Let the pending result take effect, its block having come. The caller stores what this changes in memory.
    function _activate(Totals memory totals, Pending memory pending) private {
        uint96 share = _potShare(pending);
        if (share != 0) {
            pending.pot -= share;
            _fromPot += share;
        }
        rewardsRoot = _pendingRoot;
        totals.funded += pending.total;
        totals.pendingFrom = 0;
        totals.mintIsDue = true;
    }

    function _mintFunded(uint104 funded) private {
        uint128 owed = uint128(funded) - _fromPot - _minted;
        _minted += owed;
        token.mint(address(this), owed);
    }

    function _isDue(Totals memory totals) private view returns (bool) {
        return totals.pendingFrom != 0 && block.number >= totals.pendingFrom;
    }

    /// @dev What of the pending result its subsidy does not cover.
    function _potShare(Pending memory pending) private view returns (uint96) {
        uint256 most = subsidy(pending.epoch);
        return pending.total > most ? uint96(pending.total - most) : 0;
    }

    /// @dev Pay what has vested, add `amount` to what is locked. The two parts keep their own time on average: the new
    /// end is the mean of the ends weighted by amount, rounded up, so that no claim shortens or restarts another's.
    function _releaseVested(address account, uint256 amount) private returns (uint256 vested) {
        vested = releasable(account);
        Vesting memory vesting = vestingOf[account];
        uint256 locked = vesting.locked - vested;
        uint256 left = block.timestamp >= vesting.until ? 0 : vesting.until - block.timestamp;
        uint256 sum = locked + amount;
        uint256 span = sum == 0 ? 0 : (locked * left + amount * vestingSeconds + sum - 1) / sum;
        vestingOf[account] =
            Vesting(SafeCast.toUint128(sum), uint64(block.timestamp), SafeCast.toUint64(block.timestamp + span));
        if (vested == 0) return 0;
        emit RewardReleased(account, vested, sum);
        IERC20(token).safeTransfer(account, vested);
    }
}
