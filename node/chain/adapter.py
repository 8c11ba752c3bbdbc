"""The chain port on a real EVM chain: checks that it is the right one, follows it, sends to it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import trio
from eth_hash.auto import keccak

from contracts.binding_base import ViewCall
from contracts.bindings import access_vault, epoch_manager, quern_token
from contracts.codec import describe_revert
from node.chain.account_lock import exclusive_account
from node.chain.accounts import LocalAccount
from node.chain.action_encoder import ContractCall, SignedAction, encode_action, encode_signed_action, signing_epoch
from node.chain.addresses import Deployment, followed_contracts
from node.chain.endpoints import ChainIdentity, HealthLimits, WrongChainError
from node.chain.event_decoder import EventDecoder
from node.chain.fees import GWEI, MAX_FEE_GWEI_DEFAULT
from node.chain.gas_reserve import GAS_RESERVE_WEI_DEFAULT
from node.chain.parameters import from_parameters
from node.chain.plain_posts import open_plain_posts
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError, hex_bytes, quantity
from node.chain.sender import BUMP_SECONDS, Sender
from node.chain.watcher import Finality, Watcher
from node.ports import ActionOutcome, Head, StageChange, WallClock
from node.protocol.actions import OVERTAKEN, ChainAction, is_overtaken
from node.protocol.chain_state import ChainState
from node.protocol.identifiers import Address, BlockNumber, Hash32, ModelId, TokenAmount
from node.protocol.records import EpochParameters
from node.protocol.schedules import ParameterSchedule
from node.settings.locations import account_lock_dir
from node.stage_changes import next_stage_change
from node.store.chain_tables import ChainTables
from node.store.database import Database

OUTAGE_POLL_SECONDS = 1.0
Result = TypeVar("Result")

__all__ = ["EvmChain", "WrongChainError", "check_chain", "open_chain", "read_contract"]


class EvmChain:
    """`node.ports.Chain` over JSON-RPC. Made by `open_chain`."""

    def __init__(
        self,
        rpc: JsonRpc,
        deployment: Deployment,
        account: LocalAccount,
        parameters: EpochParameters,
        tables: ChainTables,
        watcher: Watcher,
        sender: Sender,
    ) -> None:
        self._rpc = rpc
        self._addresses = deployment.addresses
        self._account = account
        self._tables = tables
        self._watcher = watcher
        self._sender = sender
        self.chain_id = deployment.chain_id
        self._schedule = ParameterSchedule(parameters)

    @property
    def account(self) -> Address:
        """The account that sends this daemon's transactions."""
        return self._account.address

    @property
    def epoch_manager(self) -> Address:
        """Contract that verifies epoch results."""
        return self._addresses.epoch_manager

    @property
    def payment_channels(self) -> Address:
        """Contract that verifies vouchers."""
        return self._addresses.payment_channels

    @property
    def slashing(self) -> Address:
        """Contract that verifies verdicts on offences."""
        return self._addresses.slashing

    @property
    def parameters(self) -> EpochParameters:
        """The parameters that hold at the newest block."""
        return self.schedule.at_block(self.head.number)

    @property
    def schedule(self) -> ParameterSchedule:
        """The parameters of all epochs, by the confirmed chain."""
        changes = self.state.parameter_changes
        if changes is not self._schedule.changes:
            self._schedule = ParameterSchedule(self._schedule.first, changes)
        return self._schedule

    @property
    def low_balance(self) -> bool:
        """Whether the account holds less of the gas coin than the reserve of the settings."""
        return self._sender.low_balance

    @property
    def head(self) -> Head:
        """The newest head seen."""
        return self._watcher.head

    @property
    def state(self) -> ChainState:
        """The fold of all confirmed events."""
        return self._watcher.state

    async def state_at(self, block: BlockNumber) -> ChainState:
        """Return the fold of all events up to and including `block`; waits until it is confirmed."""
        await self._watcher.until_confirmed(block)
        return await self._watcher.state_at(block)

    def heads(self) -> AsyncIterator[Head]:
        """Yield the head now and after every change."""
        return self._watcher.heads()

    async def stage_changes(self, consumer: str) -> AsyncIterator[StageChange]:
        """Yield each change of stage on the confirmed chain once, in order; see `node.ports.Chain`."""
        async for head in self.heads():
            cursor = self._tables.stage_cursor(consumer)
            while (change := next_stage_change(cursor, head.confirmed, self.schedule)) is not None:
                yield change
                cursor = change.first_block
                self._tables.set_stage_cursor(consumer, cursor)

    async def block_hash(self, block: BlockNumber) -> Hash32:
        """Return the hash of `block` once it is confirmed."""
        await self._watcher.until_confirmed(block)
        while True:
            try:
                found = await self._rpc.agreed_block(block)
            except (RpcUnavailableError, RpcError, ValueError):
                found = None  # an outage is waited out, as the watcher does; it also writes about it
            if found is not None:
                return found.hash
            await trio.sleep(OUTAGE_POLL_SECONDS)  # or an endpoint lags behind another

    async def submit(self, key: str, action: ChainAction) -> None:
        """Store the intent durably and begin to send it; the same key again has no effect."""
        if self._tables.outcome(key) is not None:
            return
        calls = self._encoded(action)
        self._tables.add_intent(key, [(call.recipient, call.calldata) for call in calls])
        self._sender.wake()

    def _encoded(self, action: ChainAction) -> tuple[ContractCall, ...]:
        if isinstance(action, SignedAction):
            group = self._watcher.state.group_weights(signing_epoch(action))
            return encode_signed_action(action, group, self._addresses)
        return encode_action(action, self._addresses)

    async def is_overtaken(self, action: ChainAction, *, in_a_block: bool = False) -> bool:
        """Whether its last transaction would be refused because another member did the same, in a block or on the way
        to one; in a block alone if `in_a_block`, and where endpoints show nobody what is on the way.
        """
        last = self._encoded(action)[-1]
        call = {"from": self.account, "to": last.recipient, "data": "0x" + last.calldata.hex()}
        for block in ("latest",) if in_a_block else ("pending", "latest"):
            try:
                await self._rpc.call_any("eth_call", call, block)
            except RpcUnavailableError:
                return False
            except RpcError as error:
                if error.is_revert:
                    return is_overtaken(describe_revert(error.revert_data, error.message))
            else:
                return False
        return False

    async def outcome(self, key: str) -> ActionOutcome:
        """Wait until intent `key` is confirmed or has failed for good, and `state` shows its events."""
        return await self._sender.outcome(key)  # the sender confirms only what the watcher has confirmed

    async def token_balance(self, account: Address) -> TokenAmount:
        """Tokens of `account` at the newest block."""
        return TokenAmount(await read_contract(self._rpc, self._addresses.token, quern_token.balance_of(account)))

    async def gas_price(self) -> int:
        """Wei per gas that a transaction sent now would cost; 0 if the endpoints do not say."""
        try:
            return await self._sender.gas_price()
        except (RpcUnavailableError, RpcError):
            return 0

    async def gas_balance(self) -> int:
        """Wei of this account, which pay for its transactions."""
        return quantity(await self._rpc.call("eth_getBalance", self.account, "latest"))

    async def wrapped_key(self, model_id: ModelId) -> bytes:
        """Return the content key that was deposited for this account, wrapped; empty if there is none."""
        grant = access_vault.grant_of(model_id, self.account)
        return (await read_contract(self._rpc, self._addresses.access_vault, grant)).wrapped_key

    def sign(self, digest: Hash32) -> bytes:
        """Sign a digest with the account key; callers record duties first."""
        return self._account.sign_digest(digest)

    def failed_intents(self) -> int:
        """How many intents have failed for good since this store exists, but for what others of the group did first."""
        return self._tables.failures(without=OVERTAKEN)

    def gas_spent(self) -> tuple[int, int]:
        """(transactions confirmed, gas they used) since this store exists."""
        return self._tables.gas_spent()


