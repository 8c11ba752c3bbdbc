// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EcdsaQuorumVerifier} from "../src/EcdsaQuorumVerifier.sol";
import {EpochManager} from "../src/EpochManager.sol";
import {IEpochManager} from "../src/interfaces/IEpochManager.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {ValidatorSets} from "../src/ValidatorSets.sol";
import {Base} from "./Base.sol";

contract EpochsTest is Base {
    function _at(uint256 epoch, uint256 offset) private {
        vm.roll(genesisBlock + epoch * 60 + offset);
    }

    function _result(uint64 epoch, bytes memory set, uint256 totalWeight)
        private
        pure
        returns (EpochManager.EpochResult memory)
    {
        return EpochManager.EpochResult(epoch, CID, keccak256(set), totalWeight, bytes32(uint256(7)), SUBSIDY);
    }

    function _bitmap(uint256 bits) private pure returns (uint256[] memory bitmap) {
        bitmap = new uint256[](1);
        bitmap[0] = bits;
    }

    function _signatures(bytes32 digest, uint256 bits) private view returns (bytes memory signatures) {
        for (uint256 i; i < 3; ++i) {
            if (bits >> i & 1 == 1) signatures = bytes.concat(signatures, _sign(keys[i], digest));
        }
    }

    function _post(EpochManager.EpochResult memory result, bytes memory set, uint256 bits) private {
        bytes memory signatures = _signatures(epochs.hashEpochResult(result), bits);
        epochs.submitEpochResult(result, set, _bitmap(bits), signatures);
    }

    function testStagesFollowTheBlockNumber() public {
        uint256[7] memory offsets = [uint256(0), 20, 30, 34, 42, 46, 54];
        for (uint256 stage; stage < 7; ++stage) {
            _at(3, offsets[stage]);
            (uint64 epoch, IEpochManager.Stage found, uint256 first, uint256 next) = epochs.currentStage();
            assertEq(epoch, 3, "epoch");
            assertEq(uint256(found), stage, "stage");
            assertEq(first, block.number, "first block");
            assertEq(next, genesisBlock + 180 + (stage < 6 ? offsets[stage + 1] : 60), "next block");
        }
    }

    function testFuzzEveryBlockHasOneStageThatContainsIt(uint32 blocks) public view {
        uint256 number = genesisBlock + blocks;
        (uint64 epoch,, uint256 first, uint256 next) = epochs.stageAt(number);
        assertEq(epoch, uint256(blocks) / 60, "epoch");
        assertTrue(first <= number && number < next, "contains");
    }

    function testBlocksBeforeGenesisHaveNoStage() public {
        vm.expectPartialRevert(EpochManager.BeforeGenesis.selector);
        epochs.stageAt(genesisBlock - 1);
    }

    function testABatchIsCommittedOnceByARegisteredNodeInItsWindow() public {
        _registerModel();
        _registerNode(members[0]);
        _at(0, 19);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        _at(0, 20);
        vm.expectPartialRevert(EpochManager.NotServing.selector);
        vm.prank(members[1]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        vm.expectPartialRevert(EpochManager.NonceCountOutOfRange.selector);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 0, bytes32(uint256(1)), CID);
        vm.expectPartialRevert(EpochManager.CidLength.selector);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), "");
        _at(0, 33);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        assertTrue(epochs.pocCommitOf(0, members[0], "node-1") != 0, "committed");
        vm.expectPartialRevert(EpochManager.AlreadyCommitted.selector);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 6, bytes32(uint256(2)), CID);
        _at(0, 34);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
    }

    function testVotesAreCommittedOnceByMembersOnly() public {
        _at(0, 34);
        vm.prank(members[0]);
        epochs.commitVotes(0, CID);
        assertEq(epochs.voteCommitOf(0, members[0]), keccak256(CID), "vote");
        vm.expectPartialRevert(EpochManager.AlreadyCommitted.selector);
        vm.prank(members[0]);
        epochs.commitVotes(0, CID);
        vm.expectPartialRevert(EpochManager.NotAMember.selector);
        vm.prank(user);
        epochs.commitVotes(0, CID);
        _at(0, 46);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        vm.prank(members[1]);
        epochs.commitVotes(0, CID);
    }

    function testAResultOfAllMembersSetsTheNextGroupAndFundsTheEpoch() public {
        bytes memory set = _packed(10, 20, 30);
        _at(0, 46);
        _post(_result(0, set, 60), set, 7);
        assertEq(epochs.weightOf(1, members[2]), 30, "weight");
        assertEq(epochs.totalWeightOf(1), 60, "total");
        assertEq(epochs.weightOf(0, members[2]), 1, "the old group stays for its epoch");
        assertEq(keccak256(epochs.groupOf(1)), keccak256(set), "packed");
        assertEq(distributor.fundedTotal(), SUBSIDY, "funded");
        vm.expectPartialRevert(EpochManager.AlreadyPosted.selector);
        this.post(_result(0, set, 60), set, 7);
    }

    function testExactlyTwoThirdsIsNoQuorum() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        vm.expectPartialRevert(EpochManager.QuorumNotReached.selector);
        this.post(_result(0, set, 3), set, 3);
    }

    function testAGroupCarriesOnWhenNoResultReplacesIt() public {
        _at(9, 0);
        assertEq(epochs.weightOf(9, members[1]), 1, "carried on");
        bytes memory set = _packed(5, 6, 7);
        _at(9, 46);
        _post(_result(9, set, 18), set, 7);
        assertEq(epochs.weightOf(9, members[1]), 1, "not for its own epoch");
        assertEq(epochs.weightOf(10, members[1]), 6, "next");
        assertEq(epochs.weightOf(500, members[1]), 6, "later");
    }

    function testResultsOutsideFormAndLoadAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 45);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), set, 7);
        _at(1, 0);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), set, 7);
        _at(1, 46);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), set, 7);
    }

    function testASetThatIsNotTheSignedOneIsRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        vm.expectPartialRevert(EpochManager.ValidatorSetMismatch.selector);
        this.post(_result(0, set, 3), _packed(2, 1, 1), 7);
        vm.expectPartialRevert(EpochManager.TotalWeightMismatch.selector);
        this.post(_result(0, set, 4), set, 7);
    }

    function testSetsMustAscendWithoutZeroWeights() public {
        bytes memory twice = abi.encodePacked(members[0], uint64(1), members[0], uint64(1));
        bytes memory zero = abi.encodePacked(members[0], uint64(0));
        _at(0, 46);
        vm.expectPartialRevert(ValidatorSets.ValidatorSetOrder.selector);
        this.post(_result(0, twice, 2), twice, 7);
        vm.expectPartialRevert(ValidatorSets.ValidatorWeightZero.selector);
        this.post(_result(0, zero, 0), zero, 7);
        vm.expectPartialRevert(ValidatorSets.ValidatorSetLength.selector);
        this.post(_result(0, "", 0), "", 7);
    }

    function testSignaturesOfOthersAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        bytes32 digest = epochs.hashEpochResult(result);
        bytes memory wrong = bytes.concat(_sign(keys[0], digest), _sign(99, digest), _sign(keys[2], digest));
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        epochs.submitEpochResult(result, set, _bitmap(7), wrong);
        bytes memory repeated = bytes.concat(_sign(keys[0], digest), _sign(keys[0], digest), _sign(keys[0], digest));
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        epochs.submitEpochResult(result, set, _bitmap(7), repeated);
        bytes memory all = _signatures(digest, 7);
        vm.expectPartialRevert(EcdsaQuorumVerifier.SignaturesLength.selector);
        epochs.submitEpochResult(result, set, _bitmap(7), bytes.concat(all, hex"00"));
        vm.expectPartialRevert(EcdsaQuorumVerifier.BitmapBeyondMembers.selector);
        epochs.submitEpochResult(result, set, _bitmap(15), all);
        vm.expectPartialRevert(EcdsaQuorumVerifier.BitmapLength.selector);
        epochs.submitEpochResult(result, set, new uint256[](2), all);
    }

    function testAHighSSignatureIsRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        bytes32 digest = epochs.hashEpochResult(result);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[0], digest);
        bytes memory high = abi.encodePacked(r, CURVE_ORDER - uint256(s), v == 27 ? uint8(28) : uint8(27));
        bytes memory signatures = bytes.concat(high, _sign(keys[1], digest), _sign(keys[2], digest));
        vm.expectRevert();
        epochs.submitEpochResult(result, set, _bitmap(7), signatures);
    }

    function testRewardsAboveTheSubsidyAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        result.rewardTotal = SUBSIDY + 1;
        _at(0, 46);
        vm.expectPartialRevert(RewardDistributor.RewardAboveSubsidy.selector);
        this.post(result, set, 7);
    }

    function testFuzzDrawsAreMembers(bytes32 seed) public view {
        address drawn = epochs.drawMember(0, seed);
        assertTrue(drawn == members[0] || drawn == members[1] || drawn == members[2], "a member");
    }

    function testParametersOutOfOrderAreRefused() public {
        EpochManager.Parameters memory p = _parameters();
        p.formOffset = p.loadOffset;
        vm.expectPartialRevert(EpochManager.StageOffsetsNotIncreasing.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier);
        p = _parameters();
        p.pocRejectMismatches = 9;
        vm.expectPartialRevert(EpochManager.PocSampleOutOfRange.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier);
        p = _parameters();
        p.initialSubsidy = 1;
        vm.expectPartialRevert(EpochManager.SubsidyMismatch.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier);
    }

    /// @dev An external entrance, so that a revert of the posting itself is what is expected.
    function post(EpochManager.EpochResult memory result, bytes memory set, uint256 bits) external {
        _post(result, set, bits);
    }
}
