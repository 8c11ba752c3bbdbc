"""Where the network's contracts are: the contents of deployment.json."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from eth_utils.address import is_checksum_address

from contracts.bindings import (
    access_vault,
    address_book,
    ecdsa_quorum_verifier,
    epoch_manager,
    inference_coordinator,
    model_registry,
    participant_registry,
    payment_channels,
    quern_governor,
    quern_timelock,
    quern_token,
    reward_distributor,
    slashing,
    voting_quern,
)
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address, BlockNumber

DEPLOYMENT_BYTES_MAX = 1024 * 1024
"""A deployment file is a few kilobytes."""


class DeploymentFileError(Exception):
    """The deployment file is missing or damaged; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class ContractAddresses:
    """One address per contract."""

    token: Address
    model_registry: Address
    participant_registry: Address
    epoch_manager: Address
    reward_distributor: Address
    payment_channels: Address
    inference_coordinator: Address
    slashing: Address
    access_vault: Address
    quorum_verifier: Address
    address_book: Address
    timelock: Address
    """Owner of the registries where the token's holders govern; zero where an account does."""
    governor: Address
    """Takes proposals and votes; zero where an account governs."""
    voting_token: Address
    """The token as votes, wrapped one for one; zero where an account governs."""


def contract_names(addresses: ContractAddresses) -> dict[Address, str]:
    """Return which contract is at each address."""
    names = {
        addresses.token: quern_token.CONTRACT,
        addresses.model_registry: model_registry.CONTRACT,
        addresses.participant_registry: participant_registry.CONTRACT,
        addresses.epoch_manager: epoch_manager.CONTRACT,
        addresses.reward_distributor: reward_distributor.CONTRACT,
        addresses.payment_channels: payment_channels.CONTRACT,
        addresses.inference_coordinator: inference_coordinator.CONTRACT,
        addresses.slashing: slashing.CONTRACT,
        addresses.access_vault: access_vault.CONTRACT,
        addresses.quorum_verifier: ecdsa_quorum_verifier.CONTRACT,
        addresses.address_book: address_book.CONTRACT,
    }
    if addresses.timelock != ZERO_ADDRESS:
        names |= {
            addresses.timelock: quern_timelock.CONTRACT,
            addresses.governor: quern_governor.CONTRACT,
            addresses.voting_token: voting_quern.CONTRACT,
        }
    return names


def followed_contracts(addresses: ContractAddresses) -> dict[Address, str]:
    """Return the contracts whose events a daemon follows, by address."""
    followed = (
        addresses.model_registry,
        addresses.participant_registry,
        addresses.epoch_manager,
        addresses.reward_distributor,
        addresses.payment_channels,
        addresses.inference_coordinator,
        addresses.slashing,
    )
    names = contract_names(addresses)
    return {address: names[address] for address in followed}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A network on a chain."""

    chain_id: int
    genesis_hash: str
    """Hash of block 0 in hex: a chain of the same id with another past is another chain."""
    block: BlockNumber
    """Block of the first contract: nothing of the network happened before it."""
    addresses: ContractAddresses
    code_hashes: dict[str, str]
    """Keccak-256 of each contract's code, in hex, by field name of `addresses`."""

    def write(self, path: Path) -> None:
        """Write the file in one step: a reader never sees half of it."""
        staged = path.with_name(path.name + ".new")
        staged.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        staged.replace(path)


def read_deployment(path: Path) -> Deployment:
    """Read a deployment file. Raises DeploymentFileError."""
    try:
        if path.stat().st_size > DEPLOYMENT_BYTES_MAX:
            raise DeploymentFileError(f"{path} is too large to be a deployment file")
        record = json.loads(path.read_text(encoding="utf-8"))
        named = record["addresses"]
        addresses = {field.name: str(named[field.name]) for field in fields(ContractAddresses)}
        wrong = [name for name, address in addresses.items() if not is_checksum_address(address)]
        if wrong:
            raise DeploymentFileError(f"{path}: not a checksummed address: {', '.join(wrong)}")
        return Deployment(
            chain_id=int(record["chain_id"]),
            genesis_hash=str(record["genesis_hash"]),
            block=BlockNumber(int(record["block"])),
            addresses=ContractAddresses(**{name: Address(address) for name, address in addresses.items()}),
            code_hashes={str(name): str(value) for name, value in record["code_hashes"].items()},
        )
    except FileNotFoundError as error:
        raise DeploymentFileError(
            f"there is no deployment file at {path}: copy the network's deployment.json there, or run scripts/deploy.py"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeploymentFileError(f"{path} is not a deployment file: {error!r}") from error
