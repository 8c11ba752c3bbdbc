// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AccessVault} from "../src/AccessVault.sol";
import {EpochManager} from "../src/EpochManager.sol";
import {IEpochManager} from "../src/interfaces/IEpochManager.sol";
import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {Slashing} from "../src/Slashing.sol";
import {Base} from "./Base.sol";

interface EtchVm {
    function etch(address target, bytes calldata code) external;
}

/// @dev Solidity and Python agree: tests/vectors/shared.json is computed by the Python rules.
contract VectorsTest is Base {
    string private json;

    function setUp() public override {
        super.setUp();
        json = vm.readFile("../tests/vectors/shared.json");
        vm.chainId(vm.parseJsonUint(json, ".chainId"));
    }

    function testStages() public view {
        _checkStages(".stages", vm.parseJsonUintArray(json, ".stages.blocks"));
    }

    function _checkStages(string memory where, uint256[] memory blocks) private view {
        uint256[] memory wantedEpochs = vm.parseJsonUintArray(json, string.concat(where, ".epochs"));
        uint256[] memory stages = vm.parseJsonUintArray(json, string.concat(where, ".stages"));
        uint256[] memory firsts = vm.parseJsonUintArray(json, string.concat(where, ".firstBlocks"));
        uint256[] memory nexts = vm.parseJsonUintArray(json, string.concat(where, ".nextBlocks"));
        assertTrue(blocks.length > 10, "vectors");
        for (uint256 i; i < blocks.length; ++i) {
            (uint64 epoch, IEpochManager.Stage stage, uint256 first, uint256 next) = epochs.stageAt(blocks[i]);
            assertEq(epoch, wantedEpochs[i], "epoch");
            assertEq(uint256(stage), stages[i], "stage");
            assertEq(first, firsts[i], "first block");
            assertEq(next, nexts[i], "next block");
        }
    }

    function testStagesWhereParametersChange() public {
        uint256[] memory at = vm.parseJsonUintArray(json, ".changes.at");
        uint256[] memory fromEpochs = vm.parseJsonUintArray(json, ".changes.fromEpochs");
        uint256[] memory p = vm.parseJsonUintArray(json, ".changes.parameters");
        for (uint256 i; i < at.length; ++i) {
            vm.roll(at[i]);
            epochs.scheduleParameters(uint64(fromEpochs[i]), _schedule(p, i * 10));
        }
        uint256[] memory fromBlocks = vm.parseJsonUintArray(json, ".changes.fromBlocks");
        for (uint256 i; i < at.length; ++i) {
            (uint64 fromEpoch, uint256 fromBlock,) = epochs.parametersOf(uint64(fromEpochs[i]));
            assertEq(fromEpoch, fromEpochs[i], "from epoch");
            assertEq(fromBlock, fromBlocks[i], "from block");
        }
        uint256[] memory blocks = vm.parseJsonUintArray(json, ".changes.blocks");
        for (uint256 round; round < 2; ++round) {
            _checkStages(".changes", blocks);
            vm.roll(fromBlocks[at.length - 1] + 5); // what was scheduled is the present now, and the present past
        }
        assertEq(epochs.unitPrice(), p[p.length - 1], "price");
    }

    function _schedule(uint256[] memory p, uint256 i) private pure returns (EpochManager.Schedule memory) {
        return EpochManager.Schedule(
            uint64(p[i]),
            uint64(p[i + 1]),
            uint64(p[i + 2]),
            uint64(p[i + 3]),
            uint64(p[i + 4]),
            uint64(p[i + 5]),
            uint64(p[i + 6]),
            uint32(p[i + 7]),
            uint32(p[i + 8]),
            p[i + 9]
        );
    }

    function testSubsidies() public view {
        uint256[] memory numbers = vm.parseJsonUintArray(json, ".subsidies.epochs");
        uint256[] memory amounts = vm.parseJsonUintArray(json, ".subsidies.amounts");
        assertTrue(numbers.length > 5, "vectors");
        for (uint256 i; i < numbers.length; ++i) {
            assertEq(distributor.subsidy(uint64(numbers[i])), amounts[i], "subsidy");
        }
    }

    function testVoucherDigest() public {
        PaymentChannels at = PaymentChannels(_move(address(channels)));
        address payer = vm.parseJsonAddress(json, ".voucher.payer");
        address payee = vm.parseJsonAddress(json, ".voucher.payee");
        bytes32 id = at.channelId(payer, payee);
        assertEq(id, vm.parseJsonBytes32(json, ".voucher.channelId"), "channel id");
        uint256 cumulative = vm.parseJsonUint(json, ".voucher.cumulative");
        bytes32 root = vm.parseJsonBytes32(json, ".voucher.receiptsRoot");
        assertEq(at.hashVoucher(id, cumulative, root), vm.parseJsonBytes32(json, ".voucher.digest"), "digest");
    }

    function testResultDigest() public {
        EpochManager at = EpochManager(_move(address(epochs)));
        EpochManager.EpochResult memory result = EpochManager.EpochResult(
            uint64(vm.parseJsonUint(json, ".result.epoch")),
            vm.parseJsonBytes(json, ".result.contentCid"),
            vm.parseJsonBytes32(json, ".result.validatorSetHash"),
            vm.parseJsonUint(json, ".result.totalWeight"),
            vm.parseJsonBytes32(json, ".result.rewardsRoot"),
            vm.parseJsonUint(json, ".result.rewardTotal")
        );
        bytes32 digest = vm.parseJsonBytes32(json, ".result.digest");
        assertEq(at.hashEpochResult(result), digest, "digest");
        bytes32 objection = vm.parseJsonBytes32(json, ".result.objectionDigest");
        assertEq(at.hashObjection(result.epoch, digest), objection, "objection");
    }

    function testVerdictDigest() public {
        Slashing at = Slashing(_move(address(slashing)));
        Slashing.Verdict memory verdict = Slashing.Verdict(
            uint64(vm.parseJsonUint(json, ".verdict.epoch")),
            vm.parseJsonAddress(json, ".verdict.participant"),
            Slashing.Offence(vm.parseJsonUint(json, ".verdict.offence")),
            vm.parseJsonBytes(json, ".verdict.evidenceCid")
        );
        assertEq(at.hashVerdict(verdict), vm.parseJsonBytes32(json, ".verdict.digest"), "digest");
    }

    function testDisputeVerdictDigests() public {
        InferenceCoordinator at = InferenceCoordinator(_move(address(coordinator)));
        uint256 promptId = vm.parseJsonUint(json, ".disputeVerdict.promptId");
        bytes32 forUser = vm.parseJsonBytes32(json, ".disputeVerdict.forUserDigest");
        bytes32 against = vm.parseJsonBytes32(json, ".disputeVerdict.againstUserDigest");
        assertEq(at.hashDisputeVerdict(promptId, true), forUser, "for the user");
        assertEq(at.hashDisputeVerdict(promptId, false), against, "against it");
    }

    function testAccessRequestDigest() public {
        AccessVault at = AccessVault(_move(address(vault)));
        AccessVault.AccessRequest memory request = AccessVault.AccessRequest(
            vm.parseJsonString(json, ".accessRequest.modelId"),
            vm.parseJsonAddress(json, ".accessRequest.account"),
            vm.parseJsonUint(json, ".accessRequest.nonce"),
            uint64(vm.parseJsonUint(json, ".accessRequest.expiry"))
        );
        assertEq(at.hashAccessRequest(request), vm.parseJsonBytes32(json, ".accessRequest.digest"), "digest");
    }

    function testValidatorSet() public {
        bytes memory packed = vm.parseJsonBytes(json, ".validatorSet.packed");
        EpochManager fresh = new EpochManager(_parameters(), packed, participants, distributor, verifier, address(this));
        assertEq(fresh.totalWeightOf(0), vm.parseJsonUint(json, ".validatorSet.total"), "total");
        address first = vm.parseJsonAddress(json, ".validatorSet.first");
        assertEq(fresh.weightOf(0, first), vm.parseJsonUint(json, ".validatorSet.firstWeight"), "weight");
        assertEq(keccak256(fresh.groupOf(0)), keccak256(packed), "packed");
    }

    function testRewardProof() public {
        address account = vm.parseJsonAddress(json, ".reward.account");
        uint256 cumulative = vm.parseJsonUint(json, ".reward.cumulative");
        vm.prank(address(epochs));
        distributor.postEpoch(0, vm.parseJsonBytes32(json, ".reward.root"), SUBSIDY, uint64(block.number));
        distributor.claim(account, cumulative, vm.parseJsonBytes32Array(json, ".reward.proof"));
        assertEq(token.balanceOf(account), cumulative, "claimed");
    }

    /// @dev Epoch after epoch, as daemons compute them: the pot, the cap of emission, halvings, a result that is voided,
    /// claims late and early. What the rules say is paid is what the chain pays, to the unit.
    function testSettlement() public {
        token.approve(address(distributor), type(uint256).max);
        uint256[] memory claims = vm.parseJsonUintArray(json, ".settlement.claims");
        assertEq(claims.length, vm.parseJsonUint(json, ".settlement.steps"), "steps");
        for (uint256 i; i < claims.length; ++i) {
            string memory at = string.concat(".settlement.epochs[", _digit(i), "]");
            _settle(at);
            for (uint256 j; j < claims[i]; ++j) {
                _claim(string.concat(at, ".claims[", _digit(j), "]"));
            }
            assertEq(distributor.fundedTotal(), _uint(at, ".fundedAfter"), "funded");
            assertEq(distributor.claimedTotal(), _uint(at, ".claimedAfter"), "claimed");
        }
    }

    /// @dev Fill the pot, post the result, and let it take effect or void it.
    function _settle(string memory at) private {
        if (_uint(at, ".workCoins") != 0) distributor.addWorkCoins(_uint(at, ".workCoins"));
        assertEq(distributor.pot(), _uint(at, ".pot"), "pot");
        (uint64 epoch, uint256 total) = (uint64(_uint(at, ".epoch")), _uint(at, ".total"));
        bytes32 root = vm.parseJsonBytes32(json, string.concat(at, ".root"));
        uint256 most = distributor.subsidy(epoch) + distributor.pot();
        assertTrue(total <= most, "what the rules pay is funded");
        vm.expectPartialRevert(RewardDistributor.RewardAboveFunds.selector);
        vm.prank(address(epochs));
        distributor.postEpoch(epoch, root, most + 1, uint64(block.number + 1));
        vm.prank(address(epochs));
        distributor.postEpoch(epoch, root, total, uint64(block.number + 1));
        if (_uint(at, ".voided") == 1) {
            vm.prank(address(epochs));
            distributor.voidEpoch(epoch);
        }
        vm.roll(block.number + 1);
        if (_uint(at, ".voided") == 0) assertEq(distributor.activeRoot(), root, "in effect");
    }

    function _claim(string memory at) private {
        address account = vm.parseJsonAddress(json, string.concat(at, ".account"));
        uint256 cumulative = _uint(at, ".cumulative");
        bytes32[] memory proof = vm.parseJsonBytes32Array(json, string.concat(at, ".proof"));
        uint256 before = token.balanceOf(account);
        distributor.claim(account, cumulative, proof);
        assertEq(token.balanceOf(account) - before, _uint(at, ".amount"), "paid");
        vm.expectPartialRevert(RewardDistributor.NothingToClaim.selector);
        distributor.claim(account, cumulative, proof);
    }

    function _uint(string memory at, string memory name) private view returns (uint256) {
        return vm.parseJsonUint(json, string.concat(at, name));
    }

    function _digit(uint256 value) private pure returns (string memory) {
        assertTrue(value < 10, "one digit");
        return string(abi.encodePacked(bytes1(uint8(48 + value))));
    }

    /// @dev The digests bind the contract's address: put the code where the vectors have it.
    function _move(address deployed) private returns (address at) {
        at = vm.parseJsonAddress(json, ".contract");
        EtchVm(address(vm)).etch(at, deployed.code);
    }
}
