"""What an owner's tools ask of the ModelRegistry and the AccessVault: tried before it is sent, refused in words.

A tool prepares a call, rehearses it against the newest block, and only then sends it: what the contract would refuse
costs nothing. Where another account must send it, as with a timelock that owns the registry, the calldata is what that
account has to be made to send.
"""

from dataclasses import dataclass

from contracts.binding_base import Call, RevertReason, ViewCall
from contracts.bindings import access_vault, epoch_manager, model_registry, quern_token
from contracts.codec import describe_revert
from node.chain.accounts import LocalAccount
from node.chain.adapter import Result, read_contract
from node.chain.addresses import ContractAddresses
from node.chain.deployer import send_transaction
from node.chain.rpc import JsonRpc, RpcError, hex_bytes, quantity
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address

TOKEN_DECIMALS_MAX = 77
"""A token that says more lies: one of its units would not fit 256 bits."""


class RefusedError(Exception):
    """A contract refuses a call, or will; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call, where it goes, and whose call the contract takes."""

    what: str
    """For people: `register tiny`."""
    call: Call
    recipient: Address
    entitled: Address
    """The only account whose call the contract takes: the registry's owner, the model's proposer."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction in a block."""

    transaction_hash: str
    block: int
    gas_used: int
    fee_wei: int


async def prepare_registry_call(rpc: JsonRpc, addresses: ContractAddresses, what: str, call: Call) -> PreparedCall:
    """Prepare a call that only the ModelRegistry's owner may make."""
    owner = Address(await ask(rpc, addresses.model_registry, model_registry.owner()))
    return PreparedCall(what, call, addresses.model_registry, owner)


async def prepare_epoch_call(rpc: JsonRpc, addresses: ContractAddresses, what: str, call: Call) -> PreparedCall:
    """Prepare a call that only the EpochManager's owner may make."""
    owner = Address(await ask(rpc, addresses.epoch_manager, epoch_manager.owner()))
    return PreparedCall(what, call, addresses.epoch_manager, owner)


async def prepare_vault_call(
    rpc: JsonRpc, addresses: ContractAddresses, what: str, call: Call, model_id: str
) -> PreparedCall:
    """Prepare a call that only the model's proposer may make."""
    access = await ask(rpc, addresses.model_registry, model_registry.access_of(model_id))
    return PreparedCall(what, call, addresses.access_vault, Address(access.proposer))


async def rehearse(rpc: JsonRpc, prepared: PreparedCall, sender: Address) -> int:
    """Return the gas that the call would use if `sender` sent it now. Raises RefusedError."""
    fields = {"from": sender, "to": prepared.recipient, "data": "0x" + prepared.call.calldata.hex()}
    try:
        return quantity(await rpc.call("eth_estimateGas", fields))
    except RpcError as error:
        raise _refused(error) from error


async def send(rpc: JsonRpc, account: LocalAccount, prepared: PreparedCall) -> Sent:
    """Send the call and wait until it is in a block. Raises DeploymentFailedError."""
    receipt = await send_transaction(rpc, account, prepared.what, prepared.recipient, data=prepared.call.calldata)
    gas_used = quantity(receipt["gasUsed"])
    return Sent(
        transaction_hash=receipt["transactionHash"],
        block=quantity(receipt["blockNumber"]),
        gas_used=gas_used,
        fee_wei=gas_used * quantity(receipt["effectiveGasPrice"]),
    )


async def ask(rpc: JsonRpc, recipient: Address, view: ViewCall[Result]) -> Result:
    """Ask a contract. Raises RefusedError where it refuses or its answer is malformed."""
    try:
        return await read_contract(rpc, recipient, view)
    except RpcError as error:
        raise _refused(error) from error
    except ValueError as error:
        raise RefusedError(f"{view.contract}.{view.function} at {recipient} answered what cannot be read") from error


async def read_models(rpc: JsonRpc, addresses: ContractAddresses) -> tuple[model_registry.ModelImport, ...]:
    """Return all models of the registry with all their versions, in the order of registration."""
    count = await ask(rpc, addresses.model_registry, model_registry.model_count())
    return tuple([await ask(rpc, addresses.model_registry, model_registry.export_model(i)) for i in range(count)])


