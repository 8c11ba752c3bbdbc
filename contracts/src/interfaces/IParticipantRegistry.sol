// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What other contracts ask of the ParticipantRegistry.
interface IParticipantRegistry {
    /// @notice Whether `participant` has registered node `nodeId` for `modelId`.
    function servesModel(address participant, string calldata nodeId, string calldata modelId)
        external
        view
        returns (bool);
}
