// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Where everything is: one address configures a daemon.
/// @notice Immutable. A new version of a contract comes with a new book, so nobody can move funds by moving a pointer.
contract AddressBook {
    struct Addresses {
        address token;
        address modelRegistry;
        address participantRegistry;
        address epochManager;
        address rewardDistributor;
        address paymentChannels;
        address inferenceCoordinator;
    }

    /// @notice Block of deployment: nothing of the network happened before it.
    uint256 public immutable deploymentBlock;
    Addresses private _addresses;

    event NetworkDeployed(Addresses addresses);

    error MissingContract(address account);

    constructor(Addresses memory addresses_) {
        deploymentBlock = block.number;
        _check(addresses_.token);
        _check(addresses_.modelRegistry);
        _check(addresses_.participantRegistry);
        _check(addresses_.epochManager);
        _check(addresses_.rewardDistributor);
        _check(addresses_.paymentChannels);
        _check(addresses_.inferenceCoordinator);
        _addresses = addresses_;
        emit NetworkDeployed(addresses_);
    }

    /// @notice All addresses of the network.
    function addresses() external view returns (Addresses memory) {
        return _addresses;
    }

    function _check(address account) private view {
        if (account.code.length == 0) revert MissingContract(account);
    }
}
