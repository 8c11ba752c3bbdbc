// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ModelRegistry} from "../src/ModelRegistry.sol";
import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {Base} from "./Base.sol";

contract ModelRegistryTest is Base {
    function testAModelIsRegisteredUpdatedAndDeactivated() public {
        _registerModel();
        assertTrue(models.isActive("tiny"), "active");
        models.updateModel("tiny", "bafyother");
        (string memory cid, uint32 version, uint64 units) = models.resolve("tiny");
        assertEq(cid, "bafyother", "cid");
        assertEq(version, 2, "version");
        assertEq(units, 2, "units");
        assertEq(models.cidAt("tiny", 1), "bafycid", "history");
        vm.expectPartialRevert(ModelRegistry.VersionUnknown.selector);
        models.cidAt("tiny", 3);
        vm.expectPartialRevert(ModelRegistry.VersionUnknown.selector);
        models.cidAt("tiny", 0);
        models.deactivateModel("tiny");
        assertTrue(!models.isActive("tiny"), "not active");
        assertEq(models.getActiveModels().length, 0, "none is active");
        vm.expectPartialRevert(ModelRegistry.ModelNotActive.selector);
        models.resolve("tiny");
        vm.expectPartialRevert(ModelRegistry.ModelNotActive.selector);
        models.deactivateModel("tiny");
        models.updateModel("tiny", "bafythird");
        assertTrue(models.isActive("tiny"), "an update brings it back");
    }

    function testAPlainRegistrationHasUsableDefaultsAndASpecRefinesThem() public {
        models.registerModel("plain", "bafycid", "Plain", "About it");
        ModelRegistry.ModelInfo memory info = models.getModel("plain");
        assertEq(info.description, "About it", "description");
        assertEq(info.spec.unitsOfComputePerToken, 1, "units");
        assertEq(info.spec.proposer, address(this), "proposer");
        ModelRegistry.ModelSpec memory spec = _spec();
        spec.quantization = "fp8";
        spec.kvCacheQuantization = "fp8_e5m2";
        spec.gated = true;
        models.setModelSpec("plain", spec);
        info = models.getModel("plain");
        assertEq(info.spec.quantization, "fp8", "quantization");
        assertEq(info.spec.proposer, address(this), "the proposer stays");
        spec.proposer = user;
        models.setModelSpec("plain", spec);
        (address proposer, bool gated) = models.accessOf("plain");
        assertEq(proposer, user, "unless another is named");
        assertTrue(gated, "gated");
        string[] memory active = models.getActiveModels();
        assertEq(active.length, 1, "listed");
        assertEq(active[0], "plain", "listed");
    }

    function testOnlyTheOwnerRegistersAndIdsAreUniqueAndPlain() public {
        vm.prank(user);
        vm.expectRevert();
        models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", _spec());
        _registerModel();
        vm.expectPartialRevert(ModelRegistry.ModelExists.selector);
        models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", _spec());
        vm.expectPartialRevert(ModelRegistry.InvalidModelId.selector);
        models.registerModelWithSpec("Not Plain", "bafycid", "Tiny", "", _spec());
        vm.expectPartialRevert(ModelRegistry.InvalidModelId.selector);
        models.registerModelWithSpec("", "bafycid", "Tiny", "", _spec());
        vm.expectPartialRevert(ModelRegistry.ModelUnknown.selector);
        models.updateModel("absent", "bafycid");
        vm.expectPartialRevert(ModelRegistry.TextLength.selector);
        models.updateModel("tiny", "");
    }

    function testASpecOutOfRangeIsRefusedByName() public {
        string[10] memory fields = [
            "contextLength",
            "throughputPerNonce",
            "unitsOfComputePerToken",
            "hfRepo",
            "hfCommit",
            "quantization",
            "kvCacheQuantization",
            "modelArgs",
            "modelArgs",
            ""
        ];
        for (uint256 i; i < 9; ++i) {
            ModelRegistry.ModelSpec memory spec = _spec();
            string memory long = string(new bytes(513));
            if (i == 0) spec.contextLength = 0;
            if (i == 1) spec.throughputPerNonce = 0;
            if (i == 2) spec.unitsOfComputePerToken = 0;
            if (i == 3) spec.hfRepo = long;
            if (i == 4) spec.hfCommit = long;
            if (i == 5) spec.quantization = long;
            if (i == 6) spec.kvCacheQuantization = long;
            if (i == 7) spec.modelArgs = new string[](65);
            if (i == 8) spec.modelArgs = _list(long);
            vm.expectRevert(abi.encodeWithSelector(ModelRegistry.SpecOutOfRange.selector, fields[i]));
            models.registerModelWithSpec("tiny", "bafycid", "Tiny", "", spec);
        }
    }

    function testTheRegistryIsBounded() public {
        for (uint256 i; i < models.MODELS_MAX(); ++i) {
            bytes memory id = abi.encodePacked("m", bytes1(uint8(97 + i / 16)), bytes1(uint8(97 + i % 16)));
            models.registerModel(string(id), "bafycid", "M", "");
        }
        vm.expectPartialRevert(ModelRegistry.TooManyModels.selector);
        models.registerModel("one-more", "bafycid", "M", "");
        assertEq(models.modelCount(), 256, "count");
    }

    function _import(uint256 versions) private pure returns (ModelRegistry.ModelImport memory model) {
        string[] memory cids = new string[](versions);
        for (uint256 i; i < versions; ++i) {
            cids[i] = string(abi.encodePacked("bafy", bytes1(uint8(97 + i))));
        }
        model = ModelRegistry.ModelImport("old", "Old", "", false, _spec(), cids, "");
    }

    function testAModelIsExportedAndImportedWithItsPast() public {
        models.importModel(_import(3));
        ModelRegistry.ModelImport memory exported = models.exportModel(0);
        assertEq(keccak256(abi.encode(exported.cids)), keccak256(abi.encode(_import(3).cids)), "the past came along");
        assertEq(models.getModel("old").version, 3, "version");
        assertEq(models.getModel("old").cid, "bafyc", "current");
        assertEq(models.cidAt("old", 1), "bafya", "first");
        assertTrue(!models.isActive("old"), "as it was");
        ModelRegistry next = new ModelRegistry(user);
        next.importModel(exported);
        assertEq(keccak256(abi.encode(next.exportModel(0))), keccak256(abi.encode(exported)), "the same");
    }

    function testACalibrationBelongsToItsVersion() public {
        _registerModel();
        assertEq(models.calibrationHashOf("tiny", 1), 0, "none");
        models.setCalibration("tiny", 1, "one");
        assertEq(models.calibrationHashOf("tiny", 1), keccak256("one"), "set");
        models.setCalibration("tiny", 1, "two");
        assertEq(models.calibrationHashOf("tiny", 1), keccak256("two"), "replaced");
        models.updateModel("tiny", "bafyother");
        assertEq(models.calibrationHashOf("tiny", 2), 0, "a new version has none");
        vm.expectPartialRevert(ModelRegistry.NotTheVersion.selector);
        models.setCalibration("tiny", 1, "too late");
        vm.expectPartialRevert(ModelRegistry.NotTheVersion.selector);
        models.setCalibration("tiny", 3, "too early");
        models.setCalibration("tiny", 2, "three");
        models.setCalibration("tiny", 2, "");
        assertEq(models.calibrationHashOf("tiny", 2), 0, "taken back");
        assertEq(models.calibrationHashOf("tiny", 1), keccak256("two"), "the past stays");
    }

    function testOnlyTheOwnerCalibratesAndOnlyModelsThereAre() public {
        _registerModel();
        vm.prank(user);
        vm.expectRevert();
        models.setCalibration("tiny", 1, "mine");
        vm.expectPartialRevert(ModelRegistry.ModelUnknown.selector);
        models.setCalibration("other", 1, "none");
    }

    function testFuzzACalibrationIsBounded(bytes calldata given, uint16 length) public {
        _registerModel();
        uint256 most = models.CALIBRATION_BYTES_MAX();
        bytes memory padded = new bytes(length);
        if (length > most) vm.expectPartialRevert(ModelRegistry.CalibrationTooLong.selector);
        models.setCalibration("tiny", 1, padded);
        if (given.length == 0 || given.length > most) return;
        models.setCalibration("tiny", 1, given);
        assertEq(models.calibrationHashOf("tiny", 1), keccak256(given), "hash");
    }

    function testAnImportedModelMayBeCalibrated() public {
        ModelRegistry.ModelImport memory model = _import(3);
        model.calibration = "measured";
        models.importModel(model);
        assertEq(models.calibrationHashOf("old", 3), keccak256("measured"), "of the last version");
        assertEq(models.calibrationHashOf("old", 1), 0, "of no other");
    }

    function testOnlyTheImporterImportsAndOnlyUntilItIsFinished() public {
        ModelRegistry registry = new ModelRegistry(user);
        vm.prank(user);
        vm.expectPartialRevert(ModelRegistry.NotTheImporter.selector);
        registry.importModel(_import(1));
        vm.expectPartialRevert(ModelRegistry.NoVersions.selector);
        registry.importModel(_import(0));
        vm.prank(user);
        vm.expectPartialRevert(ModelRegistry.NotTheImporter.selector);
        registry.finishImport();
        registry.finishImport();
        vm.expectPartialRevert(ModelRegistry.NotTheImporter.selector);
        registry.importModel(_import(1));
        vm.expectRevert(); // and the deployer is not the owner
        registry.registerModel("tiny", "bafycid", "Tiny", "");
        vm.prank(user);
        registry.registerModel("tiny", "bafycid", "Tiny", "");
    }
}

