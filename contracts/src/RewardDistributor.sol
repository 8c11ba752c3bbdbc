// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {QuernToken} from "./QuernToken.sol";

/// @title Reward coins: a capped, halving emission, claimed by proof against the newest result.
/// @notice Whatever a quorum signs, an epoch cannot fund more than its subsidy, and claims cannot exceed what was funded.
contract RewardDistributor is Ownable {
    QuernToken public immutable token;
    /// @notice The most an epoch may pay before the first halving.
    uint256 public immutable initialSubsidy;
    uint32 public immutable halvingEpochs;

    /// @notice The only caller of `postEpoch`; set once by the deployer.
    address public epochManager;
    /// @notice Root over (account, cumulative) of the newest result.
    bytes32 public rewardsRoot;
    uint256 public fundedTotal;
    uint256 public claimedTotal;
    mapping(address account => uint256) public claimedOf;

    event EpochManagerSet(address indexed epochManager);
    event EpochFunded(uint64 indexed epoch, bytes32 rewardsRoot, uint256 rewardTotal);
    event RewardClaimed(address indexed account, uint256 amount, uint256 cumulative);

    error EpochManagerAlreadySet(address epochManager);
    error NotTheEpochManager(address caller);
    error RewardAboveSubsidy(uint256 rewardTotal, uint256 subsidy);
    error InvalidHalving();
    error InvalidProof(address account, uint256 cumulative);
    error NothingToClaim(address account);
    error ClaimAboveFunded(uint256 claimed, uint256 funded);

    constructor(QuernToken token_, uint256 initialSubsidy_, uint32 halvingEpochs_) Ownable(msg.sender) {
        if (halvingEpochs_ == 0) revert InvalidHalving();
        token = token_;
        initialSubsidy = initialSubsidy_;
        halvingEpochs = halvingEpochs_;
    }

    /// @notice Name the EpochManager, once and for all.
    function setEpochManager(address epochManager_) external onlyOwner {
        if (epochManager != address(0)) revert EpochManagerAlreadySet(epochManager);
        epochManager = epochManager_;
        emit EpochManagerSet(epochManager_);
    }

    /// @notice Take over the rewards of an accepted result.
    function postEpoch(uint64 epoch, bytes32 newRoot, uint256 rewardTotal) external {
        if (msg.sender != epochManager) revert NotTheEpochManager(msg.sender);
        uint256 most = subsidy(epoch);
        if (rewardTotal > most) revert RewardAboveSubsidy(rewardTotal, most);
        rewardsRoot = newRoot;
        fundedTotal += rewardTotal;
        emit EpochFunded(epoch, newRoot, rewardTotal);
    }

    /// @notice Pay `account` what it has earned and not yet claimed. Anyone may call it.
    /// @param cumulative All that the account has earned so far, as in the newest result.
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external {
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
        if (!MerkleProof.verifyCalldata(proof, rewardsRoot, leaf)) revert InvalidProof(account, cumulative);
        uint256 before = claimedOf[account];
        if (cumulative <= before) revert NothingToClaim(account);
        uint256 amount = cumulative - before;
        claimedOf[account] = cumulative;
        claimedTotal += amount;
        if (claimedTotal > fundedTotal) revert ClaimAboveFunded(claimedTotal, fundedTotal);
        emit RewardClaimed(account, amount, cumulative);
        token.mint(account, amount);
    }

    /// @notice The most that `epoch` may pay.
    function subsidy(uint64 epoch) public view returns (uint256) {
        uint256 halvings = epoch / halvingEpochs;
        return halvings >= 256 ? 0 : initialSubsidy >> halvings;
    }
}
