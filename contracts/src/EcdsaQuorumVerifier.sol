// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ValidatorSets} from "./ValidatorSets.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";

/// @title Quorums by one 65-byte ECDSA signature (r, s, v) per signer.
/// @notice A high s is refused. One bit and one signature per member: nobody counts twice.
contract EcdsaQuorumVerifier is IQuorumVerifier {
    using ValidatorSets for bytes;

    uint256 public constant SIGNATURE_BYTES = 65;
    /// @dev Half of the curve's order: of s and its negative only the lower one counts (EIP-2).
    uint256 private constant S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    error BitmapLength(uint256 words, uint256 expected);
    error BitmapBeyondMembers(uint256 members);
    error SignaturesLength(uint256 length, uint256 expected);
    error WrongSigner(uint256 memberIndex, address recovered, address expected);

    /// @inheritdoc IQuorumVerifier
    function signedWeight(
        bytes calldata cumulative,
        bytes32 digest,
        uint256[] calldata signerBitmap,
        bytes calldata signatures
    ) external view returns (uint256 weight) {
        bytes memory set = cumulative;
        _checkBitmap(signerBitmap, set.count());
        uint256[4] memory input; // what ecrecover reads: digest, v, r, s
        input[0] = uint256(digest);
        uint256 signature;
        uint256 begin;
        assembly ("memory-safe") {
            begin := signatures.offset
            signature := begin
        }
        for (uint256 word; word < signerBitmap.length; ++word) {
            (uint256 signed, uint256 next) = _weighWord(set, word << 8, signerBitmap[word], input, signature);
            if (next == 0) {
                (address expected,) = set.entryAt(signed);
                revert WrongSigner(signed, address(uint160(input[1])), expected);
            }
            weight += signed;
            signature = next;
        }
        if (signature - begin != signatures.length) revert SignaturesLength(signatures.length, signature - begin);
    }

    /// @dev Weigh the signers among the 256 members from `first` on, whose signatures begin at `signature` in calldata.
    /// In assembly, because a quorum pays for each member: one pass over the stored set (20 bytes of account, 8 of
    /// running sum). A missing signature reads as zeros or as what follows, and so is nobody's or one too many in all.
    /// @return weight The signers' weight; if a signature is wrong, its member's index.
    /// @return next Where the next signature begins; zero if one is wrong, whose recovered account is then in input[1].
    function _weighWord(bytes memory set, uint256 first, uint256 bits, uint256[4] memory input, uint256 signature)
        private
        view
        returns (uint256 weight, uint256 next)
    {
        assembly ("memory-safe") {
            let entry := add(add(set, 32), mul(first, 28))
            let before := 0 // the running sum up to the member before
            if first { before := and(mload(sub(entry, 32)), 0xffffffffffffffff) }
            next := signature
            for {} bits { bits := shr(1, bits) } {
                let member := mload(entry)
                let sum := and(shr(32, member), 0xffffffffffffffff)
                if and(bits, 1) {
                    mstore(add(input, 32), byte(0, calldataload(add(next, 64)))) // v
                    calldatacopy(add(input, 64), next, 64) // r, s
                    // ecrecover returns nothing for what is no signature: then the scratch word stays zero.
                    mstore(0, 0)
                    if iszero(gt(mload(add(input, 96)), S_MAX)) {
                        pop(staticcall(gas(), 1, input, 128, 0, 32))
                    }
                    if iszero(eq(mload(0), shr(96, member))) {
                        mstore(add(input, 32), mload(0))
                        weight := div(sub(entry, add(set, 32)), 28)
                        next := 0
                        break
                    }
                    weight := add(weight, sub(sum, before))
                    next := add(next, 65)
                }
                before := sum
                entry := add(entry, 28)
            }
        }
    }

    function _checkBitmap(uint256[] calldata signerBitmap, uint256 members) private pure {
        uint256 words = (members + 255) / 256;
        if (signerBitmap.length != words) revert BitmapLength(signerBitmap.length, words);
        uint256 used = members % 256;
        if (used != 0 && signerBitmap[words - 1] >> used != 0) revert BitmapBeyondMembers(members);
    }
}
