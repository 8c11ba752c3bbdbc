"""Whatever sources do and however a tree is cut: what is asked for comes once, whole and in its place, or is named."""

import hashlib
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.retrieval.directory import DirectoryFetch
from p2p.content.retrieval.race import BlockRace
from p2p.content.source import Rank, SourceFailedError
from p2p.content.unixfs_import import Layout, import_path
from tests.unit.content.blocks import handle_each

BLOCKS = {Cid.of(Codec.RAW, data): data for data in (hashlib.sha256(bytes([n])).digest() for n in range(40))}
CIDS = list(BLOCKS)
SESSION_SECONDS_MAX = 20.0

names = st.text(alphabet="abcé .", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
trees = st.recursive(
    st.binary(max_size=40) | st.sampled_from([b"", b"same bytes, same bytes, same"]),
    lambda below: st.dictionaries(names, below, max_size=4),
    max_leaves=12,
)


def write(tree: object, path: Path) -> None:
    if isinstance(tree, dict):
        path.mkdir()
        for name, below in tree.items():
            write(below, path / name)
    else:
        assert isinstance(tree, bytes)
        path.write_bytes(tree)


def read(path: Path) -> object:
    if path.is_dir():
        return {below.name: read(below) for below in path.iterdir()}
    return path.read_bytes()


@given(tree=trees, chunk=st.integers(1, 9), width=st.integers(2, 4), stop_after=st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_a_tree_cut_in_any_way_comes_back_even_after_a_stop(
    tree: object, chunk: int, width: int, stop_after: int
) -> None:
    class StopError(Exception):
        pass

    def stop(held: int, _total: int | None) -> None:
        if held > stop_after:
            raise StopError

    async def fetch(store: BlockStore, root: Cid, out: Path) -> None:
        try:
            await DirectoryFetch(store, BlockRace(()), root, out, 10**6, stop).run()
        except StopError:
            assert not out.exists()
        await DirectoryFetch(store, BlockRace(()), root, out, 10**6).run()

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        write(tree, directory / "tree")
        store = BlockStore(directory / "store")
        root = import_path(directory / "tree", store.put, Layout(chunk, width)).cid
        trio.run(fetch, store, root, directory / "out")
        assert read(directory / "out") == read(directory / "tree")
        assert not [path for path in directory.iterdir() if path.name.startswith(".")]
        store.close()


class RandomSource:
    """Gives, lacks, lies, fails or stalls by its weights, decided by a seed."""

    def __init__(self, number: int, seed: int, weights: Sequence[int], rank: Rank) -> None:
        self.name = f"source {number}"
        self.rank = rank
        self.window = 3
        self._random = random.Random(seed)
        self._weights = weights

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        await trio.sleep(self._random.choice([0, 0, 0.001]))
        match self._random.choices(["give", "lack", "lie", "fail", "stall"], self._weights)[0]:
            case "give":
                return BLOCKS[cid]
            case "lack":
                return None
            case "lie":
                return b"lies"
            case "stall":
                await trio.sleep_forever()
        raise SourceFailedError("gone")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class RandomWithThreads(RandomSource):
    """The same with threads of its own; what happens to a block of several happens to those behind it."""

    threads = threads_max = 3

    async def handle(
        self, cids: Sequence[Cid], handle: Callable[[Cid, bytearray], None], *, bytes_max: int, seconds_max: float
    ) -> Sequence[Cid]:
        with trio.fail_after(seconds_max):
            return await handle_each(partial(self.get, bytes_max=bytes_max), cids, handle)

    def use_threads(self, count: int) -> None:
        self.threads = count

    def close(self) -> None:
        return None


behaviours = st.tuples(
    st.integers(0, 2**32),
    st.sampled_from(
        [(1, 0, 0, 0, 0), (5, 5, 0, 0, 0), (9, 1, 1, 1, 1), (0, 1, 0, 0, 0), (1, 0, 1, 0, 0), (9, 0, 0, 0, 1)]
    ),
    st.sampled_from(list(Rank)),
)


@example(  # once gave up a block twice, that had waited for two sources, and then waited for ever
    others=[
        (165, (9, 1, 1, 1, 1), Rank.BITSWAP),
        (257, (0, 1, 0, 0, 0), Rank.KUBO),
        (77, (9, 1, 1, 1, 1), Rank.KUBO),
        (262974, (9, 0, 0, 0, 1), Rank.KUBO),
    ],
    has_honest=False,
    threads=0,
)
@given(others=st.lists(behaviours, max_size=12), has_honest=st.booleans(), threads=st.integers(0, 2**12 - 1))
@settings(max_examples=40, deadline=None)
def test_a_race_ends_and_accounts_for_every_block_once(
    others: list[tuple[int, tuple[int, ...], Rank]], has_honest: bool, threads: int
) -> None:
    async def main() -> None:
        sources = [
            (RandomWithThreads if threads >> number & 1 else RandomSource)(number, *behaviour)
            for number, behaviour in enumerate(others)
        ]
        if has_honest:
            sources.append(RandomSource(len(sources), 0, (1, 0, 0, 0, 0), Rank.WEB))
        got: dict[Cid, bytes] = {}

        def deliver(cid: Cid, data: bytes | bytearray) -> None:
            assert cid not in got
            got[cid] = bytes(data)

        race = BlockRace(sources, block_seconds=0.1)
        with trio.fail_after(SESSION_SECONDS_MAX):
            missing = await race.run(CIDS, deliver)
        await race.aclose()
        assert len(missing) == len(set(missing))
        assert set(missing) | set(got) == set(CIDS)
        assert not set(missing) & set(got)
        assert all(got[cid] == BLOCKS[cid] for cid in got)
        if has_honest:
            assert not missing or race.counts.failed  # it may be too slow where the machine is

    trio.run(main)
