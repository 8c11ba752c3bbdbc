// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

/// @title One-way payment channels with cumulative vouchers: one channel per payer and payee.
/// @notice A payee is safe as long as it redeems before an announced withdrawal unlocks; a payer is safe because only
/// its own signature moves its deposit, and what is not signed away comes back.
contract PaymentChannels is EIP712 {
    using SafeERC20 for IERC20;

    /// @dev `deposited` and `redeemed` only grow, but for withdrawals that bring `deposited` down to `redeemed`.
    struct Channel {
        uint128 deposited;
        uint128 redeemed;
        uint64 unlockTime;
    }

    /// @notice One voucher to redeem.
    struct Redemption {
        address payer;
        address payee;
        uint256 cumulative;
        bytes32 receiptsRoot;
        bytes signature;
    }

    bytes32 public constant VOUCHER_TYPEHASH =
        keccak256("Voucher(bytes32 channelId,uint256 cumulative,bytes32 receiptsRoot)");

    IERC20 public immutable token;
    /// @notice Seconds between announcing a withdrawal and making it: the payee's time to redeem.
    uint64 public immutable unlockSeconds;

    mapping(bytes32 channelId => Channel) private _channels;

    event ChannelFunded(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 amount, uint256 deposited
    );
    event VoucherRedeemed(
        bytes32 indexed channelId,
        address indexed payer,
        address indexed payee,
        uint256 amount,
        uint256 cumulative,
        bytes32 receiptsRoot
    );
    event WithdrawRequested(bytes32 indexed channelId, address indexed payer, address indexed payee, uint64 unlockTime);
    event ChannelWithdrawn(
        bytes32 indexed channelId, address indexed payer, address indexed payee, uint256 amount, uint256 deposited
    );

    error AmountZero();
    error WrongSigner(address recovered, address payer);
    error VoucherAboveDeposit(uint256 cumulative, uint256 deposited);
    error NothingToRedeem(uint256 cumulative, uint256 redeemed);
    error NothingToWithdraw();
    error NoWithdrawRequested();
    error StillLocked(uint64 unlockTime);

    constructor(IERC20 token_, uint64 unlockSeconds_) EIP712("Quern", "1") {
        token = token_;
        unlockSeconds = unlockSeconds_;
    }

    /// @notice Put `amount` into the caller's channel to `payee`. Takes back an announced withdrawal.
    function deposit(address payee, uint128 amount) external {
        _deposit(payee, amount);
    }

    /// @notice As `deposit`, with the allowance given by signature (ERC-2612).
    function depositWithPermit(address payee, uint128 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
    {
        // Somebody may have used the permit already: then the allowance stands, and that is all that matters.
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(payee, amount);
    }

    /// @notice Pay the payee of a voucher what is new in it. Anyone may call it.
    function redeem(Redemption calldata redemption) external {
        _redeem(redemption);
    }

    /// @notice Redeem several vouchers, all or nothing.
    function redeemMany(Redemption[] calldata redemptions) external {
        for (uint256 i; i < redemptions.length; ++i) {
            _redeem(redemptions[i]);
        }
    }

    /// @notice Announce that the caller will take back what is left in its channel to `payee`.
    function requestWithdraw(address payee) external {
        bytes32 id = channelId(msg.sender, payee);
        Channel storage channel = _channels[id];
        if (channel.deposited == channel.redeemed) revert NothingToWithdraw();
        channel.unlockTime = uint64(block.timestamp) + unlockSeconds;
        emit WithdrawRequested(id, msg.sender, payee, channel.unlockTime);
    }

    /// @notice Take back what is left, once unlocked.
    function withdraw(address payee) external {
        bytes32 id = channelId(msg.sender, payee);
        Channel storage channel = _channels[id];
        if (channel.unlockTime == 0) revert NoWithdrawRequested();
        if (block.timestamp < channel.unlockTime) revert StillLocked(channel.unlockTime);
        uint128 amount = channel.deposited - channel.redeemed;
        channel.deposited = channel.redeemed;
        channel.unlockTime = 0;
        emit ChannelWithdrawn(id, msg.sender, payee, amount, channel.deposited);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice A channel's state.
    function getChannel(address payer, address payee) external view returns (Channel memory) {
        return _channels[channelId(payer, payee)];
    }

    /// @notice Id of the one channel from `payer` to `payee`.
    function channelId(address payer, address payee) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), payer, payee));
    }

    /// @notice EIP-712 digest of a voucher.
    function hashVoucher(bytes32 id, uint256 cumulative, bytes32 receiptsRoot) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(VOUCHER_TYPEHASH, id, cumulative, receiptsRoot)));
    }

    function _deposit(address payee, uint128 amount) private {
        if (amount == 0) revert AmountZero();
        bytes32 id = channelId(msg.sender, payee);
        Channel storage channel = _channels[id];
        channel.deposited += amount;
        channel.unlockTime = 0;
        emit ChannelFunded(id, msg.sender, payee, amount, channel.deposited);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    function _redeem(Redemption calldata redemption) private {
        bytes32 id = channelId(redemption.payer, redemption.payee);
        bytes32 digest = hashVoucher(id, redemption.cumulative, redemption.receiptsRoot);
        address recovered = ECDSA.recoverCalldata(digest, redemption.signature);
        if (recovered != redemption.payer) revert WrongSigner(recovered, redemption.payer);
        Channel storage channel = _channels[id];
        if (redemption.cumulative > channel.deposited) {
            revert VoucherAboveDeposit(redemption.cumulative, channel.deposited);
        }
        if (redemption.cumulative <= channel.redeemed) {
            revert NothingToRedeem(redemption.cumulative, channel.redeemed);
        }
        uint256 amount = redemption.cumulative - channel.redeemed;
        // Not above the deposit, which is 128 bits wide.
        // forge-lint: disable-next-line(unsafe-typecast)
        channel.redeemed = uint128(redemption.cumulative);
        emit VoucherRedeemed(
            id, redemption.payer, redemption.payee, amount, redemption.cumulative, redemption.receiptsRoot
        );
        token.safeTransfer(redemption.payee, amount);
    }
}
