// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title A stretch of epochs of one length and one set of stages, packed into one word.
/// @dev From the lowest bit: the offsets of stages 1 to 6 and the length of an epoch (20 bits each), the first block (40),
/// the block at which the next segment begins (40), the first epoch (32). One word, because every commitment reads it.
library EpochSegments {
    /// @dev An epoch of more blocks has no room: 145 days of 12 seconds, three days of a quarter of a second.
    uint256 internal constant OFFSET_MAX = (1 << 20) - 1;
    uint256 internal constant BLOCK_MAX = (1 << 40) - 1;
    uint256 internal constant EPOCH_MAX = (1 << 32) - 1;
    uint256 internal constant STAGES = 7;
    uint256 private constant OFFSET_BITS = 20;
    uint256 private constant LENGTH_SHIFT = 120;
    uint256 private constant FIRST_BLOCK_SHIFT = 140;
    uint256 private constant END_BLOCK_SHIFT = 180;
    uint256 private constant FIRST_EPOCH_SHIFT = 220;

    /// @notice Pack a segment without an end. `offsets` are those of all stages, and the length of an epoch at their end;
    /// the caller has checked that they increase and that all fits.
    function pack(uint64[8] memory offsets, uint256 firstEpoch_, uint256 firstBlock_)
        internal
        pure
        returns (uint256 segment)
    {
        segment = firstEpoch_ << FIRST_EPOCH_SHIFT | BLOCK_MAX << END_BLOCK_SHIFT | firstBlock_ << FIRST_BLOCK_SHIFT;
        for (uint256 stage = 1; stage <= STAGES; ++stage) {
            segment |= uint256(offsets[stage]) << (stage - 1) * OFFSET_BITS;
        }
    }

    /// @notice The same segment, ending where `block_` begins; BLOCK_MAX is no end.
    function withEnd(uint256 segment, uint256 block_) internal pure returns (uint256) {
        return segment & ~(BLOCK_MAX << END_BLOCK_SHIFT) | block_ << END_BLOCK_SHIFT;
    }

    /// @notice Offset of a stage's first block from its epoch's; of stage 7, which is none, the length of an epoch.
    function offsetOf(uint256 segment, uint256 stage) internal pure returns (uint256) {
        return stage == 0 ? 0 : segment >> (stage - 1) * OFFSET_BITS & OFFSET_MAX;
    }

    /// @notice Blocks of an epoch.
    function length(uint256 segment) internal pure returns (uint256) {
        return segment >> LENGTH_SHIFT & OFFSET_MAX;
    }

    /// @notice The first block.
    function firstBlock(uint256 segment) internal pure returns (uint256) {
        return segment >> FIRST_BLOCK_SHIFT & BLOCK_MAX;
    }

    /// @notice The first block after it; BLOCK_MAX if none is known.
    function endBlock(uint256 segment) internal pure returns (uint256) {
        return segment >> END_BLOCK_SHIFT & BLOCK_MAX;
    }

    /// @notice The first epoch.
    function firstEpoch(uint256 segment) internal pure returns (uint256) {
        return segment >> FIRST_EPOCH_SHIFT & EPOCH_MAX;
    }

    /// @notice First block of `epoch`, which must not be before the segment's first.
    function blockOf(uint256 segment, uint256 epoch) internal pure returns (uint256) {
        return firstBlock(segment) + (epoch - firstEpoch(segment)) * length(segment);
    }
}
