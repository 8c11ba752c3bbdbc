// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EcdsaQuorumVerifier} from "../src/EcdsaQuorumVerifier.sol";
import {EpochManager} from "../src/EpochManager.sol";
import {IEpochManager} from "../src/interfaces/IEpochManager.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {ValidatorSets} from "../src/ValidatorSets.sol";
import {Base} from "./Base.sol";

contract EpochsTest is Base {
    function _result(uint64 epoch, bytes memory set, uint256 totalWeight)
        private
        pure
        returns (EpochManager.EpochResult memory)
    {
        return EpochManager.EpochResult(epoch, CID, keccak256(set), totalWeight, bytes32(uint256(7)), SUBSIDY);
    }

    function _store(bytes memory set) private {
        vm.prank(members[0]);
        epochs.storeGroup(set);
    }

    function _post(EpochManager.EpochResult memory result, uint256 bits) private {
        bytes memory signatures = _signatures(epochs.hashEpochResult(result), bits);
        epochs.submitEpochResult(result, _bitmap(bits), signatures);
    }

    function _void(uint64 epoch, bytes32 digest, uint256 bits) private {
        bytes memory signatures = _signatures(epochs.hashObjection(epoch, digest), bits);
        epochs.voidEpochResult(epoch, digest, _bitmap(bits), signatures);
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

    /// @dev Epochs of 90 blocks in place of 60, other stages, another price.
    function _longer() private pure returns (EpochManager.Schedule memory) {
        return EpochManager.Schedule(90, 40, 50, 54, 62, 66, 74, 64, 4, 2 * UNIT_PRICE);
    }

    function testAChangeHoldsFromItsEpochOnAndTouchesNoOther() public {
        _at(1, 59);
        epochs.scheduleParameters(3, _longer());
        uint256 start = genesisBlock + 3 * 60;
        for (uint256 round; round < 2; ++round) {
            (uint64 epoch,, uint256 first, uint256 next) = epochs.stageAt(start - 1);
            assertEq(epoch, 2, "the epoch before");
            assertEq(first, start - 6, "its last stage");
            assertEq(next, start, "ends where the change begins");
            (epoch,, first, next) = epochs.stageAt(start + 90 + 40);
            assertEq(epoch, 4, "epochs are longer");
            assertEq(first, start + 90 + 40, "stages are others");
            assertEq(next, start + 90 + 50, "stages are others");
            (epoch,,,) = epochs.stageAt(genesisBlock + 61);
            assertEq(epoch, 1, "the past stays");
            (uint64 fromEpoch, uint256 fromBlock, EpochManager.Schedule memory known) = epochs.parametersOf(3);
            assertEq(fromEpoch, 3, "from epoch");
            assertEq(fromBlock, start, "from block");
            assertEq(keccak256(abi.encode(known)), keccak256(abi.encode(_longer())), "parameters");
            (fromEpoch,, known) = epochs.parametersOf(2);
            assertEq(fromEpoch, 0, "before");
            assertEq(known.epochBlocks, 60, "before");
            assertEq(known.pocSampleSize, 8, "before");
            assertEq(epochs.unitPrice(), round == 0 ? UNIT_PRICE : 2 * UNIT_PRICE, "price");
            vm.roll(start);
            assertEq(epochs.unitPrice(), 2 * UNIT_PRICE, "the price changes with the epoch");
            _store(_packed(4, 5, 6)); // which moves on
        }
        assertEq(epochs.parameters().epochBlocks, 60, "what it began with");
    }

    function testWindowsAndResultsFollowAChange() public {
        _registerModel();
        _registerNode(members[0]);
        epochs.scheduleParameters(2, _longer());
        uint256 start = genesisBlock + 2 * 60;
        vm.roll(start + 39);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        vm.prank(members[0]);
        epochs.commitPoc(2, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        vm.roll(start + 53);
        vm.prank(members[0]);
        epochs.commitPoc(2, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        vm.roll(start + 65);
        vm.prank(members[0]);
        epochs.commitVotes(2, CID);
        vm.roll(start + 73);
        bytes memory set = _packed(4, 5, 6);
        _store(set);
        _post(_result(2, set, 15), 7);
        vm.roll(start + 89);
        assertEq(distributor.activeRoot(), 0, "not yet in effect");
        assertEq(epochs.weightOf(2, members[0]), 1, "nor its group");
        vm.roll(start + 90);
        assertEq(distributor.activeRoot(), bytes32(uint256(7)), "in effect with the epoch's end");
        (uint64 epoch,,,) = epochs.currentStage();
        assertEq(epoch, 3, "epoch");
    }

    function testAResultBeforeAChangeTakesEffectWithItsFirstBlock() public {
        epochs.scheduleParameters(2, _longer());
        _at(1, 46);
        bytes memory set = _packed(4, 5, 6);
        _store(set);
        _post(_result(1, set, 15), 7);
        _at(1, 59);
        assertEq(distributor.activeRoot(), 0, "not yet");
        _at(2, 0);
        assertEq(distributor.activeRoot(), bytes32(uint256(7)), "in effect");
    }

    function testAChangeHasAnEpochsNoticeAndANearOneStays() public {
        _at(1, 0);
        vm.expectPartialRevert(EpochManager.ChangeOutOfRange.selector);
        epochs.scheduleParameters(2, _longer());
        vm.expectPartialRevert(EpochManager.ChangeOutOfRange.selector);
        epochs.scheduleParameters(10_002, _longer());
        epochs.scheduleParameters(10_001, _longer());
        epochs.scheduleParameters(3, _longer());
        _at(1, 59);
        epochs.scheduleParameters(4, _longer());
        (uint64 fromEpoch,,) = epochs.parametersOf(3);
        assertEq(fromEpoch, 0, "replaced");
        _at(2, 59);
        epochs.scheduleParameters(4, _longer());
        _at(3, 0);
        vm.expectPartialRevert(EpochManager.ChangeIsNear.selector);
        epochs.scheduleParameters(5, _longer());
        _at(4, 0);
        epochs.scheduleParameters(6, _longer());
        (fromEpoch,,) = epochs.parametersOf(5);
        assertEq(fromEpoch, 4, "the change that holds");
        (fromEpoch,,) = epochs.parametersOf(6);
        assertEq(fromEpoch, 6, "and the next");
    }

    function testOnlyTheOwnerSchedulesAndOnlyWhatIsWithinBounds() public {
        vm.prank(user);
        vm.expectRevert();
        epochs.scheduleParameters(2, _longer());
        EpochManager.Schedule memory p = _longer();
        p.epochBlocks = 121;
        vm.expectPartialRevert(EpochManager.EpochLength.selector);
        epochs.scheduleParameters(2, p);
        p = EpochManager.Schedule(29, 1, 2, 3, 4, 5, 6, 64, 4, UNIT_PRICE);
        vm.expectPartialRevert(EpochManager.EpochLength.selector);
        epochs.scheduleParameters(2, p);
        p = _longer();
        p.formOffset = p.voteExchangeOffset;
        vm.expectPartialRevert(EpochManager.StageOffsetsNotIncreasing.selector);
        epochs.scheduleParameters(2, p);
        p = _longer();
        p.pocSampleSize = 1025;
        vm.expectPartialRevert(EpochManager.PocSampleOutOfRange.selector);
        epochs.scheduleParameters(2, p);
        p.pocSampleSize = 3;
        vm.expectPartialRevert(EpochManager.PocSampleOutOfRange.selector);
        epochs.scheduleParameters(2, p);
        p = _longer();
        p.unitPrice = 2 ** 96;
        vm.expectPartialRevert(EpochManager.UnitPriceOutOfRange.selector);
        epochs.scheduleParameters(2, p);
    }

    /// @dev Whatever is scheduled when: blocks belong to one epoch each, epochs follow without a gap, and what was said of
    /// the past is said of it still.
    function testFuzzEpochsFollowEachOtherWithoutAGapWhateverIsScheduled(uint256 seed) public {
        uint64 known;
        uint256 first;
        for (uint256 round; round < 6; ++round) {
            uint256 random = uint256(keccak256(abi.encode(seed, round)));
            EpochManager.Schedule memory p = _longer();
            p.epochBlocks = uint64(75 + random % 46);
            (known,, first,) = epochs.currentStage();
            try epochs.scheduleParameters(known + 2 + uint64(random >> 16 & 1), p) {} catch {}
            vm.roll(block.number + (random >> 32) % 200);
            if (random >> 64 & 1 == 1) _store(_packed(uint64(1 + round), 5, 6));
            (uint64 again,, uint256 sameFirst,) = epochs.stageAt(first);
            assertEq(again, known, "the past stays");
            assertEq(sameFirst, first, "the past stays");
        }
        (uint64 epoch,,,) = epochs.currentStage();
        uint256 at = genesisBlock;
        uint64 expected;
        while (expected <= epoch + 3) {
            (uint64 found, IEpochManager.Stage stage, uint256 begin, uint256 next) = epochs.stageAt(at);
            assertEq(found, expected, "epoch");
            assertEq(begin, at, "begins");
            if (stage == IEpochManager.Stage.LOAD) ++expected;
            at = next;
        }
    }

    /// @dev Commitments read a word of their own (CommitWindows): it must say what the segments say, whatever was scheduled
    /// when, moved on or not.
    function testFuzzCommitmentsAreTakenInTheirStagesWhateverIsScheduled(uint256 seed) public {
        _registerModel();
        _registerNode(members[0]);
        for (uint256 round; round < 12; ++round) {
            uint256 random = uint256(keccak256(abi.encode(seed, round)));
            (uint64 epoch,,,) = epochs.currentStage();
            EpochManager.Schedule memory p = _longer();
            p.epochBlocks = uint64(75 + random % 46);
            p.generateOffset = uint64(10 + (random >> 8) % 35);
            if (random >> 16 & 3 == 0) {
                try epochs.scheduleParameters(epoch + 2 + uint64(random >> 24 & 1), p) {} catch {}
            }
            if (random >> 32 & 7 == 0) _store(_packed(uint64(1 + round), 5, 6));
            vm.roll(block.number + (random >> 40) % 60);
            IEpochManager.Stage stage;
            (epoch, stage,,) = epochs.currentStage();
            _tryProof(epoch, stage == IEpochManager.Stage.GENERATE || stage == IEpochManager.Stage.EXCHANGE);
            _tryProof(epoch + 1, false);
            if (epoch > 0) _tryProof(epoch - 1, false);
            _tryVotes(epoch, stage == IEpochManager.Stage.VALIDATE || stage == IEpochManager.Stage.VOTE_EXCHANGE);
            _tryVotes(epoch + 1, false);
        }
    }

    /// @dev A commitment that is there already shows as well that the window is open.
    function _tryProof(uint64 epoch, bool isOpen) private {
        vm.prank(members[0]);
        try epochs.commitPoc(epoch, "node-1", "tiny", 5, bytes32(uint256(1)), CID) {
            assertTrue(isOpen, "a proof outside its window");
        } catch (bytes memory reason) {
            assertTrue((bytes4(reason) != EpochManager.WrongStage.selector) == isOpen, "a proof in its window");
        }
    }

    function _tryVotes(uint64 epoch, bool isOpen) private {
        vm.prank(members[0]);
        try epochs.commitVotes(epoch, CID) {
            assertTrue(isOpen, "votes outside their window");
        } catch (bytes memory reason) {
            assertTrue((bytes4(reason) != EpochManager.WrongStage.selector) == isOpen, "votes in their window");
        }
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
        assertTrue(epochs.voteCommitOf(0, members[0]) == bytes24(keccak256(CID)), "vote");
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

    function testACommitmentOfTheNextEpochTakesThePlaceOfTheOneBefore() public {
        _registerModel();
        _registerNode(members[0]);
        _at(0, 20);
        vm.prank(members[0]);
        epochs.commitPoc(0, "node-1", "tiny", 5, bytes32(uint256(1)), CID);
        bytes24 first = epochs.pocCommitOf(0, members[0], "node-1");
        assertTrue(first == bytes24(keccak256(abi.encode("tiny", uint64(5), bytes32(uint256(1)), CID))), "its hash");
        _at(1, 20);
        assertTrue(epochs.pocCommitOf(1, members[0], "node-1") == 0, "none yet");
        vm.prank(members[0]);
        epochs.commitPoc(1, "node-1", "tiny", 6, bytes32(uint256(2)), CID);
        assertTrue(epochs.pocCommitOf(1, members[0], "node-1") != 0, "the new one");
        assertTrue(epochs.pocCommitOf(0, members[0], "node-1") == 0, "in its place");
    }

    function testGroupsOfTheLastEpochsAreRememberedWhateverIsVoided() public {
        for (uint64 epoch; epoch < 40; ++epoch) {
            bytes memory set = _packed(epoch + 1, epoch + 1, epoch + 1);
            _at(epoch, 46);
            _store(set);
            EpochManager.EpochResult memory result = _result(epoch, set, 3 * (uint256(epoch) + 1));
            _post(result, 7);
            if (epoch % 5 == 4) _void(epoch, epochs.hashEpochResult(result), 7);
            for (uint64 back; back < 9 && back <= epoch; ++back) {
                uint64 asked = epoch - back;
                // The group in charge in `asked` is that of the newest epoch before it that was not voided.
                uint64 from = asked % 5 == 0 && asked != 0 ? asked - 1 : asked;
                assertEq(epochs.weightOf(asked, members[0]), from == 0 ? 1 : from, "weight");
            }
        }
        vm.expectPartialRevert(EpochManager.GroupForgotten.selector);
        epochs.weightOf(3, members[0]);
    }

    function testAResultOfAllMembersSetsTheNextGroupAndFundsTheEpochAtItsEnd() public {
        bytes memory set = _packed(10, 20, 30);
        _at(0, 46);
        _store(set);
        _post(_result(0, set, 60), 7);
        assertEq(epochs.weightOf(1, members[2]), 30, "weight");
        assertEq(epochs.totalWeightOf(1), 60, "total");
        assertEq(epochs.weightOf(0, members[2]), 1, "the old group stays for its epoch");
        assertEq(keccak256(epochs.groupOf(1)), keccak256(set), "packed");
        assertEq(distributor.fundedTotal(), 0, "not before the epoch's end");
        vm.expectPartialRevert(EpochManager.AlreadyPosted.selector);
        this.post(_result(0, set, 60), 7);
        _at(1, 0);
        assertEq(distributor.fundedTotal(), SUBSIDY, "funded");
    }

    function testAGroupIsStoredOnceByAMemberAndServesManyResults() public {
        bytes memory set = _packed(10, 20, 30);
        vm.expectPartialRevert(EpochManager.NotAMember.selector);
        epochs.storeGroup(set);
        _at(0, 46);
        vm.expectPartialRevert(EpochManager.GroupNotStored.selector);
        this.post(_result(0, set, 60), 7);
        _store(set);
        address pointer = epochs.storedGroup(keccak256(set));
        epochs.storeGroup(set); // by anyone: nothing happens
        assertEq(epochs.storedGroup(keccak256(set)), pointer, "stored once");
        _post(_result(0, set, 60), 7);
        _at(1, 46);
        _post(_result(1, set, 60), 7);
        assertEq(epochs.weightOf(2, members[1]), 20, "the same set again");
    }

    function testExactlyTwoThirdsIsNoQuorum() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        _store(set);
        vm.expectPartialRevert(EpochManager.QuorumNotReached.selector);
        this.post(_result(0, set, 3), 3);
    }

    function testFuzzAQuorumIsMoreThanTwoThirdsOfTheWeight(uint32 a, uint32 b, uint32 c, uint8 bits) public {
        vm.assume(a > 0 && b > 0 && c > 0);
        bits = bits & 7;
        bytes memory set = _packed(a, b, c);
        uint256 total = uint256(a) + b + c;
        _at(0, 46);
        _store(set);
        _post(_result(0, set, total), 7);
        _at(1, 46);
        uint256 signed =
            (bits & 1 == 1 ? uint256(a) : 0) + (bits & 2 == 2 ? uint256(b) : 0) + (bits & 4 == 4 ? uint256(c) : 0);
        if (3 * signed <= 2 * total) vm.expectPartialRevert(EpochManager.QuorumNotReached.selector);
        this.post(_result(1, set, total), bits);
    }

    function testAGroupCarriesOnWhenNoResultReplacesIt() public {
        _at(9, 0);
        assertEq(epochs.weightOf(9, members[1]), 1, "carried on");
        bytes memory set = _packed(5, 6, 7);
        _at(9, 46);
        _store(set);
        _post(_result(9, set, 18), 7);
        assertEq(epochs.weightOf(9, members[1]), 1, "not for its own epoch");
        assertEq(epochs.weightOf(10, members[1]), 6, "next");
        assertEq(epochs.weightOf(500, members[1]), 6, "later");
    }

    function testResultsOutsideFormAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _store(set);
        _at(0, 45);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), 7);
        _at(0, 54);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), 7);
        _at(1, 0);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), 7);
        _at(1, 46);
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.post(_result(0, set, 3), 7);
    }

    function testAThirdOfTheWeightVoidsAResultBeforeItTakesEffect() public {
        bytes memory set = _packed(10, 20, 30);
        _at(0, 46);
        _store(set);
        EpochManager.EpochResult memory result = _result(0, set, 60);
        bytes32 digest = epochs.hashEpochResult(result);
        _post(result, 7);
        _at(0, 59);
        _void(0, digest, 2);
        assertEq(epochs.resultOf(0), bytes32(0), "no result");
        assertEq(epochs.weightOf(1, members[2]), 1, "the group carries on");
        _at(1, 0);
        assertEq(distributor.fundedTotal(), 0, "nothing is paid");
        vm.expectPartialRevert(EpochManager.WrongStage.selector);
        this.void(0, digest, 2);
    }

    function testAVoidedResultIsNotPostedAgainButAnotherMayBe() public {
        bytes memory set = _packed(10, 20, 30);
        _at(0, 46);
        _store(set);
        EpochManager.EpochResult memory result = _result(0, set, 60);
        _post(result, 7);
        _void(0, epochs.hashEpochResult(result), 1);
        vm.expectPartialRevert(EpochManager.ResultVoid.selector);
        this.post(result, 7);
        result.rewardTotal = SUBSIDY / 2;
        _post(result, 7);
        _at(1, 0);
        assertEq(distributor.fundedTotal(), SUBSIDY / 2, "the second one counts");
        assertEq(epochs.weightOf(1, members[2]), 30, "and its group");
    }

    function testLessThanAThirdVoidsNothing() public {
        bytes memory set = _packed(100, 100, 99);
        _at(0, 46);
        _store(set);
        _post(_result(0, set, 299), 7);
        _at(1, 46);
        EpochManager.EpochResult memory result = _result(1, set, 299);
        bytes32 digest = epochs.hashEpochResult(result);
        vm.expectPartialRevert(EpochManager.ResultMismatch.selector);
        this.void(1, digest, 7);
        _post(result, 7);
        vm.expectPartialRevert(EpochManager.ObjectionTooWeak.selector);
        this.void(1, digest, 4);
        vm.expectPartialRevert(EpochManager.ResultMismatch.selector);
        this.void(1, bytes32(uint256(1)), 7);
        vm.expectPartialRevert(EpochManager.ResultMismatch.selector);
        this.void(1, 0, 7);
        assertEq(epochs.resultOf(1), digest, "stands");
    }

    function testAResultMustWeighWhatItsGroupWeighs() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        _store(set);
        vm.expectPartialRevert(EpochManager.TotalWeightMismatch.selector);
        this.post(_result(0, set, 4), 7);
    }

    function testSetsMustAscendWithoutZeroWeights() public {
        bytes memory twice = abi.encodePacked(members[0], uint64(1), members[0], uint64(1));
        bytes memory zero = abi.encodePacked(members[0], uint64(0));
        bytes memory heavy = abi.encodePacked(members[0], type(uint64).max, members[1], uint64(1));
        vm.expectPartialRevert(ValidatorSets.ValidatorSetOrder.selector);
        this.store(twice);
        vm.expectPartialRevert(ValidatorSets.ValidatorWeightZero.selector);
        this.store(zero);
        vm.expectPartialRevert(ValidatorSets.ValidatorSetLength.selector);
        this.store("");
        vm.expectPartialRevert(ValidatorSets.TotalWeightTooLarge.selector);
        this.store(heavy);
    }

    function testSignaturesOfOthersAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        _store(set);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        bytes32 digest = epochs.hashEpochResult(result);
        bytes memory wrong = bytes.concat(_sign(keys[0], digest), _sign(99, digest), _sign(keys[2], digest));
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        epochs.submitEpochResult(result, _bitmap(7), wrong);
        bytes memory repeated = bytes.concat(_sign(keys[0], digest), _sign(keys[0], digest), _sign(keys[0], digest));
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        epochs.submitEpochResult(result, _bitmap(7), repeated);
        bytes memory all = _signatures(digest, 7);
        vm.expectPartialRevert(EcdsaQuorumVerifier.SignaturesLength.selector);
        epochs.submitEpochResult(result, _bitmap(7), bytes.concat(all, hex"00"));
        bytes memory two = _signatures(digest, 3); // the third reads as zeros
        vm.expectPartialRevert(EcdsaQuorumVerifier.WrongSigner.selector);
        epochs.submitEpochResult(result, _bitmap(7), two);
        vm.expectPartialRevert(EcdsaQuorumVerifier.BitmapBeyondMembers.selector);
        epochs.submitEpochResult(result, _bitmap(15), all);
        vm.expectPartialRevert(EcdsaQuorumVerifier.BitmapLength.selector);
        epochs.submitEpochResult(result, new uint256[](2), all);
    }

    function testAHighSSignatureIsRefused() public {
        bytes memory set = _packed(1, 1, 1);
        _at(0, 46);
        _store(set);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        bytes32 digest = epochs.hashEpochResult(result);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(keys[0], digest);
        bytes memory high = abi.encodePacked(r, CURVE_ORDER - uint256(s), v == 27 ? uint8(28) : uint8(27));
        bytes memory signatures = bytes.concat(high, _sign(keys[1], digest), _sign(keys[2], digest));
        vm.expectRevert();
        epochs.submitEpochResult(result, _bitmap(7), signatures);
    }

    function testRewardsAboveTheSubsidyAreRefused() public {
        bytes memory set = _packed(1, 1, 1);
        EpochManager.EpochResult memory result = _result(0, set, 3);
        result.rewardTotal = SUBSIDY + 1;
        _at(0, 46);
        _store(set);
        vm.expectPartialRevert(RewardDistributor.RewardAboveFunds.selector);
        this.post(result, 7);
    }

    function testFuzzDrawsAreMembers(bytes32 seed) public view {
        address drawn = epochs.drawMember(0, seed);
        assertTrue(drawn == members[0] || drawn == members[1] || drawn == members[2], "a member");
    }

    function testParametersOutOfOrderAreRefused() public {
        EpochManager.Parameters memory p = _parameters();
        p.formOffset = p.loadOffset;
        vm.expectPartialRevert(EpochManager.StageOffsetsNotIncreasing.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier, address(this));
        p = _parameters();
        p.pocRejectMismatches = 9;
        vm.expectPartialRevert(EpochManager.PocSampleOutOfRange.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier, address(this));
        p = _parameters();
        p.initialSubsidy = 1;
        vm.expectPartialRevert(EpochManager.SubsidyMismatch.selector);
        new EpochManager(p, _packed(1, 1, 1), participants, distributor, verifier, address(this));
    }

    /// @dev External entrances, so that a revert of the call itself is what is expected.
    function post(EpochManager.EpochResult memory result, uint256 bits) external {
        _post(result, bits);
    }

    function void(uint64 epoch, bytes32 digest, uint256 bits) external {
        _void(epoch, digest, bits);
    }

    function store(bytes memory set) external {
        _store(set);
    }
}
