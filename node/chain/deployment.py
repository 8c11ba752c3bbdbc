"""Deploys a network: which contracts in which order, who owns them, and the models they begin with."""

from dataclasses import dataclass, fields
from pathlib import Path

from eth_hash.auto import keccak

from contracts.binding_base import Call
from contracts.bindings import (
    model_registry,
    participant_registry,
    quern_timelock,
    quern_token,
    reward_distributor,
)
from node.chain.accounts import LocalAccount
from node.chain.addresses import ContractAddresses, Deployment
from node.chain.deployer import Deployer, DeploymentFailedError, Progress
from node.chain.deployment_journal import DeploymentJournal
from node.chain.parameters import to_parameters
from node.chain.rpc import JsonRpc, hex_bytes
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address, BlockNumber, TokenAmount
from node.protocol.records import EpochParameters
from node.protocol.results import pack_validator_set

ROLE_BYTES = 32
TIMELOCK_ADMIN_ROLE = bytes(ROLE_BYTES)
TIMELOCK_PROPOSER_ROLE = keccak(b"PROPOSER_ROLE")
TIMELOCK_CANCELLER_ROLE = keccak(b"CANCELLER_ROLE")
"""Roles of OpenZeppelin's AccessControl and TimelockController."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """What an offence costs."""

    per_mille: int
    """Thousandths of the collateral, burned."""
    barred_epochs: int
    """Epochs, the present one first, whose proofs of the offender do not count."""


@dataclass(frozen=True, slots=True)
class Governance:
    """How the token's holders decide on models, collateral and penalties. Times of votes are in blocks."""

    voting_delay_blocks: int
    """Between a proposal and the count of who may vote."""
    voting_period_blocks: int
    proposal_threshold: TokenAmount
    """Votes that a proposer needs."""
    quorum_percent: int
    """Share of the supply that must take part."""
    timelock_seconds: int
    """Between a decision and its execution: time to leave for whoever disagrees."""


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """What a network begins with. Amounts are in units of 10^-18 of the token."""

    token_cap: TokenAmount
    token_supply: TokenAmount
    """Minted to the treasury at once; the rest only as rewards."""
    treasury: Address
    genesis_group: tuple[tuple[Address, int], ...]
    """Accounts and weights in charge of epoch 0, ascending by account."""
    genesis_models: tuple[model_registry.ModelImport, ...]
    """Models that are registered from the first block on, e.g. those of a network before (see genesis.py)."""
    governance: Governance | None
    """Who owns the registries: a vote by the token, or without it the deployer."""
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


@dataclass(frozen=True, slots=True)
class _Voters:
    """The contracts by which the token's holders govern; all zero where an account governs."""

    timelock: Address
    governor: Address
    token: Address


async def deploy_network(
    rpc: JsonRpc, account: LocalAccount, plan: NetworkPlan, output: Path, progress: Progress
) -> Deployment:
    """Deploy a network and write `output`. Raises DeploymentFailedError.

    Beside `output` a journal keeps each signed transaction before it is sent. It is removed at the end.
    """
    deployer = Deployer(rpc, account, DeploymentJournal(output.with_name(output.name + ".journal")), progress)
    await deployer.load()
    token = await deployer.contract("token", "QuernToken", [plan.token_cap, plan.token_supply, plan.treasury])
    voters = _Voters(ZERO_ADDRESS, ZERO_ADDRESS, ZERO_ADDRESS)
    if plan.governance is not None:
        voters = await _deploy_governance(deployer, account.address, token, plan.governance)
    owner = account.address if plan.governance is None else voters.timelock
    models = await deployer.contract("model_registry", "ModelRegistry", [owner])
    await _import_models(deployer, models, plan.genesis_models)
    addresses = await _deploy_contracts(deployer, plan, owner, token, models, voters)
    deployment = await _describe(rpc, addresses, deployer.first_block)
    deployment.write(output)
    deployer.finish()
    return deployment


