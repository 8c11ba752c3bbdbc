// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Sets of weighted validators, kept as contract code (SSTORE2): cheap to write, cheaper to read.
/// @dev The wire form is packed entries (20-byte account, 8-byte weight), ascending by account. The stored form has the
/// running sum of weights in place of the weight, so that both look-ups are binary searches.
library ValidatorSets {
    uint256 internal constant ENTRY_BYTES = 28;
    /// @dev 512 entries are 14,336 bytes: below the 24,576 bytes a contract's code may have.
    uint256 internal constant MEMBERS_MAX = 512;

    error ValidatorSetLength(uint256 length);
    error ValidatorSetOrder(uint256 index);
    error ValidatorWeightZero(uint256 index);
    error StoreFailed();

    /// @notice Check a packed set; return its stored form and the sum of its weights.
    /// @dev Works in place: `cumulative` is `packed` itself, rewritten.
    function accumulate(bytes memory packed) internal pure returns (bytes memory cumulative, uint256 totalWeight) {
        uint256 length = packed.length;
        if (length == 0 || length % ENTRY_BYTES != 0 || length > MEMBERS_MAX * ENTRY_BYTES) {
            revert ValidatorSetLength(length);
        }
        cumulative = packed;
        address previous;
        for (uint256 index; index < length / ENTRY_BYTES; ++index) {
            address account = _accountAt(cumulative, index);
            uint256 weight = _sumAt(cumulative, index); // still the weight itself
            if (account <= previous) revert ValidatorSetOrder(index);
            if (weight == 0) revert ValidatorWeightZero(index);
            previous = account;
            totalWeight += weight;
            _writeSum(cumulative, index, totalWeight);
        }
        // The running sum is 64 bits wide: more would wrap and must not be stored.
        if (totalWeight > type(uint64).max) revert ValidatorSetLength(length);
    }

    /// @notice Store a set as code and return where.
    function store(bytes memory cumulative) internal returns (address pointer) {
        // Creation code: return everything after its own 10 bytes. The stored code begins with STOP, so nobody can run it.
        bytes memory creation =
            abi.encodePacked(hex"61", uint16(cumulative.length + 1), hex"80600a3d393df3", hex"00", cumulative);
        assembly ("memory-safe") {
            pointer := create(0, add(creation, 32), mload(creation))
        }
        if (pointer == address(0)) revert StoreFailed();
    }

    /// @notice Read a stored set.
    function load(address pointer) internal view returns (bytes memory cumulative) {
        uint256 length = pointer.code.length;
        if (length < 2) return cumulative;
        cumulative = new bytes(length - 1);
        assembly ("memory-safe") {
            extcodecopy(pointer, add(cumulative, 32), 1, sub(length, 1))
        }
    }

    /// @notice Number of members.
    function count(bytes memory cumulative) internal pure returns (uint256) {
        return cumulative.length / ENTRY_BYTES;
    }

    /// @notice Sum of all weights.
    function total(bytes memory cumulative) internal pure returns (uint256) {
        uint256 members = count(cumulative);
        return members == 0 ? 0 : _sumAt(cumulative, members - 1);
    }

    /// @notice Account and weight of member `index`.
    function at(bytes memory cumulative, uint256 index) internal pure returns (address account, uint256 weight) {
        account = _accountAt(cumulative, index);
        weight = _sumAt(cumulative, index) - (index == 0 ? 0 : _sumAt(cumulative, index - 1));
    }

    /// @notice Weight of `account`; zero if it is not a member.
    function weightOf(bytes memory cumulative, address account) internal pure returns (uint256) {
        uint256 low;
        uint256 high = count(cumulative);
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (_accountAt(cumulative, middle) < account) low = middle + 1;
            else high = middle;
        }
        if (low == count(cumulative) || _accountAt(cumulative, low) != account) return 0;
        (, uint256 weight) = at(cumulative, low);
        return weight;
    }

    /// @notice The member on whose share `point` (below the total) falls: a weighted draw.
    function memberAt(bytes memory cumulative, uint256 point) internal pure returns (address) {
        uint256 low;
        uint256 high = count(cumulative) - 1;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (_sumAt(cumulative, middle) <= point) low = middle + 1;
            else high = middle;
        }
        return _accountAt(cumulative, low);
    }

    function _writeSum(bytes memory data, uint256 index, uint256 value) private pure {
        assembly ("memory-safe") {
            let slot := add(add(data, 52), mul(index, 28))
            let kept := and(mload(slot), 0x0000000000000000ffffffffffffffffffffffffffffffffffffffffffffffff)
            mstore(slot, or(shl(192, value), kept))
        }
    }

    function _accountAt(bytes memory cumulative, uint256 index) private pure returns (address account) {
        assembly ("memory-safe") {
            account := shr(96, mload(add(add(cumulative, 32), mul(index, 28))))
        }
    }

    function _sumAt(bytes memory cumulative, uint256 index) private pure returns (uint256 sum) {
        assembly ("memory-safe") {
            sum := shr(192, mload(add(add(cumulative, 52), mul(index, 28))))
        }
    }
}
