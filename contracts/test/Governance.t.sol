// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {QuernGovernor} from "../src/QuernGovernor.sol";
import {QuernTimelock} from "../src/QuernTimelock.sol";
import {VotingQuern} from "../src/VotingQuern.sol";
import {Base} from "./Base.sol";

contract GovernanceTest is Base {
    uint256 private constant DELAY_SECONDS = 100;
    QuernTimelock private timelock;
    QuernGovernor private governor;
    VotingQuern private votes;
    ModelRegistry private registry;

    function setUp() public override {
        super.setUp();
        timelock = new QuernTimelock(DELAY_SECONDS, new address[](0), new address[](1), address(this));
        votes = new VotingQuern(token);
        governor = new QuernGovernor(votes, timelock, 5, 20, TOKEN, 4);
        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));
        registry = new ModelRegistry(address(timelock));
        registry.finishImport();
        token.approve(address(votes), SUPPLY);
        votes.depositFor(address(this), SUPPLY);
        votes.delegate(address(this));
        vm.roll(block.number + 1);
    }

    function _call(bytes memory data)
        private
        view
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        targets = new address[](1);
        values = new uint256[](1);
        calls = new bytes[](1);
        (targets[0], calls[0]) = (address(registry), data);
    }

    function _registration() private pure returns (bytes memory) {
        return abi.encodeCall(ModelRegistry.registerModelWithSpec, ("voted", "bafycid", "Voted", "", _spec()));
    }

    function testAModelIsRegisteredByProposalVoteQueueAndExecution() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _call(_registration());
        uint256 id = governor.propose(targets, values, calls, "register a model");
        vm.roll(block.number + 6);
        governor.castVote(id, 1);
        vm.roll(block.number + 21);
        assertTrue(governor.state(id) == IGovernor.ProposalState.Succeeded, "succeeded");
        assertTrue(governor.proposalNeedsQueuing(id), "by the timelock");
        governor.queue(targets, values, calls, keccak256("register a model"));
        vm.expectRevert();
        governor.execute(targets, values, calls, keccak256("register a model"));
        vm.warp(block.timestamp + DELAY_SECONDS);
        governor.execute(targets, values, calls, keccak256("register a model"));
        assertTrue(registry.isActive("voted"), "registered");
        assertEq(registry.getModel("voted").owner, address(timelock), "by governance");
    }

    function testAProposalWithoutAQuorumIsDefeated() public {
        votes.transfer(user, SUPPLY - TOKEN);
        vm.roll(block.number + 1);
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _call(_registration());
        uint256 id = governor.propose(targets, values, calls, "too few");
        vm.roll(block.number + 6);
        governor.castVote(id, 1);
        vm.roll(block.number + 21);
        assertTrue(governor.state(id) == IGovernor.ProposalState.Defeated, "defeated");
    }

    function testAProposerMayTakeItsProposalBackBeforeTheVote() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _call(_registration());
        uint256 id = governor.propose(targets, values, calls, "on second thought");
        governor.cancel(targets, values, calls, keccak256("on second thought"));
        assertTrue(governor.state(id) == IGovernor.ProposalState.Canceled, "cancelled");
    }

    function testWhoHoldsTooLittleProposesNothing() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _call(_registration());
        vm.prank(user);
        vm.expectPartialRevert(IGovernor.GovernorInsufficientProposerVotes.selector);
        governor.propose(targets, values, calls, "no votes");
        assertEq(governor.proposalThreshold(), TOKEN, "threshold");
    }

    function testVotesAreTokensOneForOneAndComeBack() public {
        assertEq(votes.decimals(), token.decimals(), "decimals");
        assertEq(votes.nonces(address(this)), 0, "nonces");
        assertEq(votes.getVotes(address(this)), SUPPLY, "delegated");
        votes.withdrawTo(user, 40 * TOKEN);
        assertEq(token.balanceOf(user), 40 * TOKEN, "unwrapped");
        assertEq(votes.getVotes(address(this)), SUPPLY - 40 * TOKEN, "fewer votes");
        assertEq(votes.totalSupply(), token.balanceOf(address(votes)), "backed");
    }

    function testNobodyElseOwnsTheRegistry() public {
        vm.expectRevert();
        registry.registerModel("tiny", "bafycid", "Tiny", "");
        vm.expectRevert();
        timelock.schedule(address(registry), 0, _registration(), 0, 0, DELAY_SECONDS);
    }
}
