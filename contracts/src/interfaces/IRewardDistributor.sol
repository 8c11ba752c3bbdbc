// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the EpochManager asks of the RewardDistributor.
interface IRewardDistributor {
    /// @notice The most reward coins an epoch may mint before the first halving, in units of 10^-18.
    function initialSubsidy() external view returns (uint256);

    /// @notice Epochs between two halvings.
    function halvingEpochs() external view returns (uint32);

    /// @notice Take over the rewards of an accepted result, claimable from block `activeFrom` on. Only the EpochManager
    /// may.
    function postEpoch(uint64 epoch, bytes32 newRoot, uint256 rewardTotal, uint64 activeFrom) external;

    /// @notice Drop the rewards of a result that was challenged before they became active. Only the EpochManager may.
    function voidEpoch(uint64 epoch) external;
}