async def read_contract(rpc: JsonRpc, recipient: Address, view: ViewCall[Result], *, constant: bool = False) -> Result:
    """Ask a contract at the newest block. Raises RpcError if it refuses, ValueError if its answer is malformed.

    What is `constant` is asked of all endpoints; anything else may differ between them from one block to the next.
    """
    ask = rpc.call_agreed if constant else rpc.call
    result = await ask("eth_call", {"to": recipient, "data": "0x" + view.calldata.hex()}, "latest")
    return view.decode(hex_bytes(result))


async def check_chain(rpc: JsonRpc, chain_id: int, deployment: Deployment) -> None:
    """Raise WrongChainError unless the endpoint's chain is that of settings and deployment, with its contracts."""
    actual = await rpc.chain_id()
    if actual != chain_id:
        raise WrongChainError(
            f"the endpoint's chain has id {actual}, but the settings say chain_id = {chain_id}: "
            "set [chain] rpc_urls to an endpoint of the right chain"
        )
    if deployment.chain_id != chain_id:
        raise WrongChainError(
            f"the deployment file is for chain {deployment.chain_id}, but the settings say chain_id = {chain_id}"
        )
    genesis = await rpc.block(0)
    if genesis is None or genesis.hash.hex() != deployment.genesis_hash:
        raise WrongChainError(
            f"the chain has the right id {chain_id} but another past than the one the network was deployed on "
            "(a development chain that was started anew?): deploy again, or use the network's own endpoint"
        )
    for name, expected in deployment.code_hashes.items():
        address = getattr(deployment.addresses, name)
        code = hex_bytes(await rpc.call_agreed("eth_getCode", address, "latest"))
        if keccak(code).hex() != expected:
            raise WrongChainError(f"the code of {name} at {address} is not what the deployment file names")


