// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title One-way payment channels with cumulative vouchers: one channel per payer and payee.
/// @notice A payee is safe as long as it redeems before an announced withdrawal unlocks; a payer is safe because only
/// its own signature moves its deposit, and what is not signed away comes back. A channel never ends: a voucher that
/// was not redeemed before a withdrawal is owed again as soon as the payer deposits anew.
contract PaymentChannels is EIP712 {
    using SafeERC20 for IERC20;

    /// @notice A channel as `getChannel` shows it: totals over its life, in units of 10^-18, and when an announced
    /// withdrawal may be made (UNIX seconds; zero if none is announced).
    struct Channel {
        uint128 deposited;
        uint128 redeemed;
        uint64 unlockTime;
    }

    /// @dev One word. `redeemed` only grows and never exceeds `deposited`; withdrawals bring `deposited` down to it.
    struct Totals {
        uint128 deposited;
        uint128 redeemed;
    }

    struct StoredChannel {
        Totals totals;
        uint64 unlockTime;
    }

    /// @notice A voucher, its payer, and the payer's signature on it in the short form of ERC-2098.
    struct Redemption {
        address payer;
        uint256 cumulative;
        bytes32 receiptsRoot;
        bytes32 r;
        bytes32 vs;
    }

    bytes32 public constant VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 channelId,uint256 cumulative,bytes32 receiptsRoot)");

    IERC20 public immutable token;
    /// @notice Seconds between announcing a withdrawal and making it: the payee's time to redeem.
    uint64 public immutable unlockSeconds;

    mapping(bytes32 channelId => StoredChannel) private _channels;

    event ChannelFunded(bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 deposited);
    /// @notice The channel has paid `cumulative` in all; its payer and payee are those of its `ChannelFunded`.
    event VoucherRedeemed(bytes32 indexed channelId, uint256 cumulative);
    event WithdrawRequested(bytes32 indexed channelId, address indexed payer, address indexed payee, uint64 unlockTime);
    event ChannelWithdrawn(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 amount, uint256 deposited
    );

    error AmountZero();
    error InvalidPayee(address payee);
    error WrongSigner(address recovered, address payer);
    error VoucherAboveDeposit(bytes32 channelId, uint256 cumulative, uint256 deposited);
    error NothingToRedeem(bytes32 channelId, uint256 cumulative, uint256 redeemed);
    error NothingToWithdraw(bytes32 channelId);
    error WithdrawNotRequested(bytes32 channelId);
    error StillLocked(bytes32 channelId, uint64 unlockTime);

    constructor(IERC20 token_, uint64 unlockSeconds_) EIP712("Quern", "1") {
        token = token_;
        unlockSeconds = unlockSeconds_;
    }

    /// @notice Put `amount` into the caller's channel to `payee`. Takes back an announced withdrawal.
    function deposit(address payee, uint256 amount) external {
        _deposit(payee, amount);
    }

    /// @notice As `deposit`, with the allowance given by signature (ERC-2612).
    function depositWithPermit(address payee, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        // Somebody may have used the permit already: then the allowance stands, and that is all that matters.
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(payee, amount);
    }

    /// @notice Pay the caller what is new in a voucher.
    /// @param cumulative All that the voucher promises over the channel's life; reverts if it exceeds the deposits.
    /// @param r First half of the payer's signature on `hashVoucher`, in the short form of ERC-2098.
    /// @param vs Second half.
    function redeem(address payer, uint256 cumulative, bytes32 receiptsRoot, bytes32 r, bytes32 vs) external {
        token.safeTransfer(msg.sender, _redeem(payer, msg.sender, cumulative, receiptsRoot, r, vs));
    }

    /// @notice Pay `payee` what is new in several vouchers, in one transfer; all or nothing. Anyone may call it.
    function redeemMany(address payee, Redemption[] calldata redemptions) external {
        uint256 sum;
        for (uint256 i; i < redemptions.length; ++i) {
            Redemption calldata r = redemptions[i];
            sum += _redeem(r.payer, payee, r.cumulative, r.receiptsRoot, r.r, r.vs);
        }
        token.safeTransfer(payee, sum);
    }

    /// @notice Announce that the caller will take back what is left in its channel to `payee`.
    function requestWithdraw(address payee) external {
        bytes32 id = channelId(msg.sender, payee);
        StoredChannel storage channel = _channels[id];
        if (channel.totals.deposited == channel.totals.redeemed) revert NothingToWithdraw(id);
        channel.unlockTime = uint64(block.timestamp) + unlockSeconds;
        emit WithdrawRequested(id, msg.sender, payee, channel.unlockTime);
    }

    /// @notice Take back what is left, once unlocked.
    function withdraw(address payee) external {
        bytes32 id = channelId(msg.sender, payee);
        StoredChannel storage channel = _channels[id];
        if (channel.unlockTime == 0) revert WithdrawNotRequested(id);
        if (block.timestamp < channel.unlockTime) revert StillLocked(id, channel.unlockTime);
        Totals memory totals = channel.totals;
        uint128 amount = totals.deposited - totals.redeemed;
        totals.deposited = totals.redeemed;
        channel.totals = totals;
        channel.unlockTime = 0;
        emit ChannelWithdrawn(id, msg.sender, payee, amount, totals.deposited);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice A channel's state; all zero if it was never funded.
    function getChannel(address payer, address payee) external view returns (Channel memory) {
        StoredChannel memory channel = _channels[channelId(payer, payee)];
        return Channel(channel.totals.deposited, channel.totals.redeemed, channel.unlockTime);
    }

    /// @notice Id of the one channel from `payer` to `payee`.
    function channelId(address payer, address payee) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), payer, payee));
    }

    /// @notice EIP-712 digest of a voucher: what its payer signs.
    function hashVoucher(bytes32 id, uint256 cumulative, bytes32 receiptsRoot) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, id, cumulative, receiptsRoot)));
    }

    function _deposit(address payee, uint256 amount) private {
        if (amount == 0) revert AmountZero();
        if (payee == address(0) || payee == msg.sender) revert InvalidPayee(payee);
        bytes32 id = channelId(msg.sender, payee);
        StoredChannel storage channel = _channels[id];
        channel.totals.deposited += SafeCast.toUint128(amount);
        channel.unlockTime = 0;
        emit ChannelFunded(id, msg.sender, payee, channel.totals.deposited);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @dev Book a voucher; the caller transfers what it returns.
    function _redeem(address payer, address payee, uint256 cumulative, bytes32 receiptsRoot, bytes32 r, bytes32 vs)
        private
        returns (uint256 amount)
    {
        bytes32 id = channelId(payer, payee);
        // No voucher pays twice, so a second signature made from a first one (EIP-2) is as good and needs no check; nor
        // does the zero address, which is recovered from what is no signature and has deposited nothing.
        address recovered = ecrecover(
            hashVoucher(id, cumulative, receiptsRoot),
            uint8(uint256(vs) >> 255) + 27,
            r,
            bytes32(uint256(vs) & type(uint256).max >> 1)
        );
        if (recovered != payer) revert WrongSigner(recovered, payer);
        Totals storage totals = _channels[id].totals;
        (uint256 deposited, uint256 redeemed) = (totals.deposited, totals.redeemed);
        if (cumulative > deposited) revert VoucherAboveDeposit(id, cumulative, deposited);
        if (cumulative <= redeemed) revert NothingToRedeem(id, cumulative, redeemed);
        unchecked {
            amount = cumulative - redeemed; // just compared
        }
        totals.redeemed = uint128(cumulative); // at most `deposited`, which is as wide
        emit VoucherRedeemed(id, cumulative);
    }
}
