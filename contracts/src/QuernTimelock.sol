// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";

/// @title Owner of the registries where governance is by vote: executes what the Governor decided, after a delay.
/// @notice OpenZeppelin's TimelockController. The deployer is its administrator only until it has made the Governor its
/// proposer, and renounces (scripts/deploy.py); anyone may execute what is due.
contract QuernTimelock is TimelockController {
    constructor(uint256 delaySeconds, address[] memory proposers, address[] memory executors, address admin)
        TimelockController(delaySeconds, proposers, executors, admin)
    {}
}
