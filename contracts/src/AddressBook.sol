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
        address slashing;
        address accessVault;
    }

    /// @notice Block of this book's deployment, the last of the network's contracts.
    uint256 public immutable deploymentBlock;
    Addresses private _addresses;

    event NetworkDeployed(Addresses addresses);

    error ContractMissing(string name, address account);

    constructor(Addresses memory addresses_) {
        _requireCode("token", addresses_.token);
        _requireCode("modelRegistry", addresses_.modelRegistry);
        _requireCode("participantRegistry", addresses_.participantRegistry);
        _requireCode("epochManager", addresses_.epochManager);
        _requireCode("rewardDistributor", addresses_.rewardDistributor);
        _requireCode("paymentChannels", addresses_.paymentChannels);
        _requireCode("inferenceCoordinator", addresses_.inferenceCoordinator);
        _requireCode("slashing", addresses_.slashing);
        _requireCode("accessVault", addresses_.accessVault);
        deploymentBlock = block.number;
        _addresses = addresses_;
        emit NetworkDeployed(addresses_);
    }

    /// @notice All addresses of the network.
    function addresses() external view returns (Addresses memory) {
        return _addresses;
    }

    function _requireCode(string memory name, address account) private view {
        if (account.code.length == 0) revert ContractMissing(name, account);
    }
}
