// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {Base} from "./Base.sol";

contract CoordinatorTest is Base {
    uint256 private constant TOKEN_PRICE = 2 * UNIT_PRICE;
    uint256 private constant FUNDS = 10 * TOKEN;

    function setUp() public override {
        super.setUp();
        _registerModel();
        token.transfer(user, FUNDS);
        vm.prank(user);
        token.approve(address(coordinator), type(uint256).max);
    }

    function _submit(uint32 maxTokens) private returns (uint256 promptId, address executor) {
        vm.prank(user);
        promptId = coordinator.submitPrompt("bafyprompt", "tiny", maxTokens, type(uint256).max);
        executor = coordinator.getPrompt(promptId).executor;
    }

    /// @dev A prompt of 100 tokens, answered with 50.
    function _answered() private returns (uint256 promptId, address executor) {
        (promptId, executor) = _submit(100);
        vm.prank(executor);
        coordinator.submitResult(promptId, "bafyanswer", 20, 30);
    }

    function _dispute(uint256 promptId) private {
        vm.prank(user);
        coordinator.dispute(promptId, "bafyreason");
    }

    function resolve(uint256 promptId, bool forUser, uint256 bits) public {
        bytes memory signatures = _signatures(coordinator.hashDisputeVerdict(promptId, forUser), bits);
        coordinator.resolveDispute(promptId, forUser, _bitmap(bits), signatures);
    }

    function testAnAnswerIsPaidByTokenAfterTheTimeForDisputeAndTheRestRefunded() public {
        (uint256 promptId, address executor) = _answered();
        assertEq(token.balanceOf(address(coordinator)), 100 * TOKEN_PRICE, "escrow");
        assertEq(token.balanceOf(executor), 0, "not yet");
        vm.expectPartialRevert(InferenceCoordinator.DeadlineNotReached.selector);
        coordinator.settle(promptId);
        vm.roll(block.number + DISPUTE_BLOCKS + 1);
        coordinator.settle(promptId);
        assertEq(token.balanceOf(executor), 50 * TOKEN_PRICE, "paid");
        assertEq(token.balanceOf(user), FUNDS - 50 * TOKEN_PRICE, "refunded");
        assertEq(token.balanceOf(address(coordinator)), 0, "nothing left");
        vm.expectPartialRevert(InferenceCoordinator.WrongStatus.selector);
        coordinator.settle(promptId);
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.WrongStatus.selector);
        coordinator.submitResult(promptId, "bafyanswer", 20, 30);
    }

    function testTheShortFormEscrowsTheDefault() public {
        vm.prank(user);
        uint256 promptId = coordinator.submitPrompt("bafyprompt", "tiny");
        assertEq(coordinator.getPrompt(promptId).maxPrice, 512 * TOKEN_PRICE, "escrow");
        assertEq(coordinator.promptCount(), 1, "count");
    }

    function testFuzzThePriceNeverExceedsTheEscrow(uint32 promptTokens, uint32 outputTokens) public {
        vm.assume(outputTokens > 0);
        (uint256 promptId, address executor) = _submit(100);
        vm.prank(executor);
        coordinator.submitResult(promptId, "bafyanswer", promptTokens, outputTokens);
        vm.roll(block.number + DISPUTE_BLOCKS + 1);
        coordinator.settle(promptId);
        assertTrue(token.balanceOf(executor) <= 100 * TOKEN_PRICE, "at most the escrow");
        assertEq(token.balanceOf(executor) + token.balanceOf(user), FUNDS, "conserved");
    }

    function testOnlyTheDrawnExecutorAnswersFirstThenAnyMember() public {
        (uint256 promptId, address executor) = _submit(100);
        address other = executor == members[0] ? members[1] : members[0];
        vm.prank(other);
        vm.expectPartialRevert(InferenceCoordinator.NotTheExecutor.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        vm.roll(block.number + ANSWER_BLOCKS / 2 + 1);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.NotTheExecutor.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        vm.prank(other);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        vm.roll(block.number + DISPUTE_BLOCKS + 1);
        coordinator.settle(promptId);
        assertEq(token.balanceOf(other), 2 * TOKEN_PRICE, "who answered is paid");
    }

    function testAnUnansweredPromptGoesBackAfterItsDeadline() public {
        (uint256 promptId, address executor) = _submit(100);
        vm.expectPartialRevert(InferenceCoordinator.DeadlineNotReached.selector);
        coordinator.reclaim(promptId);
        vm.roll(block.number + ANSWER_BLOCKS + 1);
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.DeadlinePassed.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        coordinator.reclaim(promptId);
        assertEq(token.balanceOf(user), FUNDS, "all back");
        vm.expectPartialRevert(InferenceCoordinator.WrongStatus.selector);
        coordinator.reclaim(promptId);
        vm.expectPartialRevert(InferenceCoordinator.WrongStatus.selector);
        coordinator.settle(promptId);
    }

    function testADisputeWonGivesEverythingBack() public {
        (uint256 promptId, address executor) = _answered();
        _dispute(promptId);
        assertEq(token.balanceOf(address(coordinator)), 150 * TOKEN_PRICE, "escrow and bond");
        vm.expectPartialRevert(InferenceCoordinator.QuorumNotReached.selector);
        this.resolve(promptId, true, 3);
        resolve(promptId, true, 7);
        assertEq(token.balanceOf(user), FUNDS, "all back");
        assertEq(token.balanceOf(executor), 0, "nothing");
    }

    function testADisputeLostCostsTheBond() public {
        (uint256 promptId, address executor) = _answered();
        _dispute(promptId);
        resolve(promptId, false, 7);
        assertEq(token.balanceOf(executor), 100 * TOKEN_PRICE, "price and bond");
        assertEq(token.balanceOf(user), FUNDS - 100 * TOKEN_PRICE, "the rest");
        assertEq(token.balanceOf(address(coordinator)), 0, "nothing left");
    }

    function testADisputeThatNobodyDecidesEndsAsIfThereWereNone() public {
        (uint256 promptId, address executor) = _answered();
        _dispute(promptId);
        vm.expectPartialRevert(InferenceCoordinator.DeadlineNotReached.selector);
        coordinator.settle(promptId);
        vm.roll(block.number + VERDICT_BLOCKS + 1);
        vm.expectPartialRevert(InferenceCoordinator.DeadlinePassed.selector);
        this.resolve(promptId, true, 7);
        coordinator.settle(promptId);
        assertEq(token.balanceOf(executor), 50 * TOKEN_PRICE, "paid");
        assertEq(token.balanceOf(user), FUNDS - 50 * TOKEN_PRICE, "refunded with the bond");
        assertEq(token.balanceOf(address(coordinator)), 0, "nothing left");
    }

    function testOnlyTheUserDisputesAndOnlyInTime() public {
        (uint256 promptId, address executor) = _answered();
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.NotTheUser.selector);
        coordinator.dispute(promptId, "bafyreason");
        vm.expectPartialRevert(InferenceCoordinator.WrongStatus.selector);
        this.resolve(promptId, true, 7);
        vm.roll(block.number + DISPUTE_BLOCKS + 1);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.DeadlinePassed.selector);
        coordinator.dispute(promptId, "bafyreason");
    }

    function testPromptsThatCannotBeServedAreRefused() public {
        vm.prank(user);
        vm.expectRevert();
        coordinator.submitPrompt("bafyprompt", "absent");
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.MaxTokensOutOfRange.selector);
        coordinator.submitPrompt("bafyprompt", "tiny", 0, 1);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.CidLength.selector);
        coordinator.submitPrompt("", "tiny");
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.PriceAboveLimit.selector);
        coordinator.submitPrompt("bafyprompt", "tiny", 10, 10 * TOKEN_PRICE - 1);
        vm.expectPartialRevert(InferenceCoordinator.PromptUnknown.selector);
        coordinator.reclaim(99);
        vm.expectPartialRevert(InferenceCoordinator.PromptUnknown.selector);
        coordinator.settle(99);
        vm.expectPartialRevert(InferenceCoordinator.PromptUnknown.selector);
        coordinator.getPrompt(99);
        (uint256 promptId, address executor) = _submit(10);
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.NoOutput.selector);
        coordinator.submitResult(promptId, "bafyanswer", 5, 0);
        vm.expectPartialRevert(InferenceCoordinator.AnswerBlocksZero.selector);
        new InferenceCoordinator(token, models, epochs, InferenceCoordinator.Windows(0, 1, 1));
    }
}