@asynccontextmanager
async def open_chain(
    *,
    rpc_urls: Sequence[str],
    chain_id: int,
    deployment: Deployment,
    account: LocalAccount,
    database: Database,
    confirmations: int,
    poll_seconds: float,
    wall_clock: WallClock,
    finality: Finality = "confirmations",
    max_fee_wei: int = MAX_FEE_GWEI_DEFAULT * GWEI,
    gas_reserve_wei: int = GAS_RESERVE_WEI_DEFAULT,
    bump_seconds: float = BUMP_SECONDS,
    health: HealthLimits | None = None,
    lock_dir: Path | None = None,
) -> AsyncIterator[EvmChain]:
    """Connect, check, catch up with the chain, and follow it until the context is left.

    Raises WrongChainError, NoFinalityError, AccountInUseError, or RpcUnavailableError if no endpoint answers at the
    start; later outages are waited out. While it is open, DeepReorganisationError may come out of it: then nothing
    more may be done on what it said.
    """
    locked = exclusive_account(lock_dir or account_lock_dir(), chain_id, deployment.genesis_hash, account.address)
    with locked, open_plain_posts(rpc_urls) as plain:
        async with httpx.AsyncClient() as client:
            identity = ChainIdentity(chain_id, deployment.genesis_hash)
            rpc = JsonRpc(rpc_urls, client, identity=identity, limits=health, plain=plain)
            await check_chain(rpc, chain_id, deployment)
            addresses = deployment.addresses
            parameters = from_parameters(
                await read_contract(rpc, addresses.epoch_manager, epoch_manager.parameters(), constant=True)
            )
            tables = ChainTables(database)
            watcher = Watcher(
                rpc,
                tables,
                followed_contracts(addresses),
                EventDecoder(chain_id, addresses.epoch_manager),
                first_block=deployment.block,
                confirmations=confirmations,
                poll_seconds=poll_seconds,
                finality=finality,
            )
            await watcher.check_finality()
            sender = Sender(
                rpc,
                tables,
                account,
                chain_id=chain_id,
                head=lambda: watcher.head,
                poll_seconds=poll_seconds,
                wall_clock=wall_clock,
                max_fee_wei=max_fee_wei,
                gas_reserve_wei=gas_reserve_wei,
                bump_seconds=bump_seconds,
            )
            await watcher.catch_up()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watcher.run)
                nursery.start_soon(sender.run)
                yield EvmChain(rpc, deployment, account, parameters, tables, watcher, sender)
                nursery.cancel_scope.cancel()
