"""Deploys a network's contracts and writes deployment.json, or says that it is deployed already.

.venv/bin/python scripts/deploy.py --rpc URL --keystore FILE --plan plan.json --output deployment.json
"""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import httpx
import trio
from eth_utils.address import is_checksum_address

from node.amounts import tokens_to_amount
from node.chain.accounts import LocalAccount
from node.chain.adapter import WrongChainError, check_chain
from node.chain.addresses import Deployment, DeploymentFileError, read_deployment
from node.chain.deployment import DeploymentFailedError, NetworkPlan, Penalty, deploy_network
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError
from node.keys import KeyFileError, find_passphrase, unlock_keystore
from node.protocol.identifiers import Address, TokenAmount
from node.protocol.records import EpochParameters

AMOUNT_PARAMETERS = ("unit_price", "initial_subsidy")


class PlanError(Exception):
    """The plan file cannot be used; the message names the key."""


def read_plan(path: Path) -> NetworkPlan:
    """Read a plan file (JSON). Amounts of the token are decimal texts such as "12.5"; see docs/operators.md."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        weights = ((_account(account), int(weight)) for account, weight in record["genesis_group"].items())
        return NetworkPlan(
            token_cap=TokenAmount(tokens_to_amount(record["token_cap"])),
            token_supply=TokenAmount(tokens_to_amount(record["token_supply"])),
            treasury=_account(record["treasury"]),
            genesis_group=tuple(sorted(weights, key=lambda entry: entry[0].lower())),
            parameters=_read_parameters(record["parameters"]),
            unbonding_seconds=int(record["unbonding_seconds"]),
            unlock_seconds=int(record["unlock_seconds"]),
            min_collateral=TokenAmount(tokens_to_amount(record["min_collateral"])),
            vesting_seconds=int(record["vesting_seconds"]),
            answer_blocks=int(record["answer_blocks"]),
            dispute_blocks=int(record["dispute_blocks"]),
            verdict_blocks=int(record["verdict_blocks"]),
            fraud_penalty=_read_penalty(record["fraud_penalty"]),
            downtime_penalty=_read_penalty(record["downtime_penalty"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{path} is not a plan: {error!r}") from error


def _account(text: str) -> Address:
    """Refuse an address whose checksum is missing or wrong: tokens sent to a mistyped one are lost."""
    if not is_checksum_address(text):
        raise ValueError(f"{text} is not a checksummed address")
    return Address(text)


def _read_penalty(raw: dict[str, Any]) -> Penalty:
    return Penalty(per_mille=int(raw["per_mille"]), barred_seconds=int(raw["barred_seconds"]))


def _read_parameters(raw: dict[str, Any]) -> EpochParameters:
    wanted = {field.name for field in fields(EpochParameters)}
    if set(raw) != wanted:
        raise ValueError(f"parameters: missing {sorted(wanted - set(raw))}, unknown {sorted(set(raw) - wanted)}")
    values: dict[str, Any] = {}
    for name, value in raw.items():
        values[name] = tokens_to_amount(value) if name in AMOUNT_PARAMETERS else int(value)
    return EpochParameters(**values)


async def deploy(
    url: str, account: LocalAccount, plan: NetworkPlan, output: Path, known: Deployment | None
) -> Deployment:
    """Deploy unless `known`, the deployment of a run before, is on this chain."""
    async with httpx.AsyncClient() as client:
        rpc = JsonRpc([url], client)
        chain_id = await rpc.chain_id()
        if known is not None:
            await check_chain(rpc, chain_id, known)
            click.echo(f"Already deployed: {output}")
            return known
        return await deploy_network(rpc, account, plan, output, click.echo)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--rpc", required=True, help="JSON-RPC endpoint of the chain.")
@click.option("--keystore", required=True, type=click.Path(path_type=Path), help="Keystore v3 of the deployer.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="File with the passphrase (0600).")
@click.option("--plan", "plan_path", required=True, type=click.Path(path_type=Path), help="The network's plan.")
@click.option("--output", default="deployment.json", type=click.Path(path_type=Path), help="The file to write.")
def main(rpc: str, keystore: Path, passphrase_file: Path | None, plan_path: Path, output: Path) -> None:
    """Command line."""
    try:
        plan = read_plan(plan_path)
        known = read_deployment(output) if output.exists() else None
        passphrase = find_passphrase(passphrase_file, "QUERN_PASSPHRASE", _ask)
        account = LocalAccount(unlock_keystore(keystore, passphrase))
        deployment = trio.run(deploy, rpc, account, plan, output, known)
    except (
        PlanError,
        KeyFileError,
        WrongChainError,
        DeploymentFileError,
        DeploymentFailedError,
        RpcError,
        RpcUnavailableError,
    ) as error:
        click.echo(f"deploy: {error}", err=True)
        sys.exit(1)
    click.echo(f"EpochManager {deployment.addresses.epoch_manager}; written to {output}")


def _ask() -> str:
    return str(click.prompt("Passphrase", hide_input=True))


if __name__ == "__main__":
    main()
