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

    function _voucher(uint256 cumulative) private view returns (PaymentChannels.Redemption memory) {
        bytes32 digest = channels.hashVoucher(channels.channelId(payer, payee), cumulative, bytes32(0));
        (bytes32 r, bytes32 vs) = _signShort(PAYER_KEY, digest);
        return PaymentChannels.Redemption(payer, cumulative, bytes32(0), r, vs);
    }

    function _redeem(address by, PaymentChannels.Redemption memory v) private {
        vm.prank(by);
        channels.redeem(v.payer, v.cumulative, v.receiptsRoot, v.r, v.vs);
    }

    /// @dev An external entrance, so that a revert of the redemption itself is what is expected.
    function redeem(address by, PaymentChannels.Redemption memory v) external {
        _redeem(by, v);
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
        _redeem(payee, _voucher(3 * TOKEN));
        assertEq(token.balanceOf(payee), 3 * TOKEN, "first");
        PaymentChannels.Redemption memory voucher1 = _voucher(3 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.NothingToRedeem.selector);
        this.redeem(payee, voucher1);
        PaymentChannels.Redemption memory voucher2 = _voucher(2 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.NothingToRedeem.selector);
        this.redeem(payee, voucher2);
        _redeem(payee, _voucher(10 * TOKEN));
        assertEq(token.balanceOf(payee), 10 * TOKEN, "all");
        PaymentChannels.Redemption memory voucher3 = _voucher(10 * TOKEN + 1);
        vm.expectPartialRevert(PaymentChannels.VoucherAboveDeposit.selector);
        this.redeem(payee, voucher3);
    }

    function testVouchersOfOthersAndOfOtherChannelsAreRefused() public {
        _deposit(10 * TOKEN);
        bytes32 digest = channels.hashVoucher(channels.channelId(payer, payee), TOKEN, 0);
        PaymentChannels.Redemption memory forged = _voucher(TOKEN);
        (forged.r, forged.vs) = _signShort(78, digest);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        this.redeem(payee, forged);
        PaymentChannels.Redemption memory voucher4 = _voucher(TOKEN);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        this.redeem(user, voucher4);
        PaymentChannels.Redemption memory other = _voucher(TOKEN);
        other.receiptsRoot = bytes32(uint256(1));
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        this.redeem(payee, other);
        PaymentChannels.Redemption memory genuine = _voucher(TOKEN);
        vm.chainId(999);
        vm.expectPartialRevert(PaymentChannels.WrongSigner.selector);
        this.redeem(payee, genuine);
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
        _redeem(payee, _voucher(4 * TOKEN)); // the payee's time to redeem
        vm.warp(block.timestamp + 1);
        vm.prank(payer);
        channels.withdraw(payee);
        assertEq(token.balanceOf(payer), 96 * TOKEN, "the rest came back");
        PaymentChannels.Redemption memory voucher5 = _voucher(5 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.VoucherAboveDeposit.selector);
        this.redeem(payee, voucher5);
        _deposit(TOKEN); // what was promised is owed again
        _redeem(payee, _voucher(5 * TOKEN));
        assertEq(token.balanceOf(payee), 5 * TOKEN, "paid late");
    }

    function testSeveralVouchersAreRedeemedTogetherOrNotAtAll() public {
        _deposit(10 * TOKEN);
        uint256 secondKey = 79;
        address second = vm.addr(secondKey);
        token.transfer(second, 5 * TOKEN);
        vm.prank(second);
        token.approve(address(channels), 5 * TOKEN);
        vm.prank(second);
        channels.deposit(payee, 5 * TOKEN);
        PaymentChannels.Redemption[] memory batch = new PaymentChannels.Redemption[](3);
        (batch[0], batch[1]) = (_voucher(TOKEN), _voucher(3 * TOKEN));
        bytes32 digest = channels.hashVoucher(channels.channelId(second, payee), 2 * TOKEN, 0);
        (bytes32 r, bytes32 vs) = _signShort(secondKey, digest);
        batch[2] = PaymentChannels.Redemption(second, 2 * TOKEN, 0, r, vs);
        channels.redeemMany(payee, batch); // by anyone, to the payee
        assertEq(token.balanceOf(payee), 5 * TOKEN, "all three");
        assertEq(channels.getChannel(second, payee).redeemed, 2 * TOKEN, "each in its channel");
        batch[0] = _voucher(5 * TOKEN);
        batch[1] = _voucher(6 * TOKEN);
        vm.expectPartialRevert(PaymentChannels.NothingToRedeem.selector);
        channels.redeemMany(payee, batch);
        assertEq(token.balanceOf(payee), 5 * TOKEN, "all or nothing");
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
        if (low > 0) _redeem(payee, _voucher(low));
        if (high > low) _redeem(payee, _voucher(high));
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

    function testAnAddressBookNamesContractsOnly() public {
        AddressBook.Addresses memory addresses = book.addresses();
        assertEq(addresses.paymentChannels, address(channels), "channels");
        addresses.paymentChannels = user;
        vm.expectPartialRevert(AddressBook.ContractMissing.selector);
        new AddressBook(addresses);
    }
}
