"""What our contracts logged: asked of the endpoints, and read into the events that are stored."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from node.chain.event_codec import event_to_bytes
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import JsonRpc, hash32, hex_bytes, quantity
from node.protocol.events import ChainEvent
from node.protocol.identifiers import Address, BlockNumber

log = structlog.get_logger(__name__)


class ContractLogs:
    """Logs of `contracts`, which are named by their addresses."""

    def __init__(self, rpc: JsonRpc, contracts: Mapping[Address, str], decoder: EventDecoder) -> None:
        self._rpc = rpc
        self._contracts = {address.lower(): name for address, name in contracts.items()}
        self._decoder = decoder

    async def ask(self, where: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
        """Return the logs of a block or range, on which most endpoints agree. Raises RpcError, RpcUnavailableError, and
        ValueError for what is no list."""
        result = await self._rpc.call_agreed(
            "eth_getLogs", {**where, "address": list(self._contracts)}, key=_what_logs_say
        )
        if not isinstance(result, list):
            raise ValueError("eth_getLogs: expected a list")
        return result

    def records(self, logs: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, bytes]]:
        """Return (block, index in it, event as it is stored) of all logs that can be read; others are skipped."""
        records = []
        for entry in logs:
            number, index = quantity(entry["blockNumber"]), quantity(entry["logIndex"])
            contract = self._contracts.get(str(entry["address"]).lower())
            if contract is None:
                continue
            try:
                topics = [hex_bytes(topic) for topic in entry["topics"]]
                body = self._decoder.decode(contract, topics, hex_bytes(entry["data"]))
                if body is None:
                    continue
                event = ChainEvent(BlockNumber(number), hash32(entry["blockHash"]), index, body)
                records.append((number, index, event_to_bytes(event)))
            except ValueError as error:
                log.error(
                    "a log of our contracts cannot be read; it is skipped", block=number, index=index, reason=str(error)
                )
        return records


def _what_logs_say(result: Any) -> object:
    """Return what must agree of a list of logs; nodes add fields of their own."""
    return [
        (entry["blockHash"], entry["logIndex"], entry["address"].lower(), entry["topics"], entry["data"])
        for entry in result
    ]
