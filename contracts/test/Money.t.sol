// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {AddressBook} from "../src/AddressBook.sol";
import {PaymentChannels} from "../src/PaymentChannels.sol";
import {QuernToken} from "../src/QuernToken.sol";
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

    function testSeveralVouchersAreRedeemedTogetherOrNotAtAll() public {
        _deposit(10 * TOKEN);
        PaymentChannels.Redemption[] memory batch = new PaymentChannels.Redemption[](2);
        batch[0] = PaymentChannels.Redemption(payer, payee, TOKEN, 0, _voucher(TOKEN));
        batch[1] = PaymentChannels.Redemption(payer, payee, 3 * TOKEN, 0, _voucher(3 * TOKEN));
        channels.redeemMany(batch);
        assertEq(token.balanceOf(payee), 3 * TOKEN, "both");
        batch[1].cumulative = 4 * TOKEN; // not what was signed
        batch[0] = PaymentChannels.Redemption(payer, payee, 5 * TOKEN, 0, _voucher(5 * TOKEN));
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        channels.redeemMany(batch);
        assertEq(token.balanceOf(payee), 3 * TOKEN, "all or nothing");
    }

    function testADepositMayBringItsAllowanceAlong() public {
        vm.prank(payer);
        token.approve(address(channels), 0);
        bytes32 permitHash = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                payer,
                address(channels),
                5 * TOKEN,
                token.nonces(payer),
                block.timestamp
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), permitHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(PAYER_KEY, digest);
        token.permit(payer, address(channels), 5 * TOKEN, block.timestamp, v, r, s); // somebody was faster
        vm.prank(payer);
        channels.depositWithPermit(payee, 5 * TOKEN, block.timestamp, v, r, s);
        assertEq(channels.getChannel(payer, payee).deposited, 5 * TOKEN, "deposited");
    }

    function testAnEmptyChannelHasNothingToWithdraw() public {
        vm.prank(payer);
        vm.expectPartialRevert(PaymentChannels.NothingToWithdraw.selector);
        channels.requestWithdraw(payee);
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

    function testVotesFollowTheTokenAndCountOnceDelegated() public {
        assertEq(token.getVotes(payer), 0, "not delegated");
        vm.prank(payer);
        token.delegate(payer);
        assertEq(token.getVotes(payer), 100 * TOKEN, "delegated");
        vm.prank(payer);
        token.transfer(payee, 40 * TOKEN);
        assertEq(token.getVotes(payer), 60 * TOKEN, "moved");
    }

    function testAnAddressBookNamesContractsOnly() public {
        AddressBook.Addresses memory addresses = book.addresses();
        assertEq(addresses.paymentChannels, address(channels), "channels");
        addresses.paymentChannels = user;
        vm.expectPartialRevert(AddressBook.ContractMissing.selector);
        new AddressBook(addresses);
    }
}
