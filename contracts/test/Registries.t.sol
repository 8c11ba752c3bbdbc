// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ModelRegistry} from "../src/ModelRegistry.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {Base} from "./Base.sol";

contract RegistriesTest is Base {
    function testAModelIsRegisteredUpdatedAndDeactivated() public {
        _registerModel();
        assertTrue(models.isActive("tiny"), "active");
        models.updateModel("tiny", "bafyother");
        (string memory cid, uint32 version, uint64 units) = models.resolve("tiny");
        assertEq(keccak256(bytes(cid)), keccak256("bafyother"), "cid");
        assertEq(version, 2, "version");
        assertEq(units, 2, "units");
        assertEq(keccak256(bytes(models.cidAt("tiny", 1))), keccak256("bafycid"), "history");
        models.deactivateModel("tiny");
        assertTrue(!models.isActive("tiny"), "not active");
        vm.expectPartialRevert(ModelRegistry.ModelNotActive.selector);
        models.resolve("tiny");
    }

    function testOnlyTheOwnerRegistersAndIdsAreUniqueAndPlain() public {
        ModelRegistry.ModelSpec memory spec = ModelRegistry.ModelSpec("", "", new string[](0), 0, 1, 1, 512, 1);
        vm.prank(user);
        vm.expectRevert();
        models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", spec);
        _registerModel();
        vm.expectPartialRevert(ModelRegistry.ModelExists.selector);
        models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", spec);
        vm.expectPartialRevert(ModelRegistry.InvalidModelId.selector);
        models.registerModelWithSpec("Not Plain", "bafycid", "Tiny", "", spec);
        vm.expectPartialRevert(ModelRegistry.InvalidModelId.selector);
        models.registerModelWithSpec("", "bafycid", "Tiny", "", spec);
        vm.expectPartialRevert(ModelRegistry.ModelUnknown.selector);
        models.updateModel("absent", "bafycid");
    }

    function testAPeerBelongsToOneAccount() public {
        vm.prank(members[0]);
        participants.register("peer", "");
        vm.prank(members[1]);
        vm.expectPartialRevert(ParticipantRegistry.PeerIdTaken.selector);
        participants.register("peer", "");
        vm.prank(members[0]);
        participants.register("another", "");
        vm.prank(members[1]);
        participants.register("peer", ""); // given up by its former account
        assertEq(participants.participantOf(keccak256("peer")), members[1], "holder");
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.PeerIdLength.selector);
        participants.register("", "");
    }

    function testNodesServeActiveModelsOnly() public {
        _registerModel();
        _registerNode(members[0]);
        assertTrue(participants.servesModel(members[0], "node-1", "tiny"), "serves");
        ParticipantRegistry.MLNode[] memory added = new ParticipantRegistry.MLNode[](1);
        string[] memory served = new string[](1);
        served[0] = "absent";
        added[0] = ParticipantRegistry.MLNode("node-2", served, "cpu");
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.InvalidModels.selector);
        participants.submitHardwareDiff(added, new string[](0));
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.NotRegistered.selector);
        participants.submitHardwareDiff(added, new string[](0));
        string[] memory removed = new string[](1);
        removed[0] = "node-1";
        vm.prank(members[0]);
        participants.submitHardwareDiff(new ParticipantRegistry.MLNode[](0), removed);
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "removed");
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.NodeUnknown.selector);
        participants.submitHardwareDiff(new ParticipantRegistry.MLNode[](0), removed);
    }

    function testCollateralComesBackAfterItsUnbondingAndNotBefore() public {
        _registerModel();
        _registerNode(members[0]);
        token.transfer(members[0], 10 * TOKEN);
        vm.prank(members[0]);
        token.approve(address(participants), type(uint256).max);
        vm.prank(members[0]);
        participants.depositCollateral(10 * TOKEN);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.InsufficientCollateral.selector);
        participants.requestWithdrawCollateral(11 * TOKEN);
        vm.prank(members[0]);
        participants.requestWithdrawCollateral(4 * TOKEN);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.StillUnbonding.selector);
        participants.withdrawCollateral();
        vm.warp(block.timestamp + 3600);
        vm.prank(members[0]);
        participants.withdrawCollateral();
        assertEq(token.balanceOf(members[0]), 4 * TOKEN, "back");
        assertEq(participants.collateralOf(members[0]).deposited, 6 * TOKEN, "stays");
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.NothingToWithdraw.selector);
        participants.withdrawCollateral();
    }
}
