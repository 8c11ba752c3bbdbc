// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ValidatorSets} from "./ValidatorSets.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";

/// @title Quorums by one 65-byte ECDSA signature per signer.
/// @notice OpenZeppelin's recovery refuses high s. One bit and one signature per member: nobody counts twice.
contract EcdsaQuorumVerifier is IQuorumVerifier {
    using ValidatorSets for bytes;

    uint256 public constant SIGNATURE_BYTES = 65;

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
    ) external pure returns (uint256 weight) {
        bytes memory set = cumulative;
        uint256 members = set.count();
        _checkBitmap(signerBitmap, members);
        uint256 position;
        for (uint256 index; index < members; ++index) {
            if ((signerBitmap[index >> 8] >> (index & 255)) & 1 == 0) continue;
            uint256 end = position + SIGNATURE_BYTES;
            if (end > signatures.length) revert SignaturesLength(signatures.length, end);
            (address account, uint256 share) = set.entryAt(index);
            address recovered = ECDSA.recoverCalldata(digest, signatures[position:end]);
            if (recovered != account) revert WrongSigner(index, recovered, account);
            position = end;
            weight += share;
        }
        if (position != signatures.length) revert SignaturesLength(signatures.length, position);
    }

    function _checkBitmap(uint256[] calldata signerBitmap, uint256 members) private pure {
        uint256 words = (members + 255) / 256;
        if (signerBitmap.length != words) revert BitmapLength(signerBitmap.length, words);
        uint256 used = members % 256;
        if (used != 0 && signerBitmap[words - 1] >> used != 0) revert BitmapBeyondMembers(members);
    }
}
