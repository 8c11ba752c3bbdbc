// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {ERC20Wrapper} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Wrapper.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title The network's token as votes: one for one, wrapped to vote and unwrapped at any time.
/// @notice Apart from QuernToken, because keeping count of votes would make every payment in the network dearer. Votes
/// count once their holder has delegated them, to itself or to another.
contract VotingQuern is ERC20, ERC20Permit, ERC20Votes, ERC20Wrapper {
    constructor(IERC20 quernToken) ERC20("Voting Quern", "vQRN") ERC20Permit("Voting Quern") ERC20Wrapper(quernToken) {}

    /// @notice As the wrapped token.
    function decimals() public view override(ERC20, ERC20Wrapper) returns (uint8) {
        return super.decimals();
    }

    /// @notice The next nonce of `owner` for permits (ERC-2612) and delegations by signature.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
