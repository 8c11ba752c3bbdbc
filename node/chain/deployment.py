"""Deploys a network's contracts, in order, resumably: what a broken run deployed is used by the next."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import trio
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from contracts.codec import creation_code, describe_revert, encode_call
from node.chain.accounts import LocalAccount
from node.chain.addresses import ContractAddresses, Deployment
from node.chain.parameters import to_parameters
from node.chain.rpc import JsonRpc, RpcError, hex_bytes, quantity
from node.protocol.identifiers import Address, BlockNumber, TokenAmount
from node.protocol.records import EpochParameters
from node.protocol.results import pack_validator_set

RECEIPT_SECONDS_MAX = 120.0
RECEIPT_POLL_SECONDS = 0.2
GAS_MARGIN_PER_MILLE = 1250

Progress = Callable[[str], None]


class DeploymentFailedError(Exception):
    """A transaction of the deployment was refused or not mined; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """What an offence costs."""

    per_mille: int
    """Thousandths of the collateral, burned."""
    barred_seconds: int
    """How long the offender cannot commit proofs."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a network begins with. Amounts are in units of 10^-18 of the token."""

    token_cap: TokenAmount
    token_supply: TokenAmount
    """Minted to the treasury at once; the rest only as rewards."""
    treasury: Address
    genesis_group: tuple[tuple[Address, int], ...]
    """Accounts and weights in charge of epoch 0, ascending by account."""
    parameters: EpochParameters
    unbonding_seconds: int
    unlock_seconds: int
    """Between a payer's announcement that it empties a channel and the emptying."""
    min_collateral: TokenAmount
    """What committing proofs needs; governance may change it."""
    vesting_seconds: int
    """Over which claimed rewards are released; 0 pays them at once."""
    answer_blocks: int
    """Blocks for the answer to a prompt on chain, ..."""
    dispute_blocks: int
    """... for its user to dispute it, ..."""
    verdict_blocks: int
    """... and for the group to judge a dispute."""
    fraud_penalty: Penalty
    downtime_penalty: Penalty


async def deploy_network(
    rpc: JsonRpc, account: LocalAccount, plan: NetworkPlan, output: Path, progress: Progress
) -> Deployment:
    """Deploy what `output` does not name yet, and write it there. Raises DeploymentFailedError.

    Beside `output` a journal keeps each address as soon as it is known. It is removed at the end.
    """
    deployer = _Deployer(rpc, account, output.with_name(output.name + ".journal"), progress)
    await deployer.load()
    parameters = plan.parameters
    token = await deployer.contract("token", "QuernToken", [plan.token_cap, plan.token_supply, plan.treasury])
    models = await deployer.contract("model_registry", "ModelRegistry", [account.address])
    participants = await deployer.contract(
        "participant_registry",
        "ParticipantRegistry",
        [models, token, plan.unbonding_seconds, plan.min_collateral, account.address],
    )
    distributor = await deployer.contract(
        "reward_distributor",
        "RewardDistributor",
        [token, parameters.initial_subsidy, parameters.halving_epochs, plan.vesting_seconds],
    )
    verifier = await deployer.contract("quorum_verifier", "EcdsaQuorumVerifier", [])
    epochs = await deployer.contract(
        "epoch_manager",
        "EpochManager",
        [
            to_parameters(parameters).to_abi(),
            pack_validator_set(plan.genesis_group),
            participants,
            distributor,
            verifier,
        ],
    )
    channels = await deployer.contract("payment_channels", "PaymentChannels", [token, plan.unlock_seconds])
    coordinator = await deployer.contract(
        "inference_coordinator",
        "InferenceCoordinator",
        [token, models, epochs, (plan.answer_blocks, plan.dispute_blocks, plan.verdict_blocks)],
    )
    slashing = await deployer.contract(
        "slashing",
        "Slashing",
        [epochs, participants, _penalty(plan.fraud_penalty), _penalty(plan.downtime_penalty), account.address],
    )
    vault = await deployer.contract("access_vault", "AccessVault", [models])
    await deployer.call("set_minter", token, encode_call("QuernToken", "setMinter", [distributor]))
    await deployer.call("set_epoch_manager", distributor, encode_call("RewardDistributor", "setEpochManager", [epochs]))
    await deployer.call("set_slasher", participants, encode_call("ParticipantRegistry", "setSlasher", [slashing]))
    book = await deployer.contract(
        "address_book",
        "AddressBook",
        [(token, models, participants, epochs, distributor, channels, coordinator, slashing, vault)],
    )
    addresses = ContractAddresses(
        token=token,
        model_registry=models,
        participant_registry=participants,
        epoch_manager=epochs,
        reward_distributor=distributor,
        payment_channels=channels,
        inference_coordinator=coordinator,
        slashing=slashing,
        access_vault=vault,
        quorum_verifier=verifier,
        address_book=book,
    )
    deployment = await _describe(rpc, addresses, deployer.first_block)
    deployment.write(output)
    deployer.finish()
    return deployment


