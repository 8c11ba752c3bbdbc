// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {EpochSegments} from "./EpochSegments.sol";

/// @title When commitments are taken: of a segment of epochs and the one scheduled after it, packed into one word.
/// @dev From the lowest bit: the offsets of GENERATE, VALIDATE and FORM and the length of an epoch (20 bits each), the same
/// of the next segment, the first block (40), the first epoch (28) and that of the next segment (28; EPOCH_MAX if none is
/// scheduled). It says nothing that the segments do not say. It is there so that a commitment reads one word whether a
/// change is scheduled, has begun or neither: every node pays for one in every epoch.
library CommitWindows {
    using EpochSegments for uint256;

    /// @dev Of seven blocks, each of a second, so many epochs last sixty years.
    uint256 internal constant EPOCH_MAX = (1 << 28) - 1;
    /// @notice From GENERATE until VALIDATE.
    uint256 internal constant PROOFS = 0;
    /// @notice From VALIDATE until FORM.
    uint256 internal constant VOTES = 1;
    uint256 private constant OFFSET_BITS = 20;
    uint256 private constant LENGTH_SHIFT = 60;
    uint256 private constant SEGMENT_BITS = 80;
    uint256 private constant FIRST_BLOCK_SHIFT = 160;
    uint256 private constant FIRST_EPOCH_SHIFT = 200;
    uint256 private constant NEXT_EPOCH_SHIFT = 228;

    /// @notice Pack the windows of `segment`, which has no end.
    function pack(uint256 segment) internal pure returns (uint256) {
        return _offsets(segment) | segment.firstBlock() << FIRST_BLOCK_SHIFT | segment.firstEpoch() << FIRST_EPOCH_SHIFT
            | EPOCH_MAX << NEXT_EPOCH_SHIFT;
    }

    /// @notice Pack the windows of `segment` and of `next`, which begins where it ends. Its first epoch must be below
    /// EPOCH_MAX.
    function pack(uint256 segment, uint256 next) internal pure returns (uint256) {
        return _offsets(segment) | _offsets(next) << SEGMENT_BITS | segment.firstBlock() << FIRST_BLOCK_SHIFT
            | segment.firstEpoch() << FIRST_EPOCH_SHIFT | next.firstEpoch() << NEXT_EPOCH_SHIFT;
    }

    /// @notice Whether `window` (PROOFS or VOTES) of `epoch` is open at `blockNumber`. Blocks before the first are in none.
    function isOpen(uint256 windows, uint256 blockNumber, uint256 epoch, uint256 window) internal pure returns (bool) {
        uint256 first = windows >> FIRST_BLOCK_SHIFT & EpochSegments.BLOCK_MAX;
        if (blockNumber < first) return false;
        unchecked {
            uint256 elapsed = blockNumber - first;
            uint256 length = windows >> LENGTH_SHIFT & EpochSegments.OFFSET_MAX;
            uint256 firstEpoch = windows >> FIRST_EPOCH_SHIFT & EPOCH_MAX;
            uint256 ahead = (windows >> NEXT_EPOCH_SHIFT) - firstEpoch;
            if (elapsed >= ahead * length) {
                elapsed -= ahead * length;
                firstEpoch += ahead;
                windows >>= SEGMENT_BITS;
                length = windows >> LENGTH_SHIFT & EpochSegments.OFFSET_MAX;
            }
            if (firstEpoch + elapsed / length != epoch) return false;
            uint256 offset = elapsed % length;
            windows >>= window * OFFSET_BITS;
            return (windows & EpochSegments.OFFSET_MAX) <= offset
                && offset < (windows >> OFFSET_BITS & EpochSegments.OFFSET_MAX);
        }
    }

    function _offsets(uint256 segment) private pure returns (uint256) {
        return segment.offsetOf(1) | segment.offsetOf(3) << OFFSET_BITS | segment.offsetOf(5) << 2 * OFFSET_BITS
            | segment.length() << LENGTH_SHIFT;
    }
}
