"""The operator's own Kubo, over its RPC: a source of blocks, and a place that keeps published ones.

ipfshttpclient is synchronous, so that every call runs in a worker thread of a small pool with time-outs. Its `connect`
refuses every Kubo of the last years for its version: the client is built without it, and uses calls that have not
changed.
"""

import io
from collections.abc import Callable
from typing import Any

import ipfshttpclient
import structlog
import trio
from ipfshttpclient import exceptions

from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from p2p.content.source import Rank, SourceFailedError

log = structlog.get_logger(__name__)

WINDOW = 4
"""Calls in flight, and threads that wait for Kubo at most."""
CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 20.0
"""For a block: Kubo may have to find it first, and is not to be taken for a staller. Threads given up end by then."""
PIN_SECONDS_MAX = 600.0
"""Kubo walks the whole tree."""
CODEC_NAMES = {Codec.RAW: "raw", Codec.DAG_PB: "dag-pb"}


class KuboError(Exception):
    """Kubo cannot be reached, or does not do what it is asked; says what to do."""


class Kubo:
    """An RPC endpoint such as `/ip4/127.0.0.1/tcp/5001`. Only its operator may reach it: it has no password."""

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            self._client: Any = ipfshttpclient.Client(address, session=True, timeout=_timeout(ANSWER_SECONDS_MAX))
        except Exception as error:  # addresses are parsed by a library without a common base of its errors
            raise KuboError(f"[content] kubo_api {address!r} is no address such as /ip4/127.0.0.1/tcp/5001") from error
        self._threads = trio.CapacityLimiter(WINDOW)

    async def version(self) -> str:
        """Return Kubo's version: is it there? Raises KuboError."""
        told = await self._call(lambda: self._client.version(timeout=_timeout(CONNECT_SECONDS_MAX)))
        try:
            return str(told["Version"])[:64]
        except (KeyError, TypeError) as error:
            raise KuboError(f"what answers at {self.address} is not Kubo's RPC") from error

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return what Kubo calls `cid`, unverified; None if it finds it nowhere. Raises KuboError."""

        def read() -> bytes | None:
            try:
                with self._client.block.get(str(cid), stream=True) as pieces:
                    return _join(pieces, bytes_max)
            except (exceptions.ErrorResponse, exceptions.TimeoutError) as error:
                log.debug("kubo lacks a block", cid=str(cid), reason=str(error))
                return None

        found: bytes | None = await self._call(read)
        return found

    async def put(self, cid: Cid, data: bytes) -> None:
        """Have Kubo store a block. Raises KuboError, also if it gives it another name."""
        options = {"cid-codec": CODEC_NAMES[cid.codec], "mhtype": "sha2-256", "allow-big-block": True, "pin": False}
        told = await self._call(lambda: self._client.block.put(io.BytesIO(data), opts=options))
        if told.get("Key") != str(cid):
            raise KuboError(f"Kubo stored {cid} as {told.get('Key')}: it is too old (0.13 or newer is needed)")

    async def pin(self, root: Cid) -> None:
        """Have Kubo keep everything below `root`. Raises KuboError."""
        await self._call(lambda: self._client.pin.add(str(root), timeout=_timeout(PIN_SECONDS_MAX)))

    async def publish(
        self, root: Cid, read: Callable[[Cid], bytes], advance: Callable[[int], None] | None = None
    ) -> int:
        """Give Kubo all blocks below `root` and pin it; return how many there are. `read` blocks (a store's).

        Raises KuboError. Interrupted, it can be repeated: nothing is pinned before everything is there.
        """
        seen = {root}
        waiting = [root]
        while waiting:
            cid = waiting.pop()
            data = await trio.to_thread.run_sync(read, cid)
            await self.put(cid, data)
            if advance is not None:
                advance(len(data))
            if cid.codec is Codec.DAG_PB:
                new = dict.fromkeys(link.cid for link in decode_node(data).links if link.cid not in seen)
                seen.update(new)
                waiting.extend(reversed(new))
        await self.pin(root)
        return len(seen)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def _call(self, call: Callable[[], Any]) -> Any:
        """Run a call of the library in a thread; one that is given up ends by its time-out."""
        run_sync: Any = trio.to_thread.run_sync  # mypy sees no keyword arguments behind an unpacked type variable
        try:
            return await run_sync(call, abandon_on_cancel=True, limiter=self._threads)
        except KuboError:
            raise
        except exceptions.TimeoutError as error:
            raise KuboError(f"Kubo at {self.address} does not answer in time") from error
        except exceptions.ErrorResponse as error:
            raise KuboError(f"Kubo at {self.address} refuses: {error}") from error
        except exceptions.ConnectionError as error:
            raise KuboError(f"Kubo at {self.address} cannot be used: is it running, its API there? {error}") from error
        except Exception as error:  # the library asserts what others send, and lets some of its own libraries' through
            raise KuboError(f"what answers at {self.address} is not Kubo's RPC: {error!r}") from error


class KuboSource:
    """The operator's Kubo as a source of blocks (p2p/content/source.py)."""

    def __init__(self, kubo: Kubo) -> None:
        """`kubo` stays open: it is shared."""
        self._kubo = kubo

    @property
    def name(self) -> str:
        """For logs."""
        return f"kubo {self._kubo.address}"

    @property
    def rank(self) -> Rank:
        """After IPFS peers: it may have to search the network."""
        return Rank.KUBO

    @property
    def window(self) -> int:
        """Calls in flight."""
        return WINDOW

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | None:
        """Return the block; None if Kubo finds it nowhere. Raises SourceFailedError."""
        try:
            return await self._kubo.get(cid, bytes_max=bytes_max)
        except KuboError as error:
            raise SourceFailedError(str(error)) from error

    async def aclose(self) -> None:
        """Nothing to give back."""


def _timeout(answer_seconds: float) -> tuple[float, float]:
    return CONNECT_SECONDS_MAX, answer_seconds


def _join(pieces: Any, bytes_max: int) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > bytes_max:
            raise KuboError(f"Kubo gives more than {bytes_max} bytes for one block")
    return bytes(data)
