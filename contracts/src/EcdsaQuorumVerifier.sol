// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {ValidatorSets} from "./ValidatorSets.sol";
import {IQuorumVerifier} from "./interfaces/IQuorumVerifier.sol";

/// @title Quorums by one 65-byte ECDSA signature per signer; OpenZeppelin's recovery refuses malleable ones.
contract EcdsaQuorumVerifier is IQuorumVerifier {
    using ValidatorSets for bytes;

    uint256 public constant SIGNATURE_BYTES = 65;

    error BitmapLength(uint256 words, uint256 expected);
    error SignaturesLength(uint256 length, uint256 expected);
    error WrongSigner(uint256 index, address recovered);

    /// @inheritdoc IQuorumVerifier
    function signedWeight(
        bytes calldata cumulative,
        bytes32 digest,
        uint256[] calldata signerBitmap,
        bytes calldata signatures
    ) external pure returns (uint256 weight) {
        bytes memory set = cumulative;
        uint256 members = set.count();
        if (signerBitmap.length != (members + 255) / 256) {
            revert BitmapLength(signerBitmap.length, (members + 255) / 256);
        }
        uint256 position;
        for (uint256 index; index < members; ++index) {
            if ((signerBitmap[index >> 8] >> (index & 255)) & 1 == 0) continue;
            (address account, uint256 share) = set.at(index);
            uint256 end = position + SIGNATURE_BYTES;
            if (end > signatures.length) revert SignaturesLength(signatures.length, end);
            address recovered = ECDSA.recoverCalldata(digest, signatures[position:end]);
            if (recovered != account) revert WrongSigner(index, recovered);
            position = end;
            weight += share;
        }
        if (position != signatures.length) revert SignaturesLength(signatures.length, position);
    }
}
