"""Deploys a network's contracts and writes deployment.json and the ABIs, or says that it is deployed already.

.venv/bin/python scripts/deploy.py --rpc URL --keystore FILE --plan plan.json --output deployment.json

A run that was broken off goes on where it was. With --genesis, the network begins with the models of a file that
`scripts/owner_tools.py export` wrote.
"""

import json
import sys
from pathlib import Path

import click
import httpx
import trio

import contracts
from node.chain.account_lock import AccountInUseError, exclusive_account
from node.chain.accounts import LocalAccount
from node.chain.adapter import WrongChainError, check_chain
from node.chain.addresses import Deployment, DeploymentFileError, read_deployment
from node.chain.deployer import DeploymentFailedError
from node.chain.deployment import NetworkPlan, deploy_network
from node.chain.genesis import GenesisFileError, read_genesis
from node.chain.plan import PlanError, cost_of_fraud, read_plan
from node.chain.rpc import JsonRpc, RpcError, RpcUnavailableError
from node.keys import KeyFileError, find_passphrase, unlock_keystore
from node.settings.locations import account_lock_dir

ABI_FOLDER = "abi"


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
        genesis = await rpc.block(0)
        genesis_hash = "" if genesis is None else genesis.hash.hex()
        with exclusive_account(account_lock_dir(), chain_id, genesis_hash, account.address):
            return await deploy_network(rpc, account, plan, output, click.echo)


def write_abis(folder: Path) -> None:
    """Write the ABI of every contract, for wallets, explorers and other programs."""
    folder.mkdir(exist_ok=True)
    for name in contracts.names():
        text = json.dumps(contracts.load(name).abi, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--rpc", required=True, help="JSON-RPC endpoint of the chain.")
@click.option("--keystore", required=True, type=click.Path(path_type=Path), help="Keystore v3 of the deployer.")
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="File with the passphrase (0600).")
@click.option("--plan", "plan_path", required=True, type=click.Path(path_type=Path), help="The network's plan.")
@click.option("--genesis", type=click.Path(path_type=Path), help="Models to begin with (`owner_tools.py export`).")
@click.option("--output", default="deployment.json", type=click.Path(path_type=Path), help="The file to write.")
def main(
    rpc: str, keystore: Path, passphrase_file: Path | None, plan_path: Path, genesis: Path | None, output: Path
) -> None:
    """Command line."""
    try:
        plan = read_plan(plan_path, () if genesis is None else read_genesis(genesis))
        click.echo(cost_of_fraud(plan))
        known = read_deployment(output) if output.exists() else None
        passphrase = find_passphrase(passphrase_file, "QUERN_PASSPHRASE", _ask)
        account = LocalAccount(unlock_keystore(keystore, passphrase))
        write_abis(output.parent / ABI_FOLDER)  # first: once there is a deployment file, nothing is missing
        deployment = trio.run(deploy, rpc, account, plan, output, known)
    except (
        PlanError,
        GenesisFileError,
        KeyFileError,
        WrongChainError,
        DeploymentFileError,
        DeploymentFailedError,
        AccountInUseError,
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
