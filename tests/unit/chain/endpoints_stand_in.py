"""Chain endpoints played by functions, so that a test decides what each one says and when."""

import json
from collections.abc import Callable

import httpx
import trio

from node.chain.rpc import JsonRpc

GENESIS = "11" * 32


def block(number: int, fork: str = "a") -> dict[str, object]:
    """A block whose hash tells its number and fork."""
    return {
        "number": hex(number),
        "hash": "0x" + (GENESIS if number == 0 else fork * 56 + f"{number:08x}"),
        "parentHash": "0x" + (GENESIS if number <= 1 else fork * 56 + f"{number - 1:08x}"),
        "timestamp": hex(1000 + number),
        "baseFeePerGas": "0x7",
        "transactions": [],
    }


class StandIn:
    """One endpoint. `says` maps a method to what it answers: a value, or a function of the parameters."""

    def __init__(self, name: str, *, head: int = 10, fork: str = "a") -> None:
        self.url = f"http://{name}/secret-key"
        self.head = head
        self.frozen = False
        self.down = False
        self.batches = True
        self.asked: list[str] = []
        self.posts = 0
        self.says: dict[str, object] = {
            "eth_chainId": "0x1",
            "eth_blockNumber": lambda: hex(self.head),
            "eth_getBlockByNumber": lambda number, _: block(int(number, 16), fork) if self._has(number) else None,
        }

    def _has(self, number: str) -> bool:
        return int(number, 16) <= self.head

    async def handle(self, request: httpx.Request) -> httpx.Response:
        self.posts += 1
        self.sender = trio.lowlevel.current_task()
        if self.frozen:
            await trio.sleep_forever()
        if self.down:
            raise httpx.ConnectError("refused")
        body = json.loads(request.content)
        if isinstance(body, list):
            if not self.batches:
                return httpx.Response(400, text="no batches")
            return httpx.Response(200, json=[self._reply(call) for call in body])
        return httpx.Response(200, json=self._reply(body))

    def _reply(self, call: dict[str, object]) -> dict[str, object]:
        method = str(call["method"])
        self.asked.append(method)
        answer = self.says[method]
        if callable(answer):
            answer = answer(*call["params"])  # type: ignore[misc]
        key = "error" if isinstance(answer, dict) and "code" in answer else "result"
        return {"jsonrpc": "2.0", "id": call["id"], key: answer}


def client_of(*stand_ins: StandIn, **options: object) -> JsonRpc:
    """A client of these endpoints, in this order."""
    handlers: dict[str, Callable[[httpx.Request], object]] = {
        httpx.URL(stand_in.url).host: stand_in.handle for stand_in in stand_ins
    }

    async def route(request: httpx.Request) -> httpx.Response:
        response = await handlers[request.url.host](request)  # type: ignore[misc]
        assert isinstance(response, httpx.Response)
        return response

    client = httpx.AsyncClient(transport=httpx.MockTransport(route))
    return JsonRpc([stand_in.url for stand_in in stand_ins], client, **options)  # type: ignore[arg-type]
