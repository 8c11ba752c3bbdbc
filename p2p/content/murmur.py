"""MurmurHash3 x64, the first 64 of its 128 bits, seed 0: what HAMT directories place names by. Not for security."""

_MASK = 0xFFFFFFFFFFFFFFFF
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F
_BLOCK_BYTES = 16


def murmur3_64(data: bytes) -> int:
    """Return the hash; its eight bytes, big-endian, are what other IPFS software consumes from the left."""
    first = second = 0
    whole = len(data) - len(data) % _BLOCK_BYTES
    for start in range(0, whole, _BLOCK_BYTES):
        first ^= _scramble_first(int.from_bytes(data[start : start + 8], "little"))
        first = _rotate(first, 27) + second & _MASK
        first = first * 5 + 0x52DCE729 & _MASK
        second ^= _scramble_second(int.from_bytes(data[start + 8 : start + 16], "little"))
        second = _rotate(second, 31) + first & _MASK
        second = second * 5 + 0x38495AB5 & _MASK
    rest = data[whole:]
    # Nothing left scrambles to zero, so that no case is needed for it.
    second ^= _scramble_second(int.from_bytes(rest[8:], "little"))
    first ^= _scramble_first(int.from_bytes(rest[:8], "little"))
    first ^= len(data)
    second ^= len(data)
    first = first + second & _MASK
    second = second + first & _MASK
    return _finish(first) + _finish(second) & _MASK


def _scramble_first(word: int) -> int:
    return _rotate(word * _C1 & _MASK, 31) * _C2 & _MASK


def _scramble_second(word: int) -> int:
    return _rotate(word * _C2 & _MASK, 33) * _C1 & _MASK


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK


def _finish(word: int) -> int:
    word ^= word >> 33
    word = word * 0xFF51AFD7ED558CCD & _MASK
    word ^= word >> 33
    word = word * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
