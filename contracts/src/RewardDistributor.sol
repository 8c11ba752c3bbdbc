// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {QuernToken} from "./QuernToken.sol";
import {IRewardDistributor} from "./interfaces/IRewardDistributor.sol";

/// @title Reward coins: a capped, halving emission, claimed by proof against the newest result.
/// @notice Whatever a quorum signs, an epoch cannot fund more than its subsidy, and claims cannot exceed what was
/// funded. The constructor proves that all subsidies together fit under the token's cap, so a funded reward can always
/// be minted.
contract RewardDistributor is IRewardDistributor, Ownable2Step {
    QuernToken public immutable token;
    /// @inheritdoc IRewardDistributor
    uint256 public immutable initialSubsidy;
    /// @inheritdoc IRewardDistributor
    uint32 public immutable halvingEpochs;

    /// @notice The only caller of `postEpoch`; set once by the deployer.
    address public epochManager;
    /// @notice Root over (account, cumulative) of the newest result.
    bytes32 public rewardsRoot;
    /// @notice Sum of what all epochs have funded.
    uint256 public fundedTotal;
    /// @notice Sum of what all accounts have claimed; never above `fundedTotal`.
    uint256 public claimedTotal;
    /// @notice What an account has claimed so far.
    mapping(address account => uint256) public claimedOf;

    event EpochManagerSet(address indexed epochManager);
    event EpochFunded(uint64 indexed epoch, bytes32 rewardsRoot, uint256 rewardTotal);
    event RewardClaimed(address indexed account, uint256 amount, uint256 cumulative);

    error EpochManagerAlreadySet(address epochManager);
    error EpochManagerHasNoCode(address account);
    error NotTheEpochManager(address caller);
    error RewardAboveSubsidy(uint256 rewardTotal, uint256 subsidy);
    error HalvingEpochsZero();
    error SubsidiesExceedCap(uint256 needed, uint256 mintable);
    error InvalidProof(address account, uint256 cumulative);
    error NothingToClaim(address account, uint256 cumulative, uint256 claimed);
    error ClaimAboveFunded(uint256 claimed, uint256 funded);

    constructor(QuernToken token_, uint256 initialSubsidy_, uint32 halvingEpochs_) Ownable(msg.sender) {
        if (halvingEpochs_ == 0) revert HalvingEpochsZero();
        // The halvings form a geometric series: all subsidies together stay below twice the first period's.
        uint256 needed = 2 * initialSubsidy_ * halvingEpochs_;
        uint256 mintable = token_.cap() - token_.totalSupply();
        if (needed > mintable) revert SubsidiesExceedCap(needed, mintable);
        token = token_;
        initialSubsidy = initialSubsidy_;
        halvingEpochs = halvingEpochs_;
    }

    /// @notice Name the EpochManager, once and for all.
    function setEpochManager(address epochManager_) external onlyOwner {
        if (epochManager != address(0)) revert EpochManagerAlreadySet(epochManager);
        if (epochManager_.code.length == 0) revert EpochManagerHasNoCode(epochManager_);
        epochManager = epochManager_;
        emit EpochManagerSet(epochManager_);
    }

    /// @inheritdoc IRewardDistributor
    /// @dev That each epoch is posted at most once is the EpochManager's promise.
    function postEpoch(uint64 epoch, bytes32 newRoot, uint256 rewardTotal) external {
        if (msg.sender != epochManager) revert NotTheEpochManager(msg.sender);
        uint256 most = subsidy(epoch);
        if (rewardTotal > most) revert RewardAboveSubsidy(rewardTotal, most);
        rewardsRoot = newRoot;
        fundedTotal += rewardTotal;
        emit EpochFunded(epoch, newRoot, rewardTotal);
    }

    /// @notice Pay `account` what it has earned and not yet claimed. Anyone may call it; only `account` is paid.
    /// @param cumulative All that the account has earned so far, as in the newest result.
    /// @param proof Siblings from the leaf keccak256(keccak256(abi.encode(account, cumulative))) to the root.
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, rewardsRoot, leaf)) revert InvalidProof(account, cumulative);
        uint256 claimed = claimedOf[account];
        if (cumulative <= claimed) revert NothingToClaim(account, cumulative, claimed);
        uint256 amount = cumulative - claimed;
        uint256 total = claimedTotal + amount;
        if (total > fundedTotal) revert ClaimAboveFunded(total, fundedTotal);
        claimedOf[account] = cumulative;
        claimedTotal = total;
        emit RewardClaimed(account, amount, cumulative);
        token.mint(account, amount);
    }

    /// @notice The most that `epoch` may pay: the initial subsidy, halved every `halvingEpochs` epochs.
    function subsidy(uint64 epoch) public view returns (uint256) {
        // A shift by 256 or more gives zero in the EVM, as in node/protocol/rewards.py.
        return initialSubsidy >> (epoch / halvingEpochs);
    }
}