contract ParticipantRegistryTest is Base {
    function _deposit(address participant, uint256 amount) private {
        token.transfer(participant, amount);
        vm.prank(participant);
        token.approve(address(participants), type(uint256).max);
        vm.prank(participant);
        participants.depositCollateral(amount);
    }

    function testAnAccountBindsAPeerAndAHotKey() public {
        vm.prank(members[0]);
        participants.register("peer", "signature");
        assertEq(keccak256(participants.peerIdOf(members[0])), keccak256("peer"), "peer");
        vm.prank(members[0]);
        participants.setHotKey(user);
        assertEq(participants.hotKeyOf(members[0]), user, "hot key");
        vm.prank(members[0]);
        participants.register("another", "");
        assertEq(keccak256(participants.peerIdOf(members[0])), keccak256("another"), "rebound");
        vm.prank(members[1]);
        participants.register("another", ""); // the EVM cannot tell whose it is: daemons check the signature
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.PeerIdLength.selector);
        participants.register("", "");
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.PeerIdLength.selector);
        participants.register(new bytes(65), "");
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.PeerSignatureLength.selector);
        participants.register("peer", new bytes(129));
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.NotRegistered.selector);
        participants.setHotKey(user);
    }

    function testNodesServeActiveModelsOnly() public {
        _registerModel();
        _registerNode(members[0]);
        assertTrue(participants.servesModel(members[0], "node-1", "tiny"), "serves");
        assertTrue(!participants.servesModel(members[0], "node-1", "absent"), "only what it registered");
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.NotRegistered.selector);
        participants.submitHardwareDiff(_node("node-2", "tiny"), new string[](0));
        string[] memory removed = _list("node-1");
        vm.prank(members[0]);
        participants.submitHardwareDiff(new ParticipantRegistry.MLNode[](0), removed);
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "removed");
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.NodeUnknown.selector);
        participants.submitHardwareDiff(new ParticipantRegistry.MLNode[](0), removed);
    }

    function testEveryOffendingModelIsNamed() public {
        _registerModel();
        _registerNode(members[0]);
        ParticipantRegistry.MLNode[] memory added = new ParticipantRegistry.MLNode[](2);
        string[] memory served = new string[](3);
        (served[0], served[1], served[2]) = ("tiny", "absent", "gone");
        added[0] = ParticipantRegistry.MLNode("node-2", served, "cpu");
        added[1] = ParticipantRegistry.MLNode("node-3", _list("never"), "cpu");
        string[] memory offending = new string[](3);
        (offending[0], offending[1], offending[2]) = ("absent", "gone", "never");
        vm.prank(members[0]);
        vm.expectRevert(abi.encodeWithSelector(ParticipantRegistry.InvalidModels.selector, offending));
        participants.submitHardwareDiff(added, new string[](0));
    }

    function testSettingANodeAnewForgetsItsModels() public {
        _registerModel();
        models.registerModel("other", "bafycid", "Other", "");
        _registerNode(members[0]);
        vm.prank(members[0]);
        participants.submitHardwareDiff(_node("node-1", "other"), new string[](0));
        assertTrue(participants.servesModel(members[0], "node-1", "other"), "the new one");
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "not the old one");
        assertEq(participants.nodeCount(members[0]), 1, "one node");
        vm.prank(members[0]);
        participants.submitHardwareDiff(_node("node-1", "other"), _list("node-1"));
        assertTrue(participants.servesModel(members[0], "node-1", "other"), "removed and added in one");
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "nothing came back");
    }

    function testMalformedNodesAreRefused() public {
        _registerModel();
        _registerNode(members[0]);
        string[3] memory names = ["", "Upper", "a-name-that-is-longer-than-thirty-two"];
        for (uint256 i; i < 3; ++i) {
            vm.prank(members[0]);
            vm.expectPartialRevert(ParticipantRegistry.InvalidNode.selector);
            participants.submitHardwareDiff(_node(names[i], "tiny"), new string[](0));
        }
        ParticipantRegistry.MLNode[] memory added = _node("node-2", "tiny");
        added[0].hardware = string(new bytes(257));
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.InvalidNode.selector);
        participants.submitHardwareDiff(added, new string[](0));
        added = _node("node-2", "tiny");
        added[0].models = new string[](0);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.InvalidNode.selector);
        participants.submitHardwareDiff(added, new string[](0));
    }

    function testAParticipantHasABoundedNumberOfNodes() public {
        _registerModel();
        _registerNode(members[0]);
        for (uint256 i = 1; i < 64; ++i) {
            bytes memory id = abi.encodePacked("n", bytes1(uint8(97 + i / 26)), bytes1(uint8(97 + i % 26)));
            vm.prank(members[0]);
            participants.submitHardwareDiff(_node(string(id), "tiny"), new string[](0));
        }
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.TooManyNodes.selector);
        participants.submitHardwareDiff(_node("one-more", "tiny"), new string[](0));
    }

    function testUnregisteringTakesAllNodesAndKeepsTheCollateral() public {
        _registerModel();
        _registerNode(members[0]);
        _deposit(members[0], 10 * TOKEN);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.NodesRemain.selector);
        participants.unregister(new string[](0));
        vm.prank(members[0]);
        participants.unregister(_list("node-1"));
        assertTrue(participants.statusOf(members[0]) == ParticipantRegistry.Status.UNREGISTERED, "status");
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "no node");
        vm.prank(members[0]);
        participants.requestWithdrawCollateral(10 * TOKEN);
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(members[0]);
        participants.withdrawCollateral();
        assertEq(token.balanceOf(members[0]), 10 * TOKEN, "back");
        vm.prank(members[0]);
        participants.register("peer", "");
        assertTrue(!participants.servesModel(members[0], "node-1", "tiny"), "old nodes do not come back");
    }

    function testCollateralComesBackAfterItsUnbondingAndNotBefore() public {
        _registerModel();
        _registerNode(members[0]);
        _deposit(members[0], 10 * TOKEN);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.AmountZero.selector);
        participants.depositCollateral(0);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.AmountZero.selector);
        participants.requestWithdrawCollateral(0);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.InsufficientCollateral.selector);
        participants.requestWithdrawCollateral(11 * TOKEN);
        vm.prank(members[0]);
        participants.requestWithdrawCollateral(4 * TOKEN);
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.StillUnbonding.selector);
        participants.withdrawCollateral();
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(members[0]);
        participants.withdrawCollateral();
        assertEq(token.balanceOf(members[0]), 4 * TOKEN, "back");
        assertEq(participants.collateralOf(members[0]).deposited, 6 * TOKEN, "stays");
        vm.prank(members[0]);
        vm.expectPartialRevert(ParticipantRegistry.NothingToWithdraw.selector);
        participants.withdrawCollateral();
    }

    function testGovernanceSetsTheCollateralThatMiningNeeds() public {
        _registerModel();
        _registerNode(members[0]);
        vm.prank(user);
        vm.expectRevert();
        participants.setMinCollateral(1);
        participants.setMinCollateral(uint128(5 * TOKEN));
        assertTrue(participants.statusOf(members[0]) == ParticipantRegistry.Status.UNDERCOLLATERALISED, "too little");
        _deposit(members[0], 5 * TOKEN);
        assertTrue(participants.statusOf(members[0]) == ParticipantRegistry.Status.ACTIVE, "active");
    }

    function testTheSlasherIsNamedOnceByTheDeployer() public {
        vm.expectPartialRevert(ParticipantRegistry.SlasherAlreadySet.selector);
        participants.setSlasher(address(slashing));
        ParticipantRegistry fresh = new ParticipantRegistry(models, token, 1, 0, user);
        vm.prank(user);
        vm.expectPartialRevert(ParticipantRegistry.NotTheDeployer.selector);
        fresh.setSlasher(address(slashing));
        vm.expectPartialRevert(ParticipantRegistry.SlasherHasNoCode.selector);
        fresh.setSlasher(user);
        vm.expectPartialRevert(ParticipantRegistry.NotTheSlasher.selector);
        participants.slash(members[0], 1, 0);
    }
}
