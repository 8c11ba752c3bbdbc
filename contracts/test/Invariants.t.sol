// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {InferenceCoordinator} from "../src/InferenceCoordinator.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {Base, Vm} from "./Base.sol";

/// @dev What anybody may do, in any order, with amounts that make sense. Keeps the sums that must hold.
contract Actor {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    uint256 private constant PAYER_KEY = 4242;
    address private constant PAYEE = address(0xB0B);

    QuernToken private immutable token;
    PaymentChannels private immutable channels;
    RewardDistributor private immutable distributor;
    InferenceCoordinator private immutable coordinator;
    address private immutable epochs;
    address private immutable payer = vm.addr(PAYER_KEY);

    uint256 public deposited;
    uint256 public redeemed;
    uint256 public withdrawn;
    uint256 public escrowed;
    uint64 private epoch;

    constructor(
        QuernToken token_,
        PaymentChannels channels_,
        RewardDistributor distributor_,
        InferenceCoordinator coordinator_,
        address epochs_
    ) {
        token = token_;
        channels = channels_;
        distributor = distributor_;
        coordinator = coordinator_;
        epochs = epochs_;
    }

    function deposit(uint256 amount) external {
        amount = amount % 1e18 + 1;
        if (token.balanceOf(payer) < amount) return;
        vm.prank(payer);
        channels.deposit(PAYEE, amount);
        deposited += amount;
    }

    function redeem(uint256 cumulative) external {
        PaymentChannels.Channel memory channel = channels.getChannel(payer, PAYEE);
        if (channel.deposited == channel.redeemed) return;
        cumulative = channel.redeemed + cumulative % (channel.deposited - channel.redeemed) + 1;
        bytes32 digest = channels.hashVoucher(channels.channelId(payer, PAYEE), cumulative, 0);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        channels.redeem(payer, PAYEE, cumulative, 0, abi.encodePacked(r, s, v));
        redeemed += cumulative - channel.redeemed;
    }

    function withdraw(uint32 wait) external {
        PaymentChannels.Channel memory channel = channels.getChannel(payer, PAYEE);
        if (channel.deposited == channel.redeemed) return;
        vm.prank(payer);
        channels.requestWithdraw(PAYEE);
        vm.warp(block.timestamp + 600 + wait % 1000);
        vm.prank(payer);
        channels.withdraw(PAYEE);
        withdrawn += channel.deposited - channel.redeemed;
    }

    function fund(uint256 amount, uint256 promised) external {
        uint256 total = amount % (distributor.subsidy(epoch) + 1);
        uint256 cumulative = distributor.claimedOf(PAYEE) + promised % (2 * total + 1) + 1;
        bytes32 leaf = keccak256(bytes.concat(keccak256(abi.encode(PAYEE, cumulative))));
        vm.prank(epochs);
        distributor.postEpoch(epoch, leaf, total);
        ++epoch;
        // Whatever the root promises, only what was funded is paid.
        try distributor.claim(PAYEE, cumulative, new bytes32[](0)) {} catch {}
    }

    function prompt(uint32 maxTokens, uint32 output, bool answer) external {
        maxTokens = maxTokens % 1000 + 1;
        if (token.balanceOf(payer) < 1e18) return;
        vm.prank(payer);
        uint256 promptId = coordinator.submitPrompt("bafyprompt", "tiny", maxTokens);
        if (answer) {
            vm.prank(coordinator.getPrompt(promptId).executor);
            coordinator.submitResult(promptId, "bafyanswer", 1, output % 2000 + 1);
        } else {
            escrowed += coordinator.getPrompt(promptId).maxPrice;
        }
    }
}

contract InvariantsTest is Base {
    Actor private actor;

    function setUp() public override {
        super.setUp();
        _registerModel();
        actor = new Actor(token, channels, distributor, coordinator, address(epochs));
        address payer = vm.addr(4242);
        token.transfer(payer, 1000 * TOKEN);
        vm.prank(payer);
        token.approve(address(channels), type(uint256).max);
        vm.prank(payer);
        token.approve(address(coordinator), type(uint256).max);
    }

    /// @dev Read by Foundry: only the actor is called.
    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actor);
    }

    function invariantChannelsHoldExactlyWhatIsNeitherRedeemedNorWithdrawn() external view {
        uint256 expected = actor.deposited() - actor.redeemed() - actor.withdrawn();
        assertEq(token.balanceOf(address(channels)), expected, "channels");
    }

    function invariantTheCoordinatorHoldsExactlyTheOpenEscrows() external view {
        assertEq(token.balanceOf(address(coordinator)), actor.escrowed(), "escrows");
    }

    function invariantRewardsClaimedNeverExceedWhatWasFunded() external view {
        assertTrue(distributor.claimedTotal() <= distributor.fundedTotal(), "claimed");
        assertEq(token.totalSupply(), SUPPLY + distributor.claimedTotal(), "minted");
        assertTrue(token.totalSupply() <= token.cap(), "cap");
    }
}
