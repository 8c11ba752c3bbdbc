"""Connects to the chain that has the registry, and rehearses, sends and tells a call of its owner."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import click
import httpx

from contracts.binding_base import Call
from node.amounts import amount_to_tokens
from node.chain.account_lock import exclusive_account
from node.chain.accounts import LocalAccount
from node.chain.adapter import check_chain
from node.chain.addresses import ContractAddresses, Deployment, read_deployment
from node.chain.owner_calls import (
    PreparedCall,
    Sent,
    prepare_registry_call,
    prepare_vault_call,
    rehearse,
    send,
)
from node.chain.rpc import JsonRpc
from node.cli.render import listed, print_facts
from node.keys import find_passphrase, keystore_account, unlock_keystore
from node.settings.locations import account_lock_dir
from scripts.owner.options import Options

EXIT_TO_BE_PROPOSED = 3


@dataclass(frozen=True, slots=True)
class Registry:
    """The chain, checked, and where the contracts stand."""

    rpc: JsonRpc
    deployment: Deployment

    @property
    def addresses(self) -> ContractAddresses:
        """Where the contracts stand."""
        return self.deployment.addresses


@asynccontextmanager
async def open_registry(options: Options) -> AsyncIterator[Registry]:
    """Connect, and check that the endpoint's chain has the deployment's contracts. Raises WrongChainError."""
    deployment = read_deployment(options.deployment)
    async with httpx.AsyncClient() as client:
        rpc = JsonRpc(list(options.rpc_urls), client)
        await check_chain(rpc, deployment.chain_id, deployment)
        yield Registry(rpc, deployment)


async def change_registry(options: Options, registry: Registry, what: str, call: Call) -> None:
    """Rehearse, send and tell a call that the registry's owner makes."""
    prepared = await prepare_registry_call(registry.rpc, registry.addresses, what, call)
    await carry_out(options, registry, prepared, "the ModelRegistry's owner")


async def change_vault(options: Options, registry: Registry, what: str, call: Call, model_id: str) -> None:
    """Rehearse, send and tell a call that the model's proposer makes."""
    prepared = await prepare_vault_call(registry.rpc, registry.addresses, what, call, model_id)
    await carry_out(options, registry, prepared, f"the proposer of {model_id}")


async def carry_out(options: Options, registry: Registry, prepared: PreparedCall, role: str) -> None:
    """Rehearse a call, then send it, show it, or show what is to be proposed."""
    gas = await rehearse(registry.rpc, prepared, prepared.entitled)
    sender = None if options.keystore is None else keystore_account(options.keystore)
    if sender is None and not options.dry_run:
        raise click.UsageError("give --keystore of the account that is to send, or --dry-run to see the transaction")
    if sender not in (None, prepared.entitled):
        _show_call(options, prepared, gas, "to be proposed")
        click.echo(
            f"Nothing was sent: {role} is {prepared.entitled}, not {sender}. Have that account send this transaction "
            "(a timelock: propose it to its Governor with this target and calldata).",
            err=True,
        )
        sys.exit(EXIT_TO_BE_PROPOSED)
    if options.dry_run or options.keystore is None:
        _show_call(options, prepared, gas, "dry run")
        return
    passphrase = find_passphrase(options.passphrase_file, options.passphrase_env, _ask_passphrase)
    account = LocalAccount(unlock_keystore(options.keystore, passphrase))
    deployment = registry.deployment
    with exclusive_account(account_lock_dir(), deployment.chain_id, deployment.genesis_hash, account.address):
        sent = await send(registry.rpc, account, prepared)
    _show_sent(options, prepared, sent)


def _show_call(options: Options, prepared: PreparedCall, gas: int, status: str) -> None:
    facts = {
        "status": status,
        "what": prepared.what,
        "from": prepared.entitled,
        "to": prepared.recipient,
        "function": f"{prepared.call.contract}.{prepared.call.function}",
        "value": prepared.call.value,
        "calldata": "0x" + prepared.call.calldata.hex(),
        "gas": gas,
    }
    show(options, facts)


def _show_sent(options: Options, prepared: PreparedCall, sent: Sent) -> None:
    if options.as_json:
        click.echo(json.dumps({"status": "done", "what": prepared.what, **asdict(sent)}, indent=2))
        return
    click.echo(
        f"Done: {prepared.what}, in transaction {sent.transaction_hash}, block {sent.block}. "
        f"It took {sent.gas_used} gas and cost {amount_to_tokens(sent.fee_wei)} gas coins."
    )


def show(options: Options, facts: Mapping[str, object]) -> None:
    """Print facts as JSON for programs, or as lines for people."""
    if options.as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    print_facts([(name.replace("_", " "), _in_words(value)) for name, value in facts.items()])


def _in_words(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple() | list():
            return listed(str(item) for item in value)
        case _:
            return str(value) or "–"


def _ask_passphrase() -> str:
    return str(click.prompt("Passphrase", hide_input=True, err=True))
