// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "../src/AddressBook.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {QuernToken} from "../src/QuernToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {Base} from "./Base.sol";

contract MoneyTest is Base {
    uint256 private constant PAYER_KEY = 77;
    address private payer = vm.addr(PAYER_KEY);
    address private payee = address(0xB0B);

    function setUp() public override {
        super.setUp();
        token.transfer(payer, 100 * TOKEN);
        vm.prank(payer);
        token.approve(address(channels), type(uint256).max);
    }

    function _deposit(uint256 amount) private {
        vm.prank(payer);
        channels.deposit(payee, amount);
    }

    function _voucher(uint256 cumulative) private view returns (bytes memory) {
        return _sign(PAYER_KEY, channels.hashVoucher(channels.channelId(payer, payee), cumulative, bytes32(0)));
    }

    function testOnlyTheMinterMintsAndItIsSetOnce() public {
        vm.expectPartialRevert(QuernToken.NotTheMinter.selector);
        token.mint(user, 1);
        vm.expectPartialRevert(QuernToken.MinterAlreadySet.selector);
        token.setMinter(address(this));
        QuernToken fresh = new QuernToken(10, 10, address(this));
        vm.expectPartialRevert(QuernToken.MinterHasNoCode.selector);
        fresh.setMinter(user);
        vm.prank(user);
        vm.expectRevert();
        fresh.setMinter(address(channels));
    }

    function testVouchersPayWhatIsNewAndNothingTwice() public {
        _deposit(10 * TOKEN);
        channels.redeem(payer, payee, 3 * TOKEN, 0, _voucher(3 * TOKEN));
        assertEq(token.balanceOf(payee), 3 * TOKEN, "first");
        bytes memory again = _voucher(3 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.NothingToRedeem.selector);
        channels.redeem(payer, payee, 3 * TOKEN, 0, again);
        bytes memory lower = _voucher(2 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.NothingToRedeem.selector);
        channels.redeem(payer, payee, 2 * TOKEN, 0, lower);
        channels.redeem(payer, payee, 10 * TOKEN, 0, _voucher(10 * TOKEN));
        assertEq(token.balanceOf(payee), 10 * TOKEN, "all");
        bytes memory above = _voucher(10 * TOKEN + 1);
        vm.expectPartialRevert(PaymentChannels.VoucherAboveDeposit.selector);
        channels.redeem(payer, payee, 10 * TOKEN + 1, 0, above);
    }

    function testVouchersOfOthersAndOfOtherChannelsAreRefused() public {
        _deposit(10 * TOKEN);
        bytes32 digest = channels.hashVoucher(channels.channelId(payer, payee), TOKEN, 0);
        bytes memory forged = _sign(78, digest);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        channels.redeem(payer, payee, TOKEN, 0, forged);
        bytes memory genuine = _voucher(TOKEN);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        channels.redeem(payer, user, TOKEN, 0, genuine);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        channels.redeem(payer, payee, TOKEN, bytes32(uint256(1)), genuine);
        vm.chainId(999);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        channels.redeem(payer, payee, TOKEN, 0, genuine);
    }

    function testAPayerWithdrawsOnlyAfterTheUnlockAndOnlyWhatIsLeft() public {
        _deposit(10 * TOKEN);
        vm.prank(payer);
        vm.expectPartialRevert(PaymentChannels.WithdrawNotRequested.selector);
        channels.withdraw(payee);
        vm.prank(payer);
        channels.requestWithdraw(payee);
        vm.warp(block.timestamp + UNLOCK_SECONDS - 1);
        vm.prank(payer);
        vm.expectPartialRevert(PaymentChannels.StillLocked.selector);
        channels.withdraw(payee);
        channels.redeem(payer, payee, 4 * TOKEN, 0, _voucher(4 * TOKEN)); // the payee's time to redeem
        vm.warp(block.timestamp + 1);
        vm.prank(payer);
        channels.withdraw(payee);
        assertEq(token.balanceOf(payer), 96 * TOKEN, "the rest came back");
        bytes memory late = _voucher(5 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.VoucherAboveDeposit.selector);
        channels.redeem(payer, payee, 5 * TOKEN, 0, late);
        _deposit(TOKEN); // what was promised is owed again
        channels.redeem(payer, payee, 5 * TOKEN, 0, late);
        assertEq(token.balanceOf(payee), 5 * TOKEN, "paid late");
    }

    function testADepositTakesBackAnAnnouncedWithdrawal() public {
        _deposit(TOKEN);
        vm.prank(payer);
        channels.requestWithdraw(payee);
        _deposit(TOKEN);
        assertEq(channels.getChannel(payer, payee).unlockTime, 0, "unlock time");
        vm.prank(payer);
        vm.expectPartialRevert(PaymentChannels.InvalidPayee.selector);
        channels.deposit(payer, 1);
        vm.prank(payer);
        vm.expectPartialRevert(PaymentChannels.AmountZero.selector);
        channels.deposit(payee, 0);
    }

    function testFuzzAChannelConservesTokens(uint96 deposited, uint96 first, uint96 second) public {
        uint256 amount = uint256(deposited) % (90 * TOKEN) + 1;
        _deposit(amount);
        uint256 low = uint256(first) % (amount + 1);
        uint256 high = low + uint256(second) % (amount - low + 1);
        if (low > 0) channels.redeem(payer, payee, low, 0, _voucher(low));
        if (high > low) channels.redeem(payer, payee, high, 0, _voucher(high));
        assertEq(token.balanceOf(payee), high, "paid");
        assertEq(token.balanceOf(address(channels)), amount - high, "held");
        if (high < amount) {
            vm.prank(payer);
            channels.requestWithdraw(payee);
            vm.warp(block.timestamp + UNLOCK_SECONDS);
            vm.prank(payer);
            channels.withdraw(payee);
        }
        assertEq(token.balanceOf(payer) + token.balanceOf(payee), 100 * TOKEN, "nothing lost, nothing made");
    }

    function _leaf(address account, uint256 cumulative) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function _postRoot(uint64 epoch, bytes32 root, uint256 total) private {
        vm.prank(address(epochs));
        distributor.postEpoch(epoch, root, total);
    }

    function testClaimsPayWhatIsNewByProofToTheAccountOnly() public {
        bytes32[] memory none = new bytes32[](0);
        _postRoot(0, _leaf(user, 40 * TOKEN), 40 * TOKEN);
        distributor.claim(user, 40 * TOKEN, none);
        assertEq(token.balanceOf(user), 40 * TOKEN, "first");
        vm.expectPartialRevert(RewardDistributor.NothingToClaim.selector);
        distributor.claim(user, 40 * TOKEN, none);
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(user, 41 * TOKEN, none);
        vm.expectPartialRevert(RewardDistributor.InvalidProof.selector);
        distributor.claim(payee, 40 * TOKEN, none);
        _postRoot(1, _leaf(user, 100 * TOKEN), 60 * TOKEN);
        distributor.claim(user, 100 * TOKEN, none);
        assertEq(token.balanceOf(user), 100 * TOKEN, "second");
    }

    function testClaimsNeverExceedWhatWasFunded() public {
        _postRoot(0, _leaf(user, 50 * TOKEN), 40 * TOKEN); // a root that promises more than the epoch paid
        vm.expectPartialRevert(RewardDistributor.ClaimAboveFunded.selector);
        distributor.claim(user, 50 * TOKEN, new bytes32[](0));
    }

    function testOnlyTheEpochManagerPostsAndNeverAboveTheSubsidy() public {
        vm.expectPartialRevert(RewardDistributor.NotTheEpochManager.selector);
        distributor.postEpoch(0, 0, 1);
        vm.prank(address(epochs));
        vm.expectPartialRevert(RewardDistributor.RewardAboveSubsidy.selector);
        distributor.postEpoch(0, 0, SUBSIDY + 1);
        vm.prank(address(epochs));
        vm.expectPartialRevert(RewardDistributor.RewardAboveSubsidy.selector);
        distributor.postEpoch(100, 0, SUBSIDY / 2 + 1);
    }

    function testFuzzTheSubsidyHalvesAndEndsAtNothing(uint64 epoch) public view {
        uint256 expected = epoch / 100 > 255 ? 0 : SUBSIDY >> (epoch / 100);
        assertEq(distributor.subsidy(epoch), expected, "subsidy");
    }

    function testSubsidiesThatDoNotFitUnderTheCapAreRefused() public {
        vm.expectPartialRevert(RewardDistributor.SubsidiesExceedCap.selector);
        new RewardDistributor(token, SUPPLY, 100);
    }

    function testAnAddressBookNamesContractsOnly() public {
        AddressBook.Addresses memory addresses = book.addresses();
        assertEq(addresses.paymentChannels, address(channels), "channels");
        addresses.paymentChannels = user;
        vm.expectPartialRevert(AddressBook.ContractMissing.selector);
        new AddressBook(addresses);
    }
}
