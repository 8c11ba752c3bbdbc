// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EcdsaQuorumVerifier} from "../src/EcdsaQuorumVerifier.sol";
import {ValidatorSets} from "../src/ValidatorSets.sol";
import {Base} from "./Base.sol";

/// @dev The verifier alone, over sets of any size: its loop is written by hand, so every way through it is walked.
contract VerifierTest is Base {
    bytes32 internal constant DIGEST = keccak256("what is signed");
    uint256 internal constant SIGNER_KEYS_FROM = 1000;

    function setUp() public override {
        verifier = new EcdsaQuorumVerifier();
    }

    function testFuzzExactlyTheSignersAreWeighed(uint8 size, uint256 signers, uint64 weightSeed) public view {
        uint256 count = uint256(size) % 24 + 1;
        signers &= (1 << count) - 1;
        (uint256[] memory sortedKeys, uint256[] memory weights, bytes memory set) = _set(count, weightSeed);
        (uint256 expected, bytes memory signatures) = (0, bytes(""));
        for (uint256 i; i < count; ++i) {
            if ((signers >> i) & 1 == 0) continue;
            expected += weights[i];
            signatures = bytes.concat(signatures, _sign(sortedKeys[i], DIGEST));
        }
        assertEq(verifier.signedWeight(set, DIGEST, _bitmap(signers), signatures), expected, "weight of the signers");
    }

    function testABitmapOfTwoWordsIsReadToItsEnd() public view {
        (uint256[] memory sortedKeys, uint256[] memory weights, bytes memory set) = _set(300, 7);
        uint256[] memory bitmap = new uint256[](2);
        bitmap[0] = 1 | (1 << 255);
        bitmap[1] = 1 | (1 << 43);
        bytes memory signatures = bytes.concat(
            _sign(sortedKeys[0], DIGEST),
            _sign(sortedKeys[255], DIGEST),
            _sign(sortedKeys[256], DIGEST),
            _sign(sortedKeys[299], DIGEST)
        );
        uint256 expected = weights[0] + weights[255] + weights[256] + weights[299];
        assertEq(verifier.signedWeight(set, DIGEST, bitmap, signatures), expected, "both words");
    }

    function testFuzzASignatureOfAnythingElseIsRefused(uint8 place, bytes32 other) public {
        vm.assume(other != DIGEST);
        (uint256[] memory sortedKeys,, bytes memory set) = _set(5, 1);
        bytes memory signatures;
        for (uint256 i; i < 5; ++i) {
            signatures = bytes.concat(signatures, _sign(sortedKeys[i], i == place % 5 ? other : DIGEST));
        }
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        verifier.signedWeight(set, DIGEST, _bitmap(31), signatures);
    }

    function testFuzzAChangedByteIsRefused(uint16 place, uint8 change) public {
        vm.assume(change != 0);
        (uint256[] memory sortedKeys,, bytes memory set) = _set(3, 1);
        bytes memory signatures =
            bytes.concat(_sign(sortedKeys[0], DIGEST), _sign(sortedKeys[1], DIGEST), _sign(sortedKeys[2], DIGEST));
        uint256 index = place % signatures.length;
        signatures[index] = bytes1(uint8(signatures[index]) ^ change);
        vm.expectRevert();
        verifier.signedWeight(set, DIGEST, _bitmap(7), signatures);
    }

    function testWhatIsNoSignatureIsNobodys() public {
        (,, bytes memory set) = _set(1, 1);
        bytes memory nothing = new bytes(65);
        vm.expectRevert(abi.encodeWithSelector(EcdsaQuorumVerifier.WrongSigner.selector, 0, address(0), _first(set)));
        verifier.signedWeight(set, DIGEST, _bitmap(1), nothing);
    }

    function testAHighSIsNobodys() public {
        (uint256[] memory sortedKeys,, bytes memory set) = _set(2, 1);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(sortedKeys[1], DIGEST);
        bytes32 high = bytes32(CURVE_ORDER - uint256(s));
        bytes memory twin = abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27));
        bytes memory signatures = bytes.concat(_sign(sortedKeys[0], DIGEST), twin);
        vm.expectRevert(
            abi.encodeWithSelector(EcdsaQuorumVerifier.WrongSigner.selector, 1, address(0), vm.addr(sortedKeys[1]))
        );
        verifier.signedWeight(set, DIGEST, _bitmap(3), signatures);
    }

    function testAMissingAndASuperfluousSignatureAreRefused() public {
        (uint256[] memory sortedKeys,, bytes memory set) = _set(2, 1);
        bytes memory one = _sign(sortedKeys[0], DIGEST);
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector); // reads as zeros
        verifier.signedWeight(set, DIGEST, _bitmap(3), one);
        // Nor does it help to put it behind the argument's end, where a caller's own encoding may have it.
        bytes memory call = abi.encodeCall(
            verifier.signedWeight, (set, DIGEST, _bitmap(3), bytes.concat(one, _sign(sortedKeys[1], DIGEST)))
        );
        call[call.length - 161] = bytes1(uint8(65)); // the length of the signatures: 65 in place of 130
        (bool done, bytes memory answer) = address(verifier).staticcall(call);
        assertTrue(!done, "refused");
        assertTrue(bytes4(answer) == EcdsaQuorumVerifier.SignaturesLength.selector, "as too many for their length");
        vm.expectRevert(abi.encodeWithSelector(EcdsaQuorumVerifier.SignaturesLength.selector, 65, 0));
        verifier.signedWeight(set, DIGEST, _bitmap(0), one);
    }

    function testNobodySignsForAnEmptySet() public view {
        assertEq(verifier.signedWeight("", DIGEST, new uint256[](0), ""), 0, "nothing");
    }

    /// @dev Keys ascending by account, weights, and the set in its stored form.
    function _set(uint256 count, uint64 seed)
        private
        pure
        returns (uint256[] memory sortedKeys, uint256[] memory weights, bytes memory cumulative)
    {
        sortedKeys = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            uint256 key = SIGNER_KEYS_FROM + i;
            uint256 j = i;
            while (j > 0 && vm.addr(sortedKeys[j - 1]) > vm.addr(key)) {
                sortedKeys[j] = sortedKeys[j - 1];
                --j;
            }
            sortedKeys[j] = key;
        }
        weights = new uint256[](count);
        bytes memory packed;
        for (uint256 i; i < count; ++i) {
            weights[i] = uint256(keccak256(abi.encode(seed, i))) % 2 ** 48 + 1;
            packed = bytes.concat(packed, abi.encodePacked(vm.addr(sortedKeys[i]), uint64(weights[i])));
        }
        (cumulative,) = ValidatorSets.accumulate(packed);
    }

    function _first(bytes memory set) private pure returns (address account) {
        (account,) = ValidatorSets.entryAt(set, 0);
    }
}
