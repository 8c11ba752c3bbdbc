// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ParticipantRegistry} from "../src/ParticipantRegistry.sol";
import {Slashing} from "../src/Slashing.sol";
import {Base} from "./Base.sol";

contract SlashingTest is Base {
    address private offender = address(0xBAD);

    function setUp() public override {
        super.setUp();
        _registerModel();
        _registerNode(offender);
        token.transfer(offender, 100 * TOKEN);
        vm.prank(offender);
        token.approve(address(participants), type(uint256).max);
        vm.prank(offender);
        participants.depositCollateral(100 * TOKEN);
    }

    function _verdict(uint64 epoch, Slashing.Offence offence) private view returns (Slashing.Verdict memory) {
        return Slashing.Verdict(epoch, offender, offence, CID);
    }

    function punish(Slashing.Verdict memory verdict, uint256 bits) public {
        slashing.punish(verdict, _bitmap(bits), _signatures(slashing.hashVerdict(verdict), bits));
    }

    function testAQuorumBurnsAShareAndBarsTheOffender() public {
        uint256 supply = token.totalSupply();
        punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        assertEq(participants.collateralOf(offender).deposited, 50 * TOKEN, "half is gone");
        assertEq(token.totalSupply(), supply - 50 * TOKEN, "burned: nobody gains by it");
        assertEq(participants.collateralOf(offender).barredUntil, 10, "barred for ten epochs");
    }

    function testUnbondingCollateralIsSlashedToo() public {
        vm.prank(offender);
        participants.requestWithdrawCollateral(80 * TOKEN);
        punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        ParticipantRegistry.Collateral memory left = participants.collateralOf(offender);
        assertEq(left.deposited, 10 * TOKEN, "deposited");
        assertEq(left.unbonding, 40 * TOKEN, "unbonding");
        vm.warp(block.timestamp + UNBONDING_SECONDS);
        vm.prank(offender);
        participants.withdrawCollateral();
        assertEq(token.balanceOf(offender), 40 * TOKEN, "only what was left");
        assertEq(token.balanceOf(address(participants)), 10 * TOKEN, "conserved");
    }

    function testDowntimeCostsLessAndEachOffenceOncePerEpoch() public {
        punish(_verdict(0, Slashing.Offence.DOWNTIME), 7);
        assertEq(participants.collateralOf(offender).deposited, 99 * TOKEN, "one per cent");
        vm.expectPartialRevert(Slashing.AlreadyPunished.selector);
        this.punish(_verdict(0, Slashing.Offence.DOWNTIME), 7);
        _at(1, 0);
        punish(_verdict(1, Slashing.Offence.DOWNTIME), 7);
        assertEq(participants.collateralOf(offender).deposited, 9801 * TOKEN / 100, "again");
    }

    function testAShorterBarDoesNotEndALongerOne() public {
        punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        uint64 until = participants.collateralOf(offender).barredUntil;
        punish(_verdict(0, Slashing.Offence.DOWNTIME), 7);
        assertEq(participants.collateralOf(offender).barredUntil, until, "until");
    }

    function testAnOffenderWithoutCollateralIsStillBarred() public {
        _registerNode(address(0xBEE));
        Slashing.Verdict memory verdict = Slashing.Verdict(0, address(0xBEE), Slashing.Offence.FRAUD, CID);
        punish(verdict, 7);
        assertEq(participants.collateralOf(address(0xBEE)).barredUntil, 10, "barred");
    }

    function testTwoThirdsAreNotEnough() public {
        vm.expectPartialRevert(Slashing.QuorumNotReached.selector);
        this.punish(_verdict(0, Slashing.Offence.FRAUD), 3);
    }

    function testVerdictsExpireAndDoNotForetell() public {
        vm.expectPartialRevert(Slashing.VerdictFromTheFuture.selector);
        this.punish(_verdict(1, Slashing.Offence.FRAUD), 7);
        _at(9, 0);
        vm.expectPartialRevert(Slashing.VerdictTooOld.selector);
        this.punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        punish(_verdict(1, Slashing.Offence.FRAUD), 7);
    }

    function testEvidenceIsNamed() public {
        Slashing.Verdict memory verdict = _verdict(0, Slashing.Offence.FRAUD);
        verdict.evidenceCid = "";
        vm.expectPartialRevert(Slashing.CidLength.selector);
        this.punish(verdict, 7);
        verdict.evidenceCid = new bytes(65);
        vm.expectPartialRevert(Slashing.CidLength.selector);
        this.punish(verdict, 7);
    }

    function testGovernanceSetsPenaltiesWithinBounds() public {
        vm.prank(user);
        vm.expectRevert();
        slashing.setPenalty(Slashing.Offence.FRAUD, Slashing.Penalty(1000, 0));
        slashing.setPenalty(Slashing.Offence.FRAUD, Slashing.Penalty(1000, 0));
        assertEq(slashing.penaltyOf(Slashing.Offence.FRAUD).perMille, 1000, "all of it");
        punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        assertEq(participants.collateralOf(offender).deposited, 0, "all gone");
        vm.expectPartialRevert(Slashing.PenaltyOutOfRange.selector);
        slashing.setPenalty(Slashing.Offence.FRAUD, Slashing.Penalty(1001, 0));
        vm.expectPartialRevert(Slashing.PenaltyOutOfRange.selector);
        slashing.setPenalty(Slashing.Offence.DOWNTIME, Slashing.Penalty(101, 0));
        vm.expectPartialRevert(Slashing.PenaltyOutOfRange.selector);
        slashing.setPenalty(Slashing.Offence.FRAUD, Slashing.Penalty(1, 8761));
    }

    function testFuzzSlashingBurnsExactlyWhatTheRegistryLoses(uint96 more, uint96 unbonding, uint16 perMille) public {
        uint256 deposited = uint256(more) % (1000 * TOKEN) + 1;
        token.transfer(offender, deposited);
        vm.prank(offender);
        participants.depositCollateral(deposited);
        vm.prank(offender);
        participants.requestWithdrawCollateral(uint256(unbonding) % deposited + 1);
        slashing.setPenalty(Slashing.Offence.FRAUD, Slashing.Penalty(perMille % 1001, 0));
        uint256 supply = token.totalSupply();
        uint256 held = token.balanceOf(address(participants));
        punish(_verdict(0, Slashing.Offence.FRAUD), 7);
        ParticipantRegistry.Collateral memory left = participants.collateralOf(offender);
        assertEq(token.balanceOf(address(participants)), left.deposited + left.unbonding, "held is owed");
        assertEq(supply - token.totalSupply(), held - left.deposited - left.unbonding, "burned is lost");
    }
}