async def _deploy_governance(
    deployer: Deployer, deployer_account: Address, token: Address, governance: Governance
) -> _Voters:
    """Deploy timelock and governor; the deployer gives up its rights over them before anything is owned by them."""
    timelock = await deployer.contract(
        "timelock",
        "QuernTimelock",
        # Anyone may execute what was decided and waited for: the zero address stands for everybody.
        [governance.timelock_seconds, [], [ZERO_ADDRESS], deployer_account],
    )
    voting_token = await deployer.contract("voting_token", "VotingQuern", [token])
    governor = await deployer.contract(
        "governor",
        "QuernGovernor",
        [
            voting_token,
            timelock,
            governance.voting_delay_blocks,
            governance.voting_period_blocks,
            governance.proposal_threshold,
            governance.quorum_percent,
        ],
    )
    steps = {
        "governor_proposes": quern_timelock.grant_role(TIMELOCK_PROPOSER_ROLE, governor),
        "governor_cancels": quern_timelock.grant_role(TIMELOCK_CANCELLER_ROLE, governor),
        "deployer_renounces": quern_timelock.renounce_role(TIMELOCK_ADMIN_ROLE, deployer_account),
    }
    for name, call in steps.items():
        await deployer.call(name, timelock, call.calldata)
    return _Voters(timelock, governor, voting_token)


async def _import_models(deployer: Deployer, registry: Address, models: tuple[model_registry.ModelImport, ...]) -> None:
    for model in models:
        await deployer.call(f"import/{model.model_id}", registry, model_registry.import_model(model).calldata)
    await deployer.call("finish_import", registry, model_registry.finish_import().calldata)


async def _deploy_contracts(
    deployer: Deployer,
    plan: NetworkPlan,
    owner: Address,
    token: Address,
    models: Address,
    voters: _Voters,
) -> ContractAddresses:
    parameters = plan.parameters
    participants = await deployer.contract(
        "participant_registry",
        "ParticipantRegistry",
        [models, token, plan.unbonding_seconds, plan.min_collateral, owner],
    )
    distributor = await deployer.contract(
        "reward_distributor",
        "RewardDistributor",
        [token, parameters.initial_subsidy, parameters.halving_epochs, plan.vesting_seconds],
    )
    verifier = await deployer.contract("quorum_verifier", "EcdsaQuorumVerifier", [])
    group = pack_validator_set(plan.genesis_group)
    epochs = await deployer.contract(
        "epoch_manager",
        "EpochManager",
        [to_parameters(parameters).to_abi(), group, participants, distributor, verifier, owner],
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
        [epochs, participants, _penalty(plan.fraud_penalty), _penalty(plan.downtime_penalty), owner],
    )
    vault = await deployer.contract("access_vault", "AccessVault", [models])
    links: dict[str, tuple[Address, Call]] = {
        "set_minter": (token, quern_token.set_minter(distributor)),
        "set_epoch_manager": (distributor, reward_distributor.set_epoch_manager(epochs)),
        "set_slasher": (participants, participant_registry.set_slasher(slashing)),
    }
    for name, (recipient, call) in links.items():
        await deployer.call(name, recipient, call.calldata)
    book = await deployer.contract(
        "address_book",
        "AddressBook",
        [(token, models, participants, epochs, distributor, channels, coordinator, slashing, vault)],
    )
    return ContractAddresses(
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
        timelock=voters.timelock,
        governor=voters.governor,
        voting_token=voters.token,
    )


def _penalty(penalty: Penalty) -> tuple[int, int]:
    return penalty.per_mille, penalty.barred_epochs


async def _describe(rpc: JsonRpc, addresses: ContractAddresses, first_block: BlockNumber) -> Deployment:
    genesis = await rpc.block(0)
    if genesis is None:
        raise DeploymentFailedError("the endpoint does not know block 0")
    code_hashes = {}
    for field in fields(addresses):
        address = getattr(addresses, field.name)
        if address != ZERO_ADDRESS:
            code = hex_bytes(await rpc.call("eth_getCode", address, "latest"))
            code_hashes[field.name] = keccak(code).hex()
    return Deployment(await rpc.chain_id(), genesis.hash.hex(), first_block, addresses, code_hashes)
