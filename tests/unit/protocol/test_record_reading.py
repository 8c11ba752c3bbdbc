"""Long records of others are read field by field: as the codec reads them, in slices, and told of what is wrong."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol.canonical import encode
from node.protocol.canonical_reading import CanonicalReader
from node.protocol.codec import SchemaError, from_bytes, to_bytes, to_value
from node.protocol.record_reading import entries, every_list, read_record
from node.protocol.slices import finish


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("a leaf is not bad")


@dataclass(frozen=True, slots=True)
class Branch:
    leaves: tuple[Leaf, ...]
    pair: tuple[int, str] = (1, "x")


@dataclass(frozen=True, slots=True)
class Tree:
    branch: Branch
    names: tuple[str, ...]
    height: int | None = None

    def __post_init__(self) -> None:
        if self.height == 13:
            raise ValueError("no tree is so high")


leaves = st.lists(st.builds(Leaf, st.text(max_size=9).filter(lambda name: name != "bad")), max_size=40).map(tuple)
trees = st.builds(
    Tree,
    st.builds(Branch, leaves, st.tuples(st.integers(0, 9), st.text(max_size=9))),
    st.lists(st.text(max_size=9), max_size=40).map(tuple),
    st.none() | st.integers(0, 12),
)


def read(data: bytes, piece_bytes_max: int = 128) -> Tree:
    reader = CanonicalReader(data, "a tree", piece_bytes_max)
    tree = finish(read_record(reader, Tree, every_list(Tree)))
    reader.require_end()
    return tree


@given(trees, st.integers(40, 200))
def test_a_record_with_lists_in_records_is_what_the_codec_makes_of_it(tree: Tree, piece_bytes_max: int) -> None:
    assert read(to_bytes(tree), piece_bytes_max) == tree == from_bytes(Tree, to_bytes(tree))


def test_others_have_their_turn_after_each_piece() -> None:
    data = to_bytes(Tree(Branch((Leaf("x" * 50),) * 100), ("y" * 50,) * 100))
    turns = sum(1 for _ in read_record(CanonicalReader(data, "a tree", 128), Tree, every_list(Tree)))
    assert turns >= len(data) // 128


TREE = to_value(Tree(Branch((Leaf("a"),)), ("b",)))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({**TREE, "height": "x"}, "Tree.height: expected int, got str"),
        ({**TREE, "height": 13}, "Tree: no tree is so high"),
        ({**TREE, "branch": {"leaves": [{"name": "bad"}], "pair": [1, "x"]}}, "Leaf: a leaf is not bad"),
        ({**TREE, "branch": {"leaves": []}}, "Branch.pair: missing"),
        ({name: TREE[name] for name in ("branch", "names")}, "Tree.height: missing"),
        ({**TREE, "names": 7}, "no list of MessagePack"),
        ({**TREE, "names": ["a", 7]}, "str: expected str, got int"),
    ],
)
def test_what_is_wrong_is_told(value: dict[str, object], why: str) -> None:
    with pytest.raises(SchemaError, match=why):
        read(encode(value))


def test_what_is_no_field_is_ignored_or_read_by_its_part() -> None:
    assert read(encode({**TREE, "zeal": 1})) == read(encode(TREE))
    parts = {**every_list(Tree), "zeal": entries(int, 2, "zeals")}
    odd = encode({**TREE, "zeal": [1, 2, 3]})
    with pytest.raises(SchemaError, match="3 zeals, at most 2"):
        finish(read_record(CanonicalReader(odd, "a tree", 128), Tree, parts))
