// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Sets of weighted validators, kept as contract code (SSTORE2): cheap to write, cheaper to read.
/// @dev The packed form, which is what its hash is taken of, has entries of 20 bytes of account and 8 bytes of
/// big-endian weight, ascending by account. The stored form has the running sum of weights in place of the weight, so
/// that looking up an account and drawing by weight are both binary searches.
library ValidatorSets {
    uint256 internal constant ENTRY_BYTES = 28;
    /// @dev 512 entries are 14,336 bytes: below the 24,576 bytes that a contract's code may have.
    uint256 internal constant MEMBERS_MAX = 512;

    error ValidatorSetLength(uint256 length);
    error ValidatorSetOrder(uint256 index);
    error ValidatorWeightZero(uint256 index);
    error TotalWeightTooLarge(uint256 totalWeight);
    error StoreFailed();

    /// @notice Check a packed set; return its stored form and the sum of its weights.
    /// @dev Works in place: `packed` itself is rewritten and returned.
    function accumulate(bytes memory packed) internal pure returns (bytes memory cumulative, uint256 totalWeight) {
        uint256 length = packed.length;
        if (length == 0 || length % ENTRY_BYTES != 0 || length > MEMBERS_MAX * ENTRY_BYTES) {
            revert ValidatorSetLength(length);
        }
        cumulative = packed;
        address previous;
        for (uint256 index; index < length / ENTRY_BYTES; ++index) {
            address account = _accountAt(cumulative, index);
            uint256 weight = _numberAt(cumulative, index);
            if (account <= previous) revert ValidatorSetOrder(index);
            if (weight == 0) revert ValidatorWeightZero(index);
            previous = account;
            totalWeight += weight;
            _writeNumber(cumulative, index, totalWeight);
        }
        // The running sum is 64 bits wide. Sums only grow, so checking the last one checks them all.
        if (totalWeight > type(uint64).max) revert TotalWeightTooLarge(totalWeight);
    }

    /// @notice The packed form of a stored set.
    /// @dev Works in place: `cumulative` itself is rewritten and returned.
    function pack(bytes memory cumulative) internal pure returns (bytes memory packed) {
        uint256 index = count(cumulative);
        packed = cumulative;
        while (index > 1) {
            --index;
            _writeNumber(packed, index, _numberAt(packed, index) - _numberAt(packed, index - 1));
        }
    }

    /// @notice Store a set as code and return where.
    function store(bytes memory cumulative) internal returns (address pointer) {
        // Creation code: PUSH2 length, DUP1, PUSH1 10, RETURNDATASIZE (0), CODECOPY, RETURNDATASIZE (0), RETURN.
        // It returns all that follows it. The stored code begins with STOP, so that nobody can run it.
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
        assembly ("memory-safe") {
            // As `new bytes` would, but for the zeros that it writes first.
            cumulative := mload(0x40)
            let size := sub(length, 1)
            mstore(0x40, and(add(add(cumulative, size), 63), not(31)))
            mstore(cumulative, size)
            extcodecopy(pointer, add(cumulative, 32), 1, size)
        }
    }

    /// @notice Sum of the weights of a stored set, read without the rest of it.
    function totalAt(address pointer) internal view returns (uint256 sum) {
        uint256 length = pointer.code.length;
        if (length <= ENTRY_BYTES) return 0;
        assembly ("memory-safe") {
            mstore(0, 0)
            extcodecopy(pointer, 24, sub(length, 8), 8)
            sum := mload(0)
        }
    }

    /// @notice Number of members.
    function count(bytes memory cumulative) internal pure returns (uint256) {
        return cumulative.length / ENTRY_BYTES;
    }

    /// @notice Sum of all weights.
    function total(bytes memory cumulative) internal pure returns (uint256) {
        uint256 members = count(cumulative);
        return members == 0 ? 0 : _numberAt(cumulative, members - 1);
    }

    /// @notice Account and weight of member `index`, which must be below `count`.
    function entryAt(bytes memory cumulative, uint256 index) internal pure returns (address account, uint256 weight) {
        account = _accountAt(cumulative, index);
        weight = _numberAt(cumulative, index) - (index == 0 ? 0 : _numberAt(cumulative, index - 1));
    }

    /// @notice Weight of `account`; zero if it is not a member.
    function weightOf(bytes memory cumulative, address account) internal pure returns (uint256 weight) {
        uint256 members = count(cumulative);
        uint256 low;
        uint256 high = members;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (_accountAt(cumulative, middle) < account) low = middle + 1;
            else high = middle;
        }
        if (low < members && _accountAt(cumulative, low) == account) (, weight) = entryAt(cumulative, low);
    }

    /// @notice The member on whose share `point` falls; `point` must be below `total`. A weighted draw.
    function memberAt(bytes memory cumulative, uint256 point) internal pure returns (address) {
        uint256 low;
        uint256 high = count(cumulative) - 1;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (_numberAt(cumulative, middle) <= point) low = middle + 1;
            else high = middle;
        }
        return _accountAt(cumulative, low);
    }

    function _accountAt(bytes memory set, uint256 index) private pure returns (address account) {
        assembly ("memory-safe") {
            account := shr(96, mload(add(add(set, 32), mul(index, 28))))
        }
    }

    /// @dev Reads the word that ends where the entry ends: its last 8 bytes are the number.
    function _numberAt(bytes memory set, uint256 index) private pure returns (uint256 value) {
        assembly ("memory-safe") {
            value := and(mload(add(set, mul(add(index, 1), 28))), 0xffffffffffffffff)
        }
    }

    /// @dev Rewrites the last 8 bytes of the same word; a value beyond 64 bits loses its high part.
    function _writeNumber(bytes memory set, uint256 index, uint256 value) private pure {
        assembly ("memory-safe") {
            let word := add(set, mul(add(index, 1), 28))
            mstore(word, or(and(mload(word), not(0xffffffffffffffff)), and(value, 0xffffffffffffffff)))
        }
    }
}
