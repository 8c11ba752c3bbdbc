// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title How the signatures of a weighted set are checked.
/// @notice ECDSA is cheapest below a few hundred members because the set changes every epoch; a BLS verifier can take
/// its place behind this interface when groups grow.
interface IQuorumVerifier {
    /// @notice Check the signatures and weigh the signers. Reverts on any signature that is not valid.
    /// @param cumulative The set in its stored form (see ValidatorSets).
    /// @param digest What was signed.
    /// @param signerBitmap Bit i % 256 of word i / 256 is set if member i signed; no bit beyond the members is set.
    /// @param signatures The signatures, in the order of the members.
    /// @return weight The sum of the signers' weights, each counted once.
    function signedWeight(
        bytes calldata cumulative,
        bytes32 digest,
        uint256[] calldata signerBitmap,
        bytes calldata signatures
    ) external view returns (uint256 weight);
}
