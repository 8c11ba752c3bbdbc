// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What other contracts ask of the ModelRegistry.
interface IModelRegistry {
    /// @notice Whether `modelId` is registered and active.
    function isActive(string calldata modelId) external view returns (bool);

    /// @notice The current CID, version and price weight of an active model; reverts if there is none.
    function resolve(string calldata modelId)
        external
        view
        returns (string memory cid, uint32 version, uint64 unitsOfComputePerToken);

    /// @notice Who proposed a model (and is paid for access to it), and whether access to it is gated; reverts if the
    /// model is unknown.
    function accessOf(string calldata modelId) external view returns (address proposer, bool gated);
}
