"""Whatever is done to a store in whatever order, it holds exactly what a simple model of it holds."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2p.content.block_upkeep import CHANGED
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import Link, Node, encode_node
from p2p.content.unixfs import DIRECTORY_DATA

LEAVES = [(Cid.of(Codec.RAW, data), data) for data in (bytes([number]) * 100 for number in range(6))]
BLOCKS: dict[Cid, bytes] = dict(LEAVES)
for _below in ([0], [1, 2], [2, 3, 4]):
    _node = encode_node(
        Node(tuple(Link(LEAVES[index][0], str(index).encode(), 100) for index in _below), DIRECTORY_DATA)
    )
    BLOCKS[Cid.of(Codec.DAG_PB, _node)] = _node
NODES = [cid for cid in BLOCKS if cid.codec is Codec.DAG_PB]
_top = encode_node(Node(tuple(Link(cid, str(number).encode(), 0) for number, cid in enumerate(NODES)), DIRECTORY_DATA))
TOP = Cid.of(Codec.DAG_PB, _top)
BLOCKS[TOP] = _top
BELOW = {cid: [] for cid, _ in LEAVES} | {
    NODES[0]: [LEAVES[0][0]],
    NODES[1]: [LEAVES[1][0], LEAVES[2][0]],
    NODES[2]: [LEAVES[2][0], LEAVES[3][0], LEAVES[4][0]],
    TOP: NODES,
}

cids = st.sampled_from(list(BLOCKS))
names = st.sampled_from(["a", "b"])


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.now = 1_000_000.0
        self.store = self.open()
        self.own: set[Cid] = set()
        self.fetched: set[Cid] = set()
        self.files: dict[str, list[Cid]] = {}
        self.pins: set[tuple[Cid, str]] = set()

    def open(self) -> BlockStore:
        return BlockStore(self.directory / "store", clock=lambda: self.now)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    def in_files(self) -> set[Cid]:
        return {cid for leaves in self.files.values() for cid in leaves}

    def reached(self) -> tuple[set[Cid], bool]:
        """What the pins reach through nodes that are held, and whether one of those is missing."""
        reached: set[Cid] = set()
        missing = False
        queue = [root for root, _ in self.pins]
        while queue:
            cid = queue.pop()
            if cid in reached:
                continue
            reached.add(cid)
            if cid in self.own | self.fetched:
                queue += BELOW[cid]
            elif cid.codec is Codec.DAG_PB:
                missing = True
        return reached, missing

    @rule(cid=cids)
    def put(self, cid: Cid) -> None:
        assert self.store.put(cid.codec, BLOCKS[cid]) == cid
        self.own.add(cid)
        self.fetched.discard(cid)

    @rule(cid=cids)
    def put_verified(self, cid: Cid) -> None:
        self.store.put_verified(cid, BLOCKS[cid])
        if cid not in self.own | self.in_files():
            self.fetched.add(cid)

    @rule(cid=cids)
    def remove(self, cid: Cid) -> None:
        self.store.remove(cid)
        self.own.discard(cid)
        self.fetched.discard(cid)
        self.files = {name: [leaf for leaf in leaves if leaf != cid] for name, leaves in self.files.items()}

    @rule(cid=cids, name=names)
    def pin(self, cid: Cid, name: str) -> None:
        self.store.pin(cid, name)
        self.pins.add((cid, name))

    @rule(cid=cids, name=names)
    def unpin(self, cid: Cid, name: str) -> None:
        self.store.unpin(cid, name)
        self.pins.discard((cid, name))

    @rule(name=names, chosen=st.lists(st.sampled_from(LEAVES), max_size=4))
    def keep_in_place(self, name: str, chosen: list[tuple[Cid, bytes]]) -> None:
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.write_bytes(b"".join(data for _, data in chosen))
        self.store.reference_file(path, [(cid, number * 100, 100) for number, (cid, _) in enumerate(chosen)])
        self.files[name] = [cid for cid, _ in chosen]

    @rule(name=names)
    def delete_file(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)
        self.files.pop(name, None)

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.store.forget_files(self.directory / name)
        self.files.pop(name, None)

    @rule()
    def collect(self) -> None:
        reached, missing = self.reached()
        self.now += 10
        self.store.collect_garbage(grace_seconds=5)
        self.fetched &= reached
        if not missing:
            self.own &= reached
            self.files = {name: leaves for name, leaves in self.files.items() if reached.intersection(leaves)}

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        held = self.own | self.fetched | self.in_files()
        assert {cid for cid in BLOCKS if self.store.has(cid)} == held
        assert all(self.store.read(cid) == BLOCKS[cid] for cid in held)
        usage = self.store.usage()
        assert usage.blocks == len(self.own | self.fetched)
        assert usage.block_bytes == sum(len(BLOCKS[cid]) for cid in self.own | self.fetched)
        assert {(pin.root, pin.name) for pin in self.store.pins()} == self.pins

    @rule()
    def repair(self) -> None:
        for step in self.store.verify(remove=True):
            assert step.damage is None or step.damage.reason == CHANGED
        assert all(step.damage is None for step in self.store.verify())


StoreMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase
