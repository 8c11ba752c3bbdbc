"""JSON-RPC to EVM nodes over httpx: several endpoints, bounded replies, errors with what the node said.

web3.py's own transport does not run under trio (measured: threads cancel late, its asyncio parts break); here it is
only asked for encoding and signing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import structlog
import trio
from pydantic_core import from_json

from node.protocol.identifiers import BlockNumber, Hash32

log = structlog.get_logger(__name__)

RESPONSE_BYTES_MAX = 32 * 1024 * 1024
"""A block of logs may be large; anything larger is a faulty or hostile endpoint."""
REQUEST_SECONDS_MAX = 10.0
HASH_BYTES = 32
BACKOFF_SECONDS_FIRST = 0.1
BACKOFF_SECONDS_MAX = 5.0
READ_ROUNDS_MAX = 6
"""Rounds over all endpoints before a read fails; callers that must go on try again."""


class RpcUnavailableError(Exception):
    """No endpoint answered. The message names each and why."""


class RpcError(Exception):
    """An endpoint answered with an error."""

    def __init__(self, code: int, message: str, data: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data
        """Hex revert data, or an empty text."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header, as far as this program needs it."""

    number: BlockNumber
    hash: Hash32
    parent_hash: Hash32
    timestamp: int
    base_fee: int


class JsonRpc:
    """A client of one chain behind one or more endpoints. The first is used as long as it answers."""

    def __init__(self, urls: Sequence[str], client: httpx.AsyncClient) -> None:
        if not urls:
            raise ValueError("at least one RPC endpoint is needed")
        self._urls = list(urls)
        self._client = client
        self._request_id = 0

    async def call(self, method: str, *parameters: object) -> Any:
        """Return the result of a read. Tries every endpoint, with back-off, for READ_ROUNDS_MAX rounds.

        Raises RpcError if an endpoint refused the request, RpcUnavailableError if none answered.
        """
        backoff = BACKOFF_SECONDS_FIRST
        for round_number in range(READ_ROUNDS_MAX):
            try:
                return await self.call_once(method, *parameters)
            except RpcUnavailableError:
                if round_number == READ_ROUNDS_MAX - 1:
                    raise
                await trio.sleep(backoff)
                backoff = min(2 * backoff, BACKOFF_SECONDS_MAX)
        raise AssertionError("the loop returns or raises")

    async def call_once(self, method: str, *parameters: object) -> Any:
        """As `call`, but with a single round over the endpoints."""
        failures = []
        for url in tuple(self._urls):
            try:
                return await self._ask(url, method, parameters)
            except (httpx.HTTPError, ValueError) as error:
                failures.append(f"{url}: {str(error) or type(error).__name__}")
                self._urls.append(self._urls.pop(0))  # the next call begins with the next endpoint
        raise RpcUnavailableError(f"no chain endpoint answered {method}: {'; '.join(failures)}")

    async def block(self, number: int | str) -> Block | None:
        """Return a block by number or tag, or None if the endpoint does not have it (yet)."""
        wanted = number if isinstance(number, str) else hex(number)
        result = await self.call("eth_getBlockByNumber", wanted, False)
        if result is None:
            return None
        return Block(
            BlockNumber(quantity(result["number"])),
            hash32(result["hash"]),
            hash32(result["parentHash"]),
            quantity(result["timestamp"]),
            quantity(result.get("baseFeePerGas", "0x0")),
        )

    async def block_number(self) -> BlockNumber:
        """Return the newest block's number."""
        return BlockNumber(quantity(await self.call("eth_blockNumber")))

    async def chain_id(self) -> int:
        """Return the EIP-155 chain id."""
        return quantity(await self.call("eth_chainId"))

    async def _ask(self, url: str, method: str, parameters: Sequence[object]) -> Any:
        self._request_id += 1
        request_id = self._request_id  # other tasks ask while this one waits
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(parameters)}
        content = await self._post(url, body)
        reply = from_json(content)
        if not isinstance(reply, dict) or (reply.get("id") != request_id and reply.get("id") is not None):
            raise ValueError("the reply is not for this request")
        error = reply.get("error")
        if error is not None:
            raise _rpc_error(error)
        if "result" not in reply:
            raise ValueError("the reply has neither result nor error")
        return reply["result"]

    async def _post(self, url: str, body: dict[str, object]) -> bytes:
        chunks, size = [], 0
        async with self._client.stream("POST", url, json=body, timeout=REQUEST_SECONDS_MAX) as response:
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if size > RESPONSE_BYTES_MAX:
                    raise ValueError(f"the reply is larger than {RESPONSE_BYTES_MAX} bytes")
                chunks.append(chunk)
        return b"".join(chunks)


def quantity(text: object) -> int:
    """Parse a JSON-RPC quantity (`0x…`); raise ValueError on anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"expected a quantity, got {text!r}")
    return int(text, 16)


def hash32(text: object) -> Hash32:
    """Parse a 32-byte hash; raise ValueError on anything else."""
    data = hex_bytes(text)
    if len(data) != HASH_BYTES:
        raise ValueError(f"expected 32 bytes, got {len(data)}")
    return Hash32(data)


def hex_bytes(text: object) -> bytes:
    """Parse `0x…` bytes; raise ValueError on anything else."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError(f"expected hex bytes, got {text!r}")
    return bytes.fromhex(text[2:])


def _rpc_error(error: object) -> RpcError:
    if not isinstance(error, dict):
        return RpcError(0, str(error), "")
    data = error.get("data")
    if isinstance(data, dict):  # some nodes wrap it
        data = data.get("data")
    code = error.get("code")
    return RpcError(
        code if isinstance(code, int) else 0, str(error.get("message", "")), data if isinstance(data, str) else ""
    )