def _penalty(penalty: Penalty) -> tuple[int, int]:
    return penalty.per_mille, penalty.barred_seconds


async def _describe(rpc: JsonRpc, addresses: ContractAddresses, first_block: BlockNumber) -> Deployment:
    genesis = await rpc.block(0)
    if genesis is None:
        raise DeploymentFailedError("the endpoint does not know block 0")
    code_hashes = {}
    for field in fields(addresses):
        code = hex_bytes(await rpc.call("eth_getCode", getattr(addresses, field.name), "latest"))
        code_hashes[field.name] = keccak(code).hex()
    return Deployment(await rpc.chain_id(), genesis.hash.hex(), first_block, addresses, code_hashes)


class _Deployer:
    """Sends one transaction after the other and remembers in a journal what each came to."""

    def __init__(self, rpc: JsonRpc, account: LocalAccount, journal: Path, progress: Progress) -> None:
        self._rpc = rpc
        self._account = account
        self._journal = journal
        self._progress = progress
        self._done: dict[str, str] = {}
        self.first_block = BlockNumber(0)

    async def load(self) -> None:
        """Take up a broken run, if its chain is this one."""
        genesis = await self._rpc.block(0)
        chain = "" if genesis is None else genesis.hash.hex()
        if self._journal.exists():
            known = json.loads(self._journal.read_text(encoding="utf-8"))
            if known.get("chain") == chain:
                self._done = known
        if not self._done:
            self._done = {"chain": chain, "first_block": str(await self._rpc.block_number() + 1)}
        self.first_block = BlockNumber(int(self._done["first_block"]))

    async def contract(self, name: str, artifact: str, arguments: Sequence[object]) -> Address:
        """Deploy a contract, unless the journal has it, and return its address."""
        if name not in self._done:
            receipt = await self._send(f"deploy {artifact}", None, creation_code(artifact, arguments))
            self._note(name, to_checksum_address(receipt["contractAddress"]))
            self._progress(f"{artifact} at {self._done[name]}")
        return Address(self._done[name])

    async def call(self, name: str, recipient: Address, calldata: bytes) -> None:
        """Send a call, unless the journal has it."""
        if name not in self._done:
            await self._send(name, recipient, calldata)
            self._note(name, "done")

    def finish(self) -> None:
        """All is done: the journal goes."""
        self._journal.unlink(missing_ok=True)

    def _note(self, name: str, value: str) -> None:
        self._done[name] = value
        staged = self._journal.with_name(self._journal.name + ".new")
        staged.write_text(json.dumps(self._done, indent=2) + "\n", encoding="utf-8")
        staged.replace(self._journal)

    async def _send(self, what: str, recipient: Address | None, data: bytes) -> dict[str, str]:
        return await send_transaction(self._rpc, self._account, what, recipient, data=data)


async def send_transaction(
    rpc: JsonRpc, account: LocalAccount, what: str, recipient: Address | None, *, data: bytes = b"", value: int = 0
) -> dict[str, str]:
    """Send one transaction and wait for its receipt. For tools only: daemons send through the outbox.

    Raises DeploymentFailedError, which names `what`.
    """
    fields: dict[str, object] = {"from": account.address, "data": "0x" + data.hex(), "value": hex(value)}
    if recipient is not None:
        fields["to"] = recipient
    try:
        gas = quantity(await rpc.call("eth_estimateGas", fields))
        nonce = quantity(await rpc.call("eth_getTransactionCount", account.address, "pending"))
        block = await rpc.block("latest")
        priority_fee = quantity(await rpc.call("eth_maxPriorityFeePerGas"))
        transaction: dict[str, object] = {
            "type": 2,
            "chainId": await rpc.chain_id(),
            "nonce": nonce,
            "value": value,
            "data": data,
            "gas": gas * GAS_MARGIN_PER_MILLE // 1000,
            "maxFeePerGas": 2 * (0 if block is None else block.base_fee) + priority_fee,
            "maxPriorityFeePerGas": priority_fee,
        }
        if recipient is not None:
            transaction["to"] = recipient
        transaction_hash, raw = account.sign_transaction(transaction)
        await rpc.call_once("eth_sendRawTransaction", "0x" + raw.hex())
    except RpcError as error:
        reason = describe_revert(hex_bytes(error.data or "0x"), error.message)
        raise DeploymentFailedError(f"{what}: {reason}") from error
    with trio.move_on_after(RECEIPT_SECONDS_MAX):
        while True:
            receipt = await rpc.call("eth_getTransactionReceipt", "0x" + transaction_hash.hex())
            if receipt is not None:
                break
            await trio.sleep(RECEIPT_POLL_SECONDS)
        if quantity(receipt["status"]) != 1:
            raise DeploymentFailedError(f"{what}: reverted in transaction 0x{transaction_hash.hex()}")
        found: dict[str, str] = receipt
        return found
    raise DeploymentFailedError(
        f"{what}: transaction 0x{transaction_hash.hex()} was not mined within {RECEIPT_SECONDS_MAX:.0f} s; "
        "run this again"
    )
