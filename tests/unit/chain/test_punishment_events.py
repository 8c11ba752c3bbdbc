"""A punishment on chain is heard: without its event, members would ask for it again and again."""

from dataclasses import fields, replace

from eth_abi.abi import encode

from contracts.bindings import slashing
from node.chain.addresses import ContractAddresses, followed_contracts
from node.chain.event_decoder import EventDecoder
from node.protocol.chain_state import ChainState
from node.protocol.cids import cid_to_bytes
from node.protocol.events import ChainEvent, ParticipantPunished
from node.protocol.identifiers import Address, BlockNumber, EpochNumber, Hash32
from node.protocol.verdicts import Offence
from tests.builders import SOME_CID, account

MANAGER = account(50)


def test_a_log_of_the_slashing_contract_becomes_a_punishment_that_the_state_remembers() -> None:
    event = slashing.ParticipantPunished
    topics = [
        event.TOPIC,
        encode(["uint64"], [7]),
        encode(["address"], [account(3)]),
        encode(["uint8"], [Offence.DOWNTIME.value]),
    ]
    data = encode(["uint256", "bytes"], [10**18, cid_to_bytes(SOME_CID)])
    body = EventDecoder(1, MANAGER).decode(slashing.CONTRACT, topics, data)
    assert body == ParticipantPunished(EpochNumber(7), account(3), Offence.DOWNTIME)
    state = ChainState()
    state.apply(ChainEvent(BlockNumber(1), Hash32(bytes(32)), 0, body))
    assert state.punished == {(7, account(3), Offence.DOWNTIME)}


def test_the_daemon_follows_the_slashing_contract() -> None:
    nobody = {field.name: Address(f"0x{index:040x}") for index, field in enumerate(fields(ContractAddresses), 1)}
    addresses = replace(ContractAddresses(**nobody), slashing=account(77))
    assert followed_contracts(addresses)[account(77)] == slashing.CONTRACT