async def read_history(rpc: JsonRpc, addresses: ContractAddresses, model_id: str) -> tuple[str, ...]:
    """Return the CID of every version of a model, the first one first."""
    model = await ask(rpc, addresses.model_registry, model_registry.get_model(model_id))
    versions = range(1, model.version + 1)
    return tuple([await ask(rpc, addresses.model_registry, model_registry.cid_at(model_id, v)) for v in versions])


async def token_decimals(rpc: JsonRpc, token: Address) -> int:
    """Return the decimals of any ERC-20 token. Raises RefusedError for what is none."""
    if len(hex_bytes(await rpc.call("eth_getCode", token, "latest"))) == 0:
        raise RefusedError(f"there is no contract at {token}: is it the token's address, on this chain?")
    decimals = await ask(rpc, token, quern_token.decimals())
    if decimals > TOKEN_DECIMALS_MAX:
        raise RefusedError(f"the token at {token} claims {decimals} decimals: it is no token to be paid in")
    return decimals


def explain(reason: RevertReason) -> str:  # noqa: PLR0912 - one case per refusal
    """Return what a refusal of these contracts means and what to do; its own words where no more is to be said."""
    match reason:
        case model_registry.ModelExists(model_id):
            return f"{model_id} is registered already. For another CID use `update`, for the rest `set-spec`"
        case model_registry.ModelUnknown(model_id):
            return f"there is no model {model_id!r} in this registry. `list` shows them all"
        case model_registry.ModelNotActive(model_id):
            return f"{model_id} is not active already; `update` with a CID makes it active again"
        case model_registry.InvalidModelId(model_id):
            return f"{model_id!r} cannot be a model id: 1 to 64 lower-case letters, digits, . _ - and / are taken"
        case model_registry.TextLength(field, length, most):
            return f"{field} has {length} bytes; 1 to {most} are taken (a description may be empty)"
        case model_registry.SpecOutOfRange(field):
            return f"{field} is out of range: lengths, throughput and units of compute are at least 1"
        case model_registry.TooManyModels(most):
            return f"the registry is full: {most} models"
        case model_registry.NotTheVersion(model_id, version, current):
            return f"{model_id} is at version {current}, the calibration is of version {version}: measure it anew"
        case model_registry.CalibrationTooLong(length, most):
            return f"a calibration of {length} bytes is not taken: at most {most} are"
        case model_registry.VersionUnknown(model_id, version):
            return f"{model_id} has no version {version}"
        case model_registry.OwnableUnauthorizedAccount(account):
            return f"{account} does not own the ModelRegistry"
        case epoch_manager.ChangeOutOfRange(from_epoch, soonest, latest):
            return f"a change can begin with epoch {soonest} to {latest}, not {from_epoch}: all must know of it before"
        case epoch_manager.ChangeIsNear(from_epoch):
            return f"a change begins with epoch {from_epoch} already; schedule the next one once it holds"
        case epoch_manager.EpochLength(blocks, least, most):
            return f"an epoch of {blocks} blocks is not taken: {least} to {most} are"
        case epoch_manager.StageOffsetsNotIncreasing():
            return "the stages' offsets must increase strictly, up to the epoch's length"
        case epoch_manager.PocSampleOutOfRange(size, mismatches):
            return f"{mismatches} mismatches of a sample of {size} are not taken: 1 to the sample, of 1024 at most"
        case access_vault.NotTheProposer(caller, proposer):
            return f"{caller} is not the model's proposer, {proposer} is. `set-spec --proposer` changes that"
        case access_vault.NoAccess(model_id, account):
            return f"{account} has no access to {model_id}: a key for it would be of no use. `gate give` gives access"
        case access_vault.WrappedKeyLength(length):
            return f"a wrapped key of {length} bytes is not taken: 1 to 256 are"
        case _:
            return str(reason)


def no_gate(gate: access_vault.Gate) -> bool:
    """Whether nothing opens this gate but the proposer's `give`."""
    return gate.gate_token == ZERO_ADDRESS and gate.offer.pay_token == ZERO_ADDRESS


def _refused(error: RpcError) -> RefusedError:
    data = error.revert_data
    try:
        contracts = (model_registry, access_vault, epoch_manager)
        reason = next((found for found in (contract.decode_error(data) for contract in contracts) if found), None)
    except ValueError:
        reason = None  # malformed: told as the endpoint told it
    return RefusedError(describe_revert(data, error.message) if reason is None else explain(reason))
