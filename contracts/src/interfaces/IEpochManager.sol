// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What other contracts ask of the EpochManager, and the types of its rules.
interface IEpochManager {
    /// @notice The stages of an epoch in their order; the values are those of node/protocol/stages.py.
    enum Stage {
        SERVE,
        GENERATE,
        EXCHANGE,
        VALIDATE,
        VOTE_EXCHANGE,
        FORM,
        LOAD
    }

    /// @notice Where the newest block stands.
    function currentStage() external view returns (uint64 epoch, Stage stage, uint256 firstBlock, uint256 nextBlock);

    /// @notice Weight of `account` in the group in charge in `epoch`; zero if it is no member.
    function weightOf(uint64 epoch, address account) external view returns (uint256);

    /// @notice A member of the group in charge in `epoch`, drawn by weight.
    function drawMember(uint64 epoch, bytes32 seed) external view returns (address);

    /// @notice Weigh those members of the group in charge in `epoch` who signed `digest`. Reverts on any signature
    /// that is not valid.
    /// @param signerBitmap Who signed (see IQuorumVerifier).
    /// @param signatures Their signatures, in the order of the members.
    /// @return signed The sum of the signers' weights.
    /// @return total The sum of all weights.
    function weighSignatures(uint64 epoch, bytes32 digest, uint256[] calldata signerBitmap, bytes calldata signatures)
        external
        view
        returns (uint256 signed, uint256 total);

    /// @notice Price of one unit of compute, in units of 10^-18.
    function unitPrice() external view returns (uint256);
}
