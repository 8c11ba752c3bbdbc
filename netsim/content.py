"""The Content port of simulated nodes: bytes by CID, fetched from whoever holds them, in the time that takes."""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import trio

from netsim.ticks import sleep
from netsim.trace import Trace
from node.ports import BadContentError, ContentUnavailableError, Provider
from node.protocol.cids import cid_from_bytes
from node.protocol.identifiers import Cid, EpochNumber

BYTES_PER_SECOND = 50_000_000
"""A modest link; with ROUND_TRIP_SECONDS it sets how long a fetch takes."""
ROUND_TRIP_SECONDS = 0.05


class ContentExchange:
    """Who can be asked for content: content ports of all nodes by (host, port)."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.stores: dict[tuple[str, int], SimulatedContent] = {}


class SimulatedContent:
    """One node's content store."""

    def __init__(self, exchange: ContentExchange, host: str, port: int) -> None:
        self._exchange = exchange
        self._blocks: dict[Cid, bytes] = {}
        self._own: set[Cid] = set()
        self._kept: dict[Cid, int] = {}
        """By content, the last epoch for which it is kept."""
        self.withhold = False
        """A hostile node's switch: keep content to oneself."""
        self.hidden: set[Cid] = set()
        """Likewise, for some contents only."""
        self._place = host, port
        self.open()

    def open(self) -> None:
        """Let others fetch from here."""
        self._exchange.stores[self._place] = self

    def close(self) -> None:
        """Be gone for others; what is held stays."""
        self._exchange.stores.pop(self._place, None)

    @property
    def blocks(self) -> Mapping[Cid, bytes]:
        """All that is held here."""
        return self._blocks

    async def add_bytes(self, data: bytes) -> Cid:
        """Keep `data` under its CID (CIDv1, raw, SHA-256)."""
        await trio.lowlevel.checkpoint()
        cid = cid_from_bytes(b"\x01\x55\x12\x20" + hashlib.sha256(data).digest())
        self._blocks[cid] = data
        self._own.add(cid)
        return cid

    async def keep(self, cid: Cid, until: EpochNumber) -> None:
        """Hold `cid` through epoch `until`."""
        await trio.lowlevel.checkpoint()
        if cid in self._blocks:
            self._kept[cid] = max(until, self._kept.get(cid, 0))

    async def forget(self, epoch: EpochNumber, named: Collection[Cid]) -> None:
        """Remove what was kept until an epoch before `epoch`, and of `named` what was fetched and is not kept."""
        await trio.lowlevel.checkpoint()
        over = {cid for cid, until in self._kept.items() if until < epoch}
        for cid in over:
            del self._kept[cid]
        for cid in over | {cid for cid in named if cid not in self._kept and cid not in self._own}:
            self._blocks.pop(cid, None)
            self._own.discard(cid)

    async def has(self, cid: Cid) -> bool:
        """Whether `cid` is held here."""
        await trio.lowlevel.checkpoint()
        return cid in self._blocks

    async def read_bytes(self, cid: Cid, providers: Sequence[Provider], *, limit_bytes: int) -> bytes:
        """Return the bytes of `cid`, from here or from the first provider that gives them."""
        if cid not in self._blocks:
            self._blocks[cid] = await self._fetch(cid, providers)
        data = self._blocks[cid]
        if len(data) > limit_bytes:
            raise BadContentError(f"{cid} has {len(data)} bytes, over the limit of {limit_bytes}")
        await trio.lowlevel.checkpoint()
        return data

    async def _fetch(self, cid: Cid, providers: Sequence[Provider]) -> bytes:
        for provider in providers:
            other = self._exchange.stores.get((provider.host, provider.port))
            withheld = other is None or other.withhold or cid in other.hidden
            data = None if other is None or withheld else other._blocks.get(cid)
            await sleep(ROUND_TRIP_SECONDS + len(data or b"") / BYTES_PER_SECOND)
            if data is None:
                continue
            self._exchange.trace.record("fetched", cid, len(data))
            return data
        raise ContentUnavailableError(f"{cid}: none of {len(providers)} providers has it")
