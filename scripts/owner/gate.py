"""Commands for gates: who may use a gated model, by token, purchase or leave."""

import time

import click

from contracts.bindings import access_vault, model_registry
from node.amounts import decimal_to_units, units_to_decimal
from node.chain.owner_calls import (
    RefusedError,
    ask,
    no_gate,
    token_decimals,
)
from node.chain.rpc import JsonRpc
from node.dates import date_in_words
from node.protocol.actions import ZERO_ADDRESS
from node.protocol.identifiers import Address
from scripts.owner.options import ACCOUNT, Options, chain_options, sending_options
from scripts.owner.registry import change_vault, open_registry, show

SECONDS_PER_DAY = 86_400
FOR_EVER = 2**64 - 1
"""What the AccessVault takes for access that never ends."""


@click.group()
def gate() -> None:
    """Say who may use a gated model.

    Holders of a token, buyers, and whom its proposer lets in.
    """


@gate.command("show")
@click.argument("model_id")
@click.option("--account", type=ACCOUNT, help="Show what this account has as well.")
@chain_options
async def show_gate(options: Options, *, model_id: str, account: Address | None) -> None:
    """Show a gate, and an account's access."""
    async with open_registry(options) as registry:
        rpc, vault = registry.rpc, registry.addresses.access_vault
        access = await ask(rpc, registry.addresses.model_registry, model_registry.access_of(model_id))
        found = await ask(rpc, vault, access_vault.gate_of(model_id))
        facts: dict[str, object] = {"model_id": model_id, "gated": access.gated, "proposer": access.proposer}
        facts |= await _gate_facts(rpc, found)
        if account is not None:
            grant = await ask(rpc, vault, access_vault.grant_of(model_id, account))
            key = await ask(rpc, vault, access_vault.encryption_key_of(account))
            allowed = await ask(rpc, vault, access_vault.has_access(model_id, account))
            facts |= {
                "account": account,
                "has_access": allowed,
                "until": _until_in_words(grant.until),
                "revoked": grant.revoked,
                "encryption_key": "0x" + key.hex() if any(key) else "",
                "wrapped_key": "0x" + grant.wrapped_key.hex() if grant.wrapped_key else "",
            }
    show(options, facts)


async def _gate_facts(rpc: JsonRpc, found: access_vault.Gate) -> dict[str, object]:
    if no_gate(found):
        return {"gate": "none: only its proposer lets accounts in"}
    facts: dict[str, object] = {}
    if found.gate_token != ZERO_ADDRESS:
        decimals = await token_decimals(rpc, Address(found.gate_token))
        facts |= {"gate_token": found.gate_token, "min_balance": units_to_decimal(found.min_balance, decimals)}
    if found.offer.pay_token != ZERO_ADDRESS:
        decimals = await token_decimals(rpc, Address(found.offer.pay_token))
        lasts = f"{found.offer.access_seconds} s" if found.offer.access_seconds else "for ever"
        facts |= {
            "pay_token": found.offer.pay_token,
            "price": units_to_decimal(found.offer.price, decimals),
            "access_lasts": lasts,
        }
    return facts


def _until_in_words(until: int) -> str:
    if until == 0:
        return "never bought or given"
    if until == FOR_EVER:
        return "for ever"
    return date_in_words(until)


@gate.command("set")
@click.argument("model_id")
@click.option("--gate-token", type=ACCOUNT, help="Holders of this ERC-20 token have access ...")
@click.option("--min-balance", help="... if they hold so many of it (a decimal number of tokens).")
@click.option("--pay-token", type=ACCOUNT, help="Access is bought in this ERC-20 token ...")
@click.option("--price", help="... for so many of it; it goes whole to the proposer.")
@click.option("--access-days", type=click.IntRange(min=1), help="What a purchase lasts.  [default: for ever]")
@sending_options
async def set_gate(
    options: Options,
    *,
    model_id: str,
    gate_token: Address | None,
    min_balance: str | None,
    pay_token: Address | None,
    price: str | None,
    access_days: int | None,
) -> None:
    """Set a gate anew, whole.

    What is not given is off. What was bought stays bought.
    """
    if (gate_token is None) != (min_balance is None) or (pay_token is None) != (price is None):
        raise click.UsageError("--gate-token goes with --min-balance, --pay-token with --price")
    async with open_registry(options) as registry:
        new = access_vault.Gate(
            gate_token=gate_token or ZERO_ADDRESS,
            min_balance=await _units(registry.rpc, gate_token, min_balance),
            offer=access_vault.Offer(
                pay_token=pay_token or ZERO_ADDRESS,
                price=await _units(registry.rpc, pay_token, price),
                access_seconds=(access_days or 0) * SECONDS_PER_DAY,
            ),
        )
        access = await ask(registry.rpc, registry.addresses.model_registry, model_registry.access_of(model_id))
        if not access.gated:
            click.echo(f"{model_id} is not gated: everybody has access until `set-spec {model_id} --gated`", err=True)
        call = access_vault.set_gate(model_id, new)
        await change_vault(options, registry, f"set the gate of {model_id}", call, model_id)


async def _units(rpc: JsonRpc, token: Address | None, number: str | None) -> int:
    if token is None or number is None:
        return 0
    try:
        return decimal_to_units(number, await token_decimals(rpc, token))
    except ValueError as error:
        raise RefusedError(str(error)) from error


@gate.command("give")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@click.option("--days", type=click.IntRange(min=1), help="How long from now.  [default: for ever]")
@sending_options
async def give_access(options: Options, *, model_id: str, account: Address, days: int | None) -> None:
    """Let an account in.

    Or take back that it was shut out. It never shortens what the account has.
    """
    until = FOR_EVER if days is None else int(time.time()) + days * SECONDS_PER_DAY
    async with open_registry(options) as registry:
        call = access_vault.give_access(model_id, account, until)
        await change_vault(options, registry, f"give {account} access to {model_id}", call, model_id)


@gate.command("revoke")
@click.argument("model_id")
@click.argument("account", type=ACCOUNT)
@sending_options
async def revoke_access(options: Options, *, model_id: str, account: Address) -> None:
    """Shut an account out.

    In public; its wrapped key is forgotten. What it has read, it has.
    """
    async with open_registry(options) as registry:
        call = access_vault.revoke_access(model_id, account)
        await change_vault(options, registry, f"revoke {account}'s access to {model_id}", call, model_id)
