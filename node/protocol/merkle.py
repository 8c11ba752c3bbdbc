"""Merkle trees with sorted pairs, as OpenZeppelin's MerkleProof verifies them."""

from collections.abc import Callable, Sequence

from node.protocol.identifiers import ZERO_HASH, Hash32
from node.protocol.slices import ITEMS_PER_SLICE, Slices, finish

HashFunction = Callable[[bytes], bytes]
PROOF_LENGTH_MAX = 64
"""More levels than any tree that fits in memory; bounds the work a hostile proof can cause."""


def merkle_root(leaves: Sequence[Hash32], hash_function: HashFunction) -> Hash32:
    """Return the root over `leaves` in the order given; the root of nothing is 32 zero bytes."""
    if not leaves:
        return ZERO_HASH
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level, hash_function)
    return level[0]


class GrowingRoot:
    """Builds `merkle_root` leaf by leaf, in the memory of a few hashes."""

    def __init__(self, hash_function: HashFunction) -> None:
        self._hash_function = hash_function
        self._complete: list[Hash32 | None] = []
        """At each level, the complete subtree that still waits for its neighbour."""

    def add_leaf(self, leaf: Hash32) -> None:
        """Add the next leaf."""
        node = leaf
        for level, waiting in enumerate(self._complete):
            if waiting is None:
                self._complete[level] = node
                return
            self._complete[level] = None
            node = _parent(waiting, node, self._hash_function)
        self._complete.append(node)

    def root(self) -> Hash32:
        """Return the root over what was added so far."""
        last: Hash32 | None = None  # what has no neighbour moves up as it is
        for waiting in self._complete:
            if waiting is not None:
                last = waiting if last is None else _parent(waiting, last, self._hash_function)
        return ZERO_HASH if last is None else last


def merkle_proof(leaves: Sequence[Hash32], index: int, hash_function: HashFunction) -> tuple[Hash32, ...]:
    """Return the siblings from leaf `index` up to the root."""
    return merkle_path(merkle_levels(leaves, hash_function), index)


def merkle_levels(leaves: Sequence[Hash32], hash_function: HashFunction) -> list[list[Hash32]]:
    """Return the tree from the leaves up to the root: for whoever needs several proofs of it."""
    return finish(merkle_levels_in_slices(leaves, hash_function))


def merkle_levels_in_slices(leaves: Sequence[Hash32], hash_function: HashFunction) -> Slices[list[list[Hash32]]]:
    """Return `merkle_levels` in slices."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below, level = levels[-1], list[Hash32]()
        for start in range(0, len(below), 2 * ITEMS_PER_SLICE):
            level += _parents(below[start : start + 2 * ITEMS_PER_SLICE], hash_function)
            yield
        levels.append(level)
    return levels


def merkle_path(levels: Sequence[Sequence[Hash32]], index: int) -> tuple[Hash32, ...]:
    """Return the siblings from leaf `index` up to the root of a tree by `merkle_levels`."""
    if not 0 <= index < len(levels[0]):
        raise IndexError(f"leaf {index} of {len(levels[0])}")
    return tuple(level[index >> height ^ 1] for height, level in enumerate(levels) if index >> height ^ 1 < len(level))


def verify_merkle_proof(root: Hash32, leaf: Hash32, proof: Sequence[Hash32], hash_function: HashFunction) -> bool:
    """Whether `proof` leads from `leaf` to `root`."""
    if len(proof) > PROOF_LENGTH_MAX:
        return False
    node = leaf
    for sibling in proof:
        node = _parent(node, sibling, hash_function)
    return node == root


def _parents(level: Sequence[Hash32], hash_function: HashFunction) -> list[Hash32]:
    """Hash neighbours in pairs; a node without a neighbour moves up as it is."""
    pairs = [_parent(level[i], level[i + 1], hash_function) for i in range(0, len(level) - 1, 2)]
    return pairs + ([level[-1]] if len(level) % 2 else [])


def _parent(one: Hash32, other: Hash32, hash_function: HashFunction) -> Hash32:
    return Hash32(hash_function(min(one, other) + max(one, other)))
