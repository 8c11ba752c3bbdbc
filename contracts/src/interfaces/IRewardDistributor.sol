// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What the EpochManager asks of the RewardDistributor.
interface IRewardDistributor {
    /// @notice The most an epoch may pay before the first halving, in units of 10^-18.
    function initialSubsidy() external view returns (uint256);

    /// @notice Epochs between two halvings.
    function halvingEpochs() external view returns (uint32);

    /// @notice Take over the rewards of an accepted result; only the EpochManager may.
    function postEpoch(uint64 epoch, bytes32 newRoot, uint256 rewardTotal) external;
}
