// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {Base} from "./Base.sol";

contract CoordinatorTest is Base {
    uint256 private constant TOKEN_PRICE = 2 * UNIT_PRICE;

    function setUp() public override {
        super.setUp();
        _registerModel();
        token.transfer(user, 10 * TOKEN);
        vm.prank(user);
        token.approve(address(coordinator), type(uint256).max);
    }

    function _submit(uint32 maxTokens) private returns (uint256 promptId, address executor) {
        vm.prank(user);
        promptId = coordinator.submitPrompt("bafyprompt", "tiny", maxTokens);
        executor = coordinator.getPrompt(promptId).executor;
    }

    function testAnAnswerIsPaidByTokenAndTheRestRefunded() public {
        (uint256 promptId, address executor) = _submit(100);
        assertEq(token.balanceOf(address(coordinator)), 100 * TOKEN_PRICE, "escrow");
        vm.prank(executor);
        coordinator.submitResult(promptId, "bafyanswer", 20, 30);
        assertEq(token.balanceOf(executor), 50 * TOKEN_PRICE, "paid");
        assertEq(token.balanceOf(user), 10 * TOKEN - 50 * TOKEN_PRICE, "refunded");
        assertEq(token.balanceOf(address(coordinator)), 0, "nothing left");
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.PromptClosed.selector);
        coordinator.submitResult(promptId, "bafyanswer", 20, 30);
    }

    function testFuzzThePriceNeverExceedsTheEscrow(uint32 promptTokens, uint32 outputTokens) public {
        vm.assume(outputTokens > 0);
        (uint256 promptId, address executor) = _submit(100);
        vm.prank(executor);
        coordinator.submitResult(promptId, "bafyanswer", promptTokens, outputTokens);
        assertTrue(token.balanceOf(executor) <= 100 * TOKEN_PRICE, "at most the escrow");
        assertEq(token.balanceOf(executor) + token.balanceOf(user), 10 * TOKEN, "conserved");
    }

    function testOnlyTheDrawnExecutorAnswersFirstThenAnyMember() public {
        (uint256 promptId, address executor) = _submit(100);
        address other = executor == members[0] ? members[1] : members[0];
        vm.prank(other);
        vm.expectPartialRevert(InferenceCoordinator.NotTheExecutor.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        vm.roll(block.number + DEADLINE_BLOCKS / 2 + 1);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.NotTheExecutor.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        vm.prank(other);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        assertEq(token.balanceOf(other), 2 * TOKEN_PRICE, "paid");
    }

    function testAnUnansweredPromptGoesBackAfterItsDeadline() public {
        (uint256 promptId, address executor) = _submit(100);
        vm.expectPartialRevert(InferenceCoordinator.DeadlineNotReached.selector);
        coordinator.reclaim(promptId);
        vm.roll(block.number + DEADLINE_BLOCKS + 1);
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.DeadlinePassed.selector);
        coordinator.submitResult(promptId, "bafyanswer", 1, 1);
        coordinator.reclaim(promptId);
        assertEq(token.balanceOf(user), 10 * TOKEN, "all back");
        vm.expectPartialRevert(InferenceCoordinator.PromptClosed.selector);
        coordinator.reclaim(promptId);
    }

    function testPromptsThatCannotBeServedAreRefused() public {
        vm.prank(user);
        vm.expectRevert();
        coordinator.submitPrompt("bafyprompt", "absent", 10);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.MaxTokensOutOfRange.selector);
        coordinator.submitPrompt("bafyprompt", "tiny", 0);
        vm.prank(user);
        vm.expectPartialRevert(InferenceCoordinator.CidLength.selector);
        coordinator.submitPrompt("", "tiny", 10);
        vm.expectPartialRevert(InferenceCoordinator.PromptUnknown.selector);
        coordinator.reclaim(99);
        (uint256 promptId, address executor) = _submit(10);
        vm.prank(executor);
        vm.expectPartialRevert(InferenceCoordinator.NoOutput.selector);
        coordinator.submitResult(promptId, "bafyanswer", 5, 0);
    }
}
