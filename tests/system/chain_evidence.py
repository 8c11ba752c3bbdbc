"""What the chain says happened, read from its logs: no daemon's word."""

from node.chain.addresses import Deployment, followed_contracts
from node.chain.event_decoder import EventDecoder
from node.chain.rpc import JsonRpc, hex_bytes, quantity
from node.protocol.events import EventBody


async def read_events(rpc: JsonRpc, deployment: Deployment) -> list[tuple[int, EventBody]]:
    """Return all events of the network's contracts with their blocks, in order."""
    decoder = EventDecoder(deployment.chain_id, deployment.addresses.epoch_manager)
    names = {address.lower(): name for address, name in followed_contracts(deployment.addresses).items()}
    logs = await rpc.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": list(names)})
    events = []
    for entry in logs:
        topics = [hex_bytes(topic) for topic in entry["topics"]]
        body = decoder.decode(names[entry["address"].lower()], topics, hex_bytes(entry["data"]))
        if body is not None:
            events.append((quantity(entry["blockNumber"]), body))
    return events
