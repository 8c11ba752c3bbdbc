// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What other contracts ask of the ParticipantRegistry.
interface IParticipantRegistry {
    /// @notice Whether `participant` has registered node `nodeId` for `modelId`.
    function servesModel(address participant, string calldata nodeId, string calldata modelId)
        external
        view
        returns (bool);

    /// @notice Take a share of a participant's collateral, what is unbonding included, and keep it from mining for a
    /// while; only the Slashing contract may.
    /// @param perMille Thousandths of the collateral to burn, at most 1000.
    /// @param barredUntil First epoch whose proofs count again; an earlier one does not shorten.
    /// @return amount What was burned, in units of 10^-18.
    function slash(address participant, uint256 perMille, uint64 barredUntil) external returns (uint256 amount);
}
