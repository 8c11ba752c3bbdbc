"""The typed bindings against a real EVM: what they send is understood, what comes back is read."""

from typing import Any, TypeVar

import pytest

from contracts.binding_base import Call, ViewCall
from contracts.bindings import address_book, decode_error, decode_event, epoch_manager, payment_channels, quern_token
from node.chain.addresses import contract_names
from node.chain.rpc import RpcError, hex_bytes
from tests.integration.chain.conftest import TOKEN, Network

Result = TypeVar("Result")
pytestmark = pytest.mark.chain


async def ask(network: Network, recipient: str, view: ViewCall[Result]) -> Result:
    fields = {"to": recipient, "data": "0x" + view.calldata.hex()}
    return view.decode(hex_bytes(await network.rpc.call("eth_call", fields, "latest")))


async def send(network: Network, recipient: str, call: Call) -> None:
    fields = {"from": network.owner.address, "to": recipient, "data": "0x" + call.calldata.hex()}
    await network.rpc.call("eth_sendTransaction", fields)
    await network.mine()


async def test_answers_of_views_are_read(network: Network) -> None:
    addresses = network.deployment.addresses
    parameters = await ask(network, addresses.epoch_manager, epoch_manager.parameters())
    assert (parameters.epoch_blocks, parameters.halving_epochs) == (60, 100)
    stage = await ask(network, addresses.epoch_manager, epoch_manager.current_stage())
    assert (stage.epoch, stage.stage) == (0, epoch_manager.Stage.SERVE)
    book = await ask(network, addresses.address_book, address_book.addresses())
    assert (book.token, book.payment_channels) == (addresses.token, addresses.payment_channels)
    balance = await ask(network, addresses.token, quern_token.balance_of(network.owner.address))
    assert balance == 10_000 * TOKEN
    assert await ask(network, addresses.token, quern_token.symbol()) != ""


async def test_a_deposit_shows_in_the_channel_and_every_log_is_read(network: Network) -> None:
    addresses, payee = network.deployment.addresses, network.miners[0].address
    await send(network, addresses.token, quern_token.approve(addresses.payment_channels, 5))
    await send(network, addresses.payment_channels, payment_channels.deposit(payee, 5))
    channel = await ask(network, addresses.payment_channels, payment_channels.get_channel(network.owner.address, payee))
    assert channel == payment_channels.Channel(deposited=5, redeemed=0, unlock_time=0)

    by_name = {address.lower(): name for address, name in contract_names(addresses).items()}
    logs: Any = await network.rpc.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
    events = [
        decode_event(
            by_name[log["address"].lower()], [hex_bytes(topic) for topic in log["topics"]], hex_bytes(log["data"])
        )
        for log in logs
    ]
    assert (
        payment_channels.ChannelFunded(
            channel_id=await ask(
                network, addresses.payment_channels, payment_channels.channel_id(network.owner.address, payee)
            ),
            payer=network.owner.address,
            payee=payee,
            deposited=5,
        )
        in events
    )
    assert address_book.NetworkDeployed in {type(event) for event in events}


async def test_a_refusal_is_read_as_the_contracts_error(network: Network) -> None:
    call = payment_channels.withdraw(network.miners[0].address)
    fields = {"to": network.deployment.addresses.payment_channels, "data": "0x" + call.calldata.hex()}
    with pytest.raises(RpcError) as refused:
        await network.rpc.call("eth_call", fields, "latest")
    error = decode_error(hex_bytes(refused.value.data or "0x"))
    assert isinstance(error, payment_channels.WithdrawNotRequested)
    assert len(error.channel_id) == 32
