"""A chain endpoint in front of another that freezes, drops connections or lies, as a test tells it to."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any

import httpx
import trio


class Mode(Enum):
    HONEST = "honest"
    FROZEN = "frozen"
    DROPPING = "dropping"
    WITHOUT_LOGS = "without logs"
    WITHOUT_RECEIPTS = "without receipts"
    FAILED_RECEIPTS = "failed receipts"
    OLD_HEADS = "old heads"
    FUTURE_HEADS = "future heads"
    WRONG_HASHES = "wrong hashes"
    SWALLOWING = "swallowing"
    WRONG_COUNTS = "wrong counts"
    REVERTING = "reverting"


OUTAGES = (Mode.FROZEN, Mode.DROPPING)
LIES = tuple(mode for mode in Mode if mode not in (Mode.HONEST, *OUTAGES))
OLD_BLOCKS = 10


class LyingProxy:
    """JSON-RPC over HTTP to `target`, bent by `mode`."""

    def __init__(self, target: str, client: httpx.AsyncClient) -> None:
        self._target = target
        self._client = client
        self.mode = Mode.HONEST
        self.lies_told = 0
        self.url = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    received = await stream.receive_some()
                    if not received:
                        return
                    buffer += received
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                length = int(lengths[0].split(b":")[1])
                while len(buffer) < length:
                    buffer += await stream.receive_some()
                body, buffer = json.loads(buffer[:length]), buffer[length:]
                if self.mode is Mode.DROPPING:
                    return
                while self.mode is Mode.FROZEN:
                    await trio.sleep(0.05)
                reply = json.dumps(await self._answer(body)).encode()
                headers = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(reply)}\r\n\r\n"
                await stream.send_all(headers.encode() + reply)
        except (trio.BrokenResourceError, trio.ClosedResourceError, httpx.HTTPError):
            return  # the client was killed, or the chain does not answer: the connection ends
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, body: Any) -> Any:
        calls = body if isinstance(body, list) else [body]
        swallowed = self.mode is Mode.SWALLOWING
        passed = [call for call in calls if not (swallowed and call["method"] == "eth_sendRawTransaction")]
        replies = {}
        if passed:
            response = await self._client.post(self._target, json=passed, timeout=10)
            replies = {reply["id"]: reply for reply in response.json()}
        bent = [self._bend(call, replies.get(call["id"])) for call in calls]
        return bent if isinstance(body, list) else bent[0]

    def _bend(self, call: dict[str, Any], reply: dict[str, Any] | None) -> dict[str, Any]:
        if reply is None:
            self.lies_told += 1
            return {"jsonrpc": "2.0", "id": call["id"], "result": "0x" + "77" * 32}
        result, method = reply.get("result"), call["method"]
        lie = self._lie(method, call["params"], result)
        if lie is result:
            return reply
        self.lies_told += 1
        key = "error" if isinstance(lie, dict) and "code" in lie else "result"
        return {"jsonrpc": "2.0", "id": call["id"], key: lie}

    def _lie(self, method: str, parameters: list[Any], result: Any) -> Any:
        match self.mode, method:
            case Mode.WITHOUT_LOGS, "eth_getLogs" if result:
                return result[1:]
            case Mode.WITHOUT_RECEIPTS, "eth_getTransactionReceipt":
                return None
            case Mode.FAILED_RECEIPTS, "eth_getTransactionReceipt" if result:
                return {**result, "status": "0x0"}
            case Mode.OLD_HEADS, "eth_blockNumber" if result:
                return hex(max(int(result, 16) - OLD_BLOCKS, 0))
            case Mode.FUTURE_HEADS, "eth_blockNumber" if result:
                return hex(int(result, 16) + OLD_BLOCKS)
            case Mode.FUTURE_HEADS, "eth_getBlockByNumber" if result is None and parameters[0].startswith("0x"):
                return self._invented_block(parameters[0])
            case Mode.WRONG_HASHES, "eth_getBlockByNumber" if result and parameters[0] != "0x0":
                return {**result, "hash": "0x" + "66" * 32}
            case Mode.WRONG_COUNTS, "eth_getTransactionCount" if result:
                return hex(int(result, 16) + 5)
            case Mode.REVERTING, "eth_estimateGas":
                return {"code": 3, "message": "execution reverted", "data": "0x"}
        return result

    @staticmethod
    def _invented_block(number: str) -> dict[str, Any]:
        return {
            "number": number,
            "hash": "0x" + number[2:].rjust(64, "5"),
            "parentHash": "0x" + "44" * 32,
            "timestamp": "0x1",
            "baseFeePerGas": "0x1",
            "transactions": [],
        }


@asynccontextmanager
async def lying_proxies(target: str, count: int) -> AsyncIterator[list[LyingProxy]]:
    """Run `count` proxies in front of `target` until the context is left."""
    async with httpx.AsyncClient() as client, trio.open_nursery() as nursery:
        proxies = [LyingProxy(target, client) for _ in range(count)]
        for proxy in proxies:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            proxy.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxies
        nursery.cancel_scope.cancel()
