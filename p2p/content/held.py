"""Whether a whole tree is held: its nodes are read and verified, its leaves only looked up. Blocking code."""

from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node

BLOCKS_MAX = 2_000_000
"""Looked at; a tree with more is taken for not held."""


def is_held(store: BlockStore, root: Cid) -> bool:
    """Whether every block below `root` is held, as far as sizes and time stamps tell (`quern content verify` reads)."""
    seen = {root}
    queue = [root]
    while queue:
        cid = queue.pop()
        if cid.codec is Codec.RAW:
            if not store.has(cid):
                return False
            continue
        try:
            block = store.read(cid)
        except BlockMissingError:
            return False
        if not cid.matches(block):
            return False
        for link in decode_node(block).links:
            if link.cid not in seen:
                seen.add(link.cid)
                queue.append(link.cid)
        if len(seen) > BLOCKS_MAX:
            return False
    return True
