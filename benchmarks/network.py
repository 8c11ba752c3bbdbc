"""A fresh chain with the network's contracts and a group whose keys are all here, to measure what transactions cost."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from eth_hash.auto import keccak

from contracts.binding_base import Call
from contracts.bindings import epoch_manager
from node.chain.accounts import LocalAccount, account_from_secret
from node.chain.action_encoder import encode_action, encode_signed_action
from node.chain.adapter import read_contract
from node.chain.addresses import Deployment, contract_names
from node.chain.deployer import send_transaction
from node.chain.deployment import NetworkPlan, Penalty, deploy_network
from node.chain.devnet import development_account, find_anvil, run_anvil
from node.chain.parameters import from_parameters
from node.chain.rpc import JsonRpc, quantity
from node.protocol.actions import ChainAction, PostEpochResult, PunishParticipant
from node.protocol.identifiers import Address, BlockNumber, Hash32, TokenAmount
from node.protocol.records import EpochParameters

ROOT = Path(__file__).resolve().parents[1]
TOKEN = 10**18
ETHER = 10**18
VALUE_ZERO_GAS = 4
VALUE_NONZERO_GAS = 16
TRANSACTION_GAS = 21_000
BLOCKS_AT_ONCE = 50
"""Mined by one call: on a busy machine hundreds take longer than an answer is waited for."""

PARAMETERS = EpochParameters(
    genesis_block=BlockNumber(0),
    epoch_blocks=700,
    generate_offset=400,
    exchange_offset=450,
    validate_offset=460,
    vote_exchange_offset=500,
    form_offset=520,
    load_offset=620,
    poc_sample_size=8,
    poc_reject_mismatches=3,
    unit_price=TokenAmount(10**12),
    initial_subsidy=TokenAmount(100 * TOKEN),
    halving_epochs=100,
)
"""Stages long enough for one block per transaction."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a transaction used."""

    gas: int
    intrinsic: int
    """Of it, what every transaction with this calldata pays before a contract runs."""


class MeasuredNetwork:
    """A deployed network; every call is sent for real, each in a block of its own, and its receipt gives the gas."""

    def __init__(
        self, rpc: JsonRpc, deployment: Deployment, owner: LocalAccount, members: Sequence[LocalAccount], genesis: int
    ) -> None:
        self.rpc = rpc
        self.deployment = deployment
        self.owner = owner
        """Deployed everything, owns the registry, holds the tokens."""
        self.members = members
        """The group in charge, ascending by account, all of the same weight."""
        self._genesis = genesis
        self._recipients = {name: address for address, name in contract_names(deployment.addresses).items()}

    @property
    def group(self) -> tuple[tuple[Address, int], ...]:
        """Accounts and weights of the members."""
        return tuple((member.address, 1) for member in self.members)

    async def send(self, sender: LocalAccount, call: Call) -> Cost:
        """Send a call to its contract and return what it cost."""
        return await self._send(sender, self._recipients[call.contract], call.calldata)

    async def act(self, sender: LocalAccount, action: ChainAction) -> tuple[Cost, ...]:
        """Send the transactions that daemons make of an action."""
        addresses = self.deployment.addresses
        if isinstance(action, PostEpochResult | PunishParticipant):
            calls = encode_signed_action(action, self.group, addresses)
        else:
            calls = encode_action(action, addresses)
        return tuple([await self._send(sender, call.recipient, call.calldata) for call in calls])

    async def go_to(self, epoch: int, offset: int) -> None:
        """Mine up to the block before the one with `offset` in `epoch`: the next transaction is in it."""
        target = self._genesis + epoch * PARAMETERS.epoch_blocks + offset
        missing = target - 1 - await self.rpc.block_number()
        if missing < 0:
            raise ValueError(f"block {target} is in the past")
        for done in range(0, missing, BLOCKS_AT_ONCE):
            await self.rpc.call("anvil_mine", hex(min(BLOCKS_AT_ONCE, missing - done)))

    async def fund(self, account: Address) -> None:
        """Give an account ether for its transactions."""
        await self.rpc.call("anvil_setBalance", account, hex(100 * ETHER))

    def sign_all(self, digest: Hash32) -> tuple[tuple[Address, bytes], ...]:
        """Return the signatures of all members, of which the encoder takes as many as make a quorum."""
        return tuple((member.address, member.sign_digest(digest)) for member in self.members)

    async def _send(self, sender: LocalAccount, recipient: Address, calldata: bytes) -> Cost:
        receipt = await send_transaction(self.rpc, sender, "benchmark", recipient, data=calldata)
        return Cost(quantity(receipt["gasUsed"]), intrinsic_gas(calldata))


def intrinsic_gas(calldata: bytes) -> int:
    """Return what a transaction with this calldata pays before a contract runs."""
    zeros = calldata.count(0)
    return TRANSACTION_GAS + VALUE_ZERO_GAS * zeros + VALUE_NONZERO_GAS * (len(calldata) - zeros)


def numbered_account(index: int) -> LocalAccount:
    """Return an account of its own for each number, the same in every run."""
    return account_from_secret(keccak(b"quern benchmark" + index.to_bytes(4)))


@asynccontextmanager
async def measured_network(
    folder: Path, *, members: int, vesting_seconds: int, progress: Callable[[str], None]
) -> AsyncIterator[MeasuredNetwork]:
    """Run a chain with the contracts and a group of `members` equal members until the context is left."""
    owner = development_account(0)
    group = sorted((numbered_account(index) for index in range(members)), key=lambda account: account.address.lower())
    plan = NetworkPlan(
        token_cap=TokenAmount(1_000_000 * TOKEN),
        token_supply=TokenAmount(10_000 * TOKEN),
        treasury=owner.address,
        genesis_group=tuple((member.address, 1) for member in group),
        genesis_models=(),
        governance=None,
        parameters=PARAMETERS,
        unbonding_seconds=30 * 86_400,
        unlock_seconds=86_400,
        min_collateral=TokenAmount(TOKEN),
        vesting_seconds=vesting_seconds,
        answer_blocks=40,
        dispute_blocks=4,
        verdict_blocks=20,
        fraud_penalty=Penalty(per_mille=500, barred_epochs=10),
        downtime_penalty=Penalty(per_mille=10, barred_epochs=1),
    )
    async with (
        run_anvil(find_anvil(ROOT), block_seconds=None, log_path=folder / f"anvil-{members}.log") as chain,
        httpx.AsyncClient() as client,
    ):
        rpc = JsonRpc([chain.url], client)
        progress(f"a chain with a group of {members}")
        deployment = await deploy_network(rpc, owner, plan, folder / f"deployment-{members}.json", lambda _line: None)
        values = await read_contract(rpc, deployment.addresses.epoch_manager, epoch_manager.parameters())
        yield MeasuredNetwork(rpc, deployment, owner, group, from_parameters(values).genesis_block)
