// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Capped} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Capped.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title The network's token: pays for inference, and is earned by proved work. Wrapped (VotingQuern), it votes.
/// @notice Supply never exceeds the cap. Only one minter exists, set once: the RewardDistributor.
contract QuernToken is ERC20Capped, ERC20Burnable, ERC20Permit, Ownable2Step {
    /// @notice The only account that may mint; zero until set, unchangeable afterwards.
    address public minter;

    event MinterSet(address indexed minter);

    error MinterAlreadySet(address minter);
    error MinterHasNoCode(address account);
    error NotTheMinter(address caller);

    /// @param cap The most that can exist at once, in units of 10^-18.
    /// @param initialSupply Minted to `treasury` at once.
    constructor(uint256 cap, uint256 initialSupply, address treasury)
        ERC20("Quern", "QRN")
        ERC20Capped(cap)
        ERC20Permit("Quern")
        Ownable(msg.sender)
    {
        _mint(treasury, initialSupply);
    }

    /// @notice Name the minter, once and for all.
    function setMinter(address newMinter) external onlyOwner {
        if (minter != address(0)) revert MinterAlreadySet(minter);
        if (newMinter.code.length == 0) revert MinterHasNoCode(newMinter);
        minter = newMinter;
        emit MinterSet(newMinter);
    }

    /// @notice Mint `amount` to `account`; only the minter may, and never above the cap.
    function mint(address account, uint256 amount) external {
        if (msg.sender != minter) revert NotTheMinter(msg.sender);
        _mint(account, amount);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Capped) {
        super._update(from, to, value);
    }
}
