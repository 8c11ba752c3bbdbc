"""A chain endpoint with a long past and nothing else, for measuring how fast a past is read.

anvil takes hours to make 100,000 blocks (each one takes longer than the one before), so this plays them. Replies are
made beforehand: what is measured is the reader.

.venv/bin/python -m benchmarks.history BLOCKS EVENTS DELAY_MILLISECONDS
"""

import json
import socket
import sys
from typing import Any

import trio
from eth_abi.abi import encode
from eth_hash.auto import keccak

from node.chain.devnet import development_account

CHANNELS = "0x" + "c0" * 20
TOPIC = keccak(b"ChannelFunded(bytes32,address,address,uint256)")


class History:
    """Blocks 0 to `blocks`, with `events` logs spread over them."""

    def __init__(self, blocks: int, events: int) -> None:
        self._blocks = blocks
        payer, payee = development_account(0).address, development_account(1).address
        step = blocks // events
        self._logs = [(block, json.dumps(_log(block, payer, payee))) for block in range(step // 2, blocks, step)]

    def reply(self, call: dict[str, Any]) -> str:
        """Return the reply to a call as JSON."""
        return f'{{"jsonrpc":"2.0","id":{call["id"]},"result":{self._result(call["method"], call["params"])}}}'

    def _result(self, method: str, parameters: list[Any]) -> str:
        match method:
            case "eth_blockNumber":
                return f'"{self._blocks:#x}"'
            case "eth_getBlockByNumber":
                return json.dumps(_block(int(parameters[0], 16)))
            case "eth_getLogs" if "blockHash" in parameters[0]:
                number = int(parameters[0]["blockHash"], 16)
                return self._between(number, number)
            case "eth_getLogs":
                return self._between(int(parameters[0]["fromBlock"], 16), int(parameters[0]["toBlock"], 16))
        raise ValueError(f"{method} is not played")

    def _between(self, first: int, last: int) -> str:
        return "[" + ",".join(text for block, text in self._logs if first <= block <= last) + "]"


def _block(number: int) -> dict[str, Any]:
    return {
        "number": hex(number),
        "hash": f"0x{number:064x}",
        "parentHash": f"0x{max(number - 1, 0):064x}",
        "timestamp": hex(1_700_000_000 + number),
        "baseFeePerGas": "0x7",
        "transactions": [],
    }


def _log(block: int, payer: str, payee: str) -> dict[str, Any]:
    topics = [TOPIC, keccak(str(block).encode()), encode(["address"], [payer]), encode(["address"], [payee])]
    return {
        "address": CHANNELS,
        "blockNumber": hex(block),
        "blockHash": f"0x{block:064x}",
        "logIndex": "0x0",
        "transactionHash": f"0x{block:064x}",
        "transactionIndex": "0x0",
        "removed": False,
        "topics": ["0x" + topic.hex() for topic in topics],
        "data": "0x" + encode(["uint256"], [block]).hex(),
    }


async def serve(history: History, delay_seconds: float) -> None:
    """Serve for ever on a free port, which is printed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)

    async def handle(stream: trio.SocketStream) -> None:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                received = await stream.receive_some()
                if not received:
                    return
                buffer += received
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            while len(buffer) < length:
                buffer += await stream.receive_some()
            call, buffer = json.loads(buffer[:length]), buffer[length:]
            if delay_seconds:
                await trio.sleep(delay_seconds)
            several = isinstance(call, list)
            text = f"[{','.join(map(history.reply, call))}]" if several else history.reply(call)
            header = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
            await stream.send_all((header + text).encode())

    await trio.serve_listeners(handle, listeners)


if __name__ == "__main__":
    trio.run(serve, History(int(sys.argv[1]), int(sys.argv[2])), int(sys.argv[3]) / 1000)
